"""Stages prepare and split, from settings to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cast.data.coco import check_images, encode, load_image, read_coco
from cast.errors import CastError
from cast.stages import prepare, split

STREETS = {
    "format": "streets",
    "domain": "target",
    "image_size": [48, 64],
    "train_images": 6,
    "validation_images": 2,
}
COCO = {"format": "coco", "validation_images": 2}


def user_dataset(root: Path, count: int = 8, name: str = "instances.json", first: int = 100) -> None:
    """Images with ids of their own; every second one is bright, and each holds one instance."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:7] = True
    images, annotations = [], []
    for index in range(first, first + count):
        Image.new("L", (12, 10), 230 if index % 2 else 20).save(root / "images" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 12, "height": 10})
        annotations.append(
            {"id": 7 * index, "image_id": index, "category_id": 4, "segmentation": encode(mask), "iscrowd": 0}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "nucleus"}]}
    (root / name).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["streets", "cells"])
def test_drawn_datasets_are_complete(tmp_path: Path, kind: str) -> None:
    prepare.run({**STREETS, "format": kind}, None, tmp_path / "data")
    for name, count in (("train", 6), ("validation", 2)):
        data = read_coco(tmp_path / "data" / f"{name}.json")
        assert [image.file_name for image in data.images] == [
            f"{name}_{index:05d}.png" for index in range(count)
        ]
        check_images(data)
        assert load_image(data.image_root, data.images[0]).shape == (48, 64, 3)
        assert data.class_names == list(prepare.SCENES[kind].CLASS_NAMES)
    assert (tmp_path / "data" / "manifest.json").is_file()


def test_scenes_do_not_depend_on_how_many_are_drawn_but_on_split_and_domain(tmp_path: Path) -> None:
    prepare.run(STREETS, None, tmp_path / "few")
    prepare.run({**STREETS, "train_images": 9, "validation_images": 3}, None, tmp_path / "many")
    prepare.run({**STREETS, "seed": 1}, None, tmp_path / "other")
    few, many, other = ((tmp_path / name / "images") for name in ("few", "many", "other"))
    for file in few.iterdir():
        assert file.read_bytes() == (many / file.name).read_bytes()
        assert file.read_bytes() != (other / file.name).read_bytes()
    assert (few / "train_00000.png").read_bytes() != (few / "validation_00000.png").read_bytes()


def test_the_users_dataset_keeps_ids_and_images(tmp_path: Path) -> None:
    user_dataset(tmp_path / "user")
    prepare.run(COCO, tmp_path / "user", tmp_path / "out" / "data")
    train, validation = (
        read_coco(tmp_path / "out" / "data" / f"{name}.json") for name in ("train", "validation")
    )
    ids = [[image.id for image in part.images] for part in (train, validation)]
    assert sorted(ids[0] + ids[1]) == list(range(100, 108))
    assert len(ids[1]) == 2
    assert train.category_ids == [4]
    assert all(annotation.id == 7 * annotation.image_id for annotation in train.annotations)
    assert train.image_root == (tmp_path / "user" / "images").resolve()
    assert not list((tmp_path / "out").rglob("*.png"))


def test_validation_images_are_stratified_by_appearance(tmp_path: Path) -> None:
    user_dataset(tmp_path / "user", 20)
    for seed in range(3):
        settings = {**COCO, "validation_images": 4, "stratify": "appearance", "seed": seed}
        prepare.run(settings, tmp_path / "user", tmp_path / "data")
        validation = read_coco(tmp_path / "data" / "validation.json")
        assert sum(image.id % 2 for image in validation.images) == 2


