"""Stage prepare: a dataset as train.json and validation.json, drawn or from the user's files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cast.artefacts import artefact_folder
from cast.config import CocoFolder, Data, Settings, SyntheticScenes
from cast.config_files import parse
from cast.data import cells, streets
from cast.data.ade20k import ade20k_splits
from cast.data.cityscapes import cityscapes_splits
from cast.data.coco import (
    Annotation,
    CocoData,
    ImageRecord,
    check_images,
    new_annotation,
    read_coco,
    write_coco,
)
from cast.data.official import OfficialSplit, read_splits
from cast.data.splits import appearance_groups, choose
from cast.errors import CastError

SCENES = {"streets": streets, "cells": cells}
SPLITS = ("train", "validation")
OFFICIAL = {"cityscapes": cityscapes_splits, "ade20k": ade20k_splits}  # what lies in their folders


class PrepareRun(Settings):
    """Settings of the stage."""

    data: Data


def run(settings: dict[str, Any], data_root: Path | None, out: Path) -> None:
    """Write `out`/train.json and `out`/validation.json.

    Args:
        settings: a `data` section (any of `cast.config.Data`).
        data_root: folder of the user's dataset; drawn scenes need none.
        out: folder to make; drawn scenes put their images into `out`/images, the user's stay where they are.

    Raises:
        CastError: the user's files are missing or wrong.
    """
    data = parse(PrepareRun, {"data": settings}).data
    if isinstance(data, SyntheticScenes):
        with artefact_folder(out, "prepare", settings, []) as folder:
            draw(data, folder)
        return
    root = _existing(data_root)
    if not isinstance(data, CocoFolder):
        splits = OFFICIAL[data.format](root)
        for split in splits:
            _forewarn(split)
        with artefact_folder(out, "prepare", settings, []) as folder:
            for name, part in zip(SPLITS, read_splits(splits), strict=True):
                _write(folder / f"{name}.json", part)
        return
    files = [root / name for name in (data.annotations, data.validation_annotations) if name is not None]
    with artefact_folder(out, "prepare", settings, files) as folder:
        adopt(data, root, folder)


# --- drawn scenes -------------------------------------------------------------------------------------------


def draw(data: SyntheticScenes, folder: Path) -> None:
    """Draw the scenes of both splits; scene i is the same however many are drawn."""
    scenes = SCENES[data.format]
    categories = [{"id": number, "name": name} for number, name in enumerate(scenes.CLASS_NAMES, start=1)]
    images = folder / "images"
    images.mkdir()
    for number, split in enumerate(SPLITS):
        count = data.train_images if split == "train" else data.validation_images
        records: list[ImageRecord] = []
        annotations: list[Annotation] = []
        for index in range(count):
            # The domain is part of the seed: source and target never share a layout.
            domain_number = ("source", "target").index(data.domain)
            generator = np.random.default_rng([data.seed, domain_number, number, index])
            pixels, masks, labels = scenes.draw_scene(generator, data.domain, data.image_size)
            name = f"{split}_{index:05d}.png"
            Image.fromarray(pixels).save(images / name, compress_level=1)
            records.append(ImageRecord(index + 1, name, pixels.shape[1], pixels.shape[0]))
            for mask, label in zip(masks, labels, strict=True):
                annotations.append(new_annotation(len(annotations) + 1, index + 1, label, mask))
        info = {"description": f"{data.format}, {data.domain} domain, {split}: drawn, not photographed"}
        write_coco(folder / f"{split}.json", records, annotations, categories, images, info)


# --- the user's dataset -------------------------------------------------------------------------------------


def adopt(data: CocoFolder, root: Path, folder: Path) -> None:
    """Check the user's dataset and write its training and validation parts; ids survive, images stay."""
    whole = read_coco(root / data.annotations, root / data.images)
    check_images(whole)
    if data.validation_annotations is None:
        train, validation = _split_off(whole, data)
    else:
        train, validation = whole, _separate(whole, data, root)
    if not any(not annotation.is_crowd for annotation in train.annotations):
        raise CastError(f"{whole.path}: the training images hold no instance; annotate some")
    for name, part in zip(SPLITS, (train, validation), strict=True):
        _write(folder / f"{name}.json", part)


def _forewarn(split: OfficialSplit) -> None:
    """Say what can be seen before the images are decoded, which takes minutes."""
    found = len(split.labels)
    if 0 < found < split.published:
        print(
            f"warning: {split.folder}: {found} images of the {split.published} published; "
            "results will not compare with those of the whole data set",
            file=sys.stderr,
            flush=True,
        )
    if split.problems:
        print(
            f"warning: {split.folder}: {len(split.problems)} problems already, first: {split.problems[0]}; "
            "looking for more",
            file=sys.stderr,
            flush=True,
        )


def _write(path: Path, part: CocoData) -> None:
    """Write one part, with a note of where it comes from."""
    info = {**part.info, "annotations": str(part.path)}
    write_coco(path, part.images, part.annotations, part.categories, part.image_root, info)


def _split_off(whole: CocoData, data: CocoFolder) -> tuple[CocoData, CocoData]:
    """Training and validation images of one file."""
    ids = [image.id for image in whole.images]
    if data.validation_images >= len(ids):
        raise CastError(
            f"data.validation_images: {data.validation_images} leaves no training image; "
            f"{whole.path} has {len(ids)} images in all"
        )
    groups = appearance_groups(whole.images, whole.image_root) if data.stratify == "appearance" else None
    held_out = choose(ids, data.validation_images, data.seed, groups)
    return whole.subset(set(ids) - held_out), whole.subset(held_out)


def _separate(train: CocoData, data: CocoFolder, root: Path) -> CocoData:
    """The validation file, once it is sure that it fits the training file."""
    assert data.validation_annotations is not None
    if data.validation_images:
        raise CastError(
            "data.validation_images: set it to 0 when data.validation_annotations names the validation images"
        )
    validation = read_coco(root / data.validation_annotations, root / data.images)
    check_images(validation)
    if (validation.category_ids, validation.class_names) != (train.category_ids, train.class_names):
        raise CastError(
            f"{validation.path}: its categories are not those of {train.path}; make them the same"
        )
    shared = {image.file_name for image in validation.images} & {image.file_name for image in train.images}
    if shared:
        raise CastError(
            f"{validation.path}: {len(shared)} images are in {train.path} too ({min(shared)}); "
            "remove them from one of the two"
        )
    return validation


def _existing(data_root: Path | None) -> Path:
    if data_root is None:
        raise CastError("data_root: not set; give the folder of the dataset")
    if not data_root.is_dir():
        raise CastError(f"{data_root}: data_root is not a folder; give the folder of the dataset")
    return data_root
