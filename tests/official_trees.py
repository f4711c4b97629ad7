"""Tiny datasets in the official layouts of Cityscapes and ADE20K, drawn for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation as Polygons
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from PIL import Image

Polygon = tuple[str, list[list[int]], bool]  # label, corners, deleted
InstanceBox = tuple[int, int, int, int, int]  # class 1 … 100, instance, x, y, side


def write_cityscapes_frame(
    root: Path, split: str, stem: str, objects: Iterable[Polygon], size: tuple[int, int]
) -> str:
    """An image, its polygons and the official tools' image of ids.

    `stem` is `<city>_<sequence>_<frame>`; it is returned.
    """
    height, width = size
    city = stem.split("_")[0]
    for part in ("leftImg8bit", "gtFine"):
        (root / part / split / city).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(stem.encode())).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
    truth = root / "gtFine" / split / city
    content = {
        "imgHeight": height,
        "imgWidth": width,
        "objects": [
            {"label": label, "polygon": corners} | ({"deleted": 1} if deleted else {})
            for label, corners, deleted in objects
        ],
    }
    (truth / f"{stem}_gtFine_polygons.json").write_text(json.dumps(content))
    polygons = Polygons()
    polygons.fromJsonFile(str(truth / f"{stem}_gtFine_polygons.json"))
    ids = np.asarray(createInstanceImage(polygons, "ids")).astype(np.uint16)
    Image.fromarray(ids).save(truth / f"{stem}_gtFine_instanceIds.png")
    return stem


def write_ade20k_image(
    root: Path, split: str, name: str, boxes: Sequence[InstanceBox], size: tuple[int, int]
) -> Path:
    """An image and its labels; returns the label file."""
    height, width = size
    for part in ("images", "annotations_instance"):
        (root / part / split).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(name.encode())).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "images" / split / f"{name}.jpg")
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for label, number, x, y, side in boxes:
        pixels[y : y + side, x : x + side] = (label, number, 0)
    path = root / "annotations_instance" / split / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return path