def test_separate_validation_file(tmp_path: Path) -> None:
    user_dataset(tmp_path / "user")
    user_dataset(tmp_path / "user", 3, "val.json", first=200)
    settings: dict[str, Any] = {"format": "coco", "validation_annotations": "val.json"}
    prepare.run(settings, tmp_path / "user", tmp_path / "data")
    assert len(read_coco(tmp_path / "data" / "train.json").images) == 8
    assert [image.id for image in read_coco(tmp_path / "data" / "validation.json").images] == [200, 201, 202]
    with pytest.raises(CastError, match="validation_images"):
        prepare.run({**settings, "validation_images": 1}, tmp_path / "user", tmp_path / "data")
    user_dataset(tmp_path / "user", 3, "val.json", first=107)
    with pytest.raises(CastError, match=r"val.json: 1 images are in .*107.png"):
        prepare.run(settings, tmp_path / "user", tmp_path / "data")
    user_dataset(tmp_path / "user", 3, "val.json", first=200)
    other = (tmp_path / "user" / "val.json").read_text().replace('"nucleus"', '"cell"')
    (tmp_path / "user" / "val.json").write_text(other)
    with pytest.raises(CastError, match="categories are not those"):
        prepare.run(settings, tmp_path / "user", tmp_path / "data")


def test_the_users_mistakes_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CastError, match="data_root"):
        prepare.run(COCO, None, tmp_path / "data")
    with pytest.raises(CastError, match="data_root is not a folder"):
        prepare.run(COCO, tmp_path / "none", tmp_path / "data")
    (tmp_path / "user").mkdir()
    with pytest.raises(CastError, match=r"instances\.json"):
        prepare.run(COCO, tmp_path / "user", tmp_path / "data")
    user_dataset(tmp_path / "user")
    with pytest.raises(CastError, match="leaves no training image"):
        prepare.run({**COCO, "validation_images": 8}, tmp_path / "user", tmp_path / "data")
    (tmp_path / "user" / "images" / "103.png").unlink()
    with pytest.raises(CastError, match=r"1 of 8 images are missing.*103.png"):
        prepare.run(COCO, tmp_path / "user", tmp_path / "data")
    with pytest.raises(CastError, match="settings"):
        prepare.run({**COCO, "colour": 1}, tmp_path / "user", tmp_path / "data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["user"]


def test_split_hides_labels_and_keeps_the_truth(tmp_path: Path) -> None:
    user_dataset(tmp_path / "user", 22)
    prepare.run(COCO, tmp_path / "user", tmp_path / "data")
    split.run(
        {"labelled_fraction": 0.2, "stratify": "appearance"},
        tmp_path / "data",
        3,
        tmp_path / "seed3" / "split",
    )
    parts = {
        name: read_coco(tmp_path / "seed3" / "split" / f"{name}.json")
        for name in ("labelled", "unlabelled", "hidden")
    }
    train = read_coco(tmp_path / "data" / "train.json")
    assert len(parts["labelled"].images) == 4
    assert sum(image.id % 2 for image in parts["labelled"].images) == 2
    assert parts["hidden"].images == parts["unlabelled"].images
    assert parts["unlabelled"].annotations == []
    both = parts["labelled"].annotations + parts["hidden"].annotations
    assert sorted(both, key=lambda item: item.id) == sorted(train.annotations, key=lambda item: item.id)
    for part in parts.values():
        check_images(part)


def test_split_needs_a_dataset_and_labelled_instances(tmp_path: Path) -> None:
    with pytest.raises(CastError, match="data"):
        split.run({"labelled_fraction": 0.5}, tmp_path / "data", 0, tmp_path / "split")
    prepare.run(STREETS, None, tmp_path / "data")
    with pytest.raises(CastError, match="labelled_fraction"):
        split.run({"labelled_fraction": 0.05}, tmp_path / "data", 0, tmp_path / "split")
    content = json.loads((tmp_path / "data" / "train.json").read_text())
    (tmp_path / "data" / "train.json").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(CastError, match="hold no instance"):
        split.run({"labelled_fraction": 0.5}, tmp_path / "data", 0, tmp_path / "split")
    assert not (tmp_path / "split").exists()
