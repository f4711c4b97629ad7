"""ADE20K in its official layout, drawn here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cast.data.ade20k import categories, read_ade20k
from cast.data.coco import check_images, decode, read_coco
from cast.errors import CastError
from cast.stages import prepare

HEIGHT, WIDTH = 30, 40


def write_image(root: Path, name: str, boxes=(), split: str = "training") -> Path:
    """An image and its labels: boxes (class 1 … 100, instance, x, y, side); returns the label file."""
    for part in ("images", "annotations_instance"):
        (root / part / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), 90).save(root / "images" / split / f"{name}.jpg")
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for label, number, x, y, side in boxes:
        pixels[y : y + side, x : x + side] = (label, number, 0)
    path = root / "annotations_instance" / split / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image(tmp_path, "ADE_train_00000002", [(4, 1, 0, 0, 10), (4, 2, 10, 0, 10), (100, 7, 20, 20, 5)])
    write_image(tmp_path, "ADE_train_00000010")
    return tmp_path


def test_categories_are_the_public_ones():
    known = {entry["name"]: entry["id"] for entry in categories()}
    assert len(known) == len(set(known.values())) == 100
    assert [entry["name"] for entry in categories()][:4] == ["bed", "windowpane", "cabinet", "person"]
    assert (known["bed"], known["person"], known["car"], known["flag"]) == (7, 12, 20, 149)
    assert list(known.values()) == sorted(known.values())


def test_instances(root):
    data = read_ade20k(root, "training")
    check_images(data)
    assert [image.file_name for image in data.images] == ["ADE_train_00000002.jpg", "ADE_train_00000010.jpg"]
    first, second, third = data.annotations_of(1)
    assert [data.class_names[item.label] for item in (first, second, third)] == ["person", "person", "flag"]
    assert [item.area for item in (first, second, third)] == [100, 100, 25]
    assert decode(second.rle)[:10, 10:20].all()
    assert data.annotations_of(2) == []
    assert [item.id for item in data.annotations] == [1, 2, 3]


def test_prepare_takes_the_official_folders(root, tmp_path):
    write_image(root, "ADE_val_00000001", [(1, 1, 0, 0, 10)], "validation")
    prepare.run({"format": "ade20k"}, root, tmp_path / "data")
    assert len(read_coco(tmp_path / "data" / "train.json").annotations) == 3
    validation = read_coco(tmp_path / "data" / "validation.json")
    assert [validation.class_names[item.label] for item in validation.annotations] == ["bed"]
    assert validation.category_ids == [entry["id"] for entry in categories()]


def test_all_problems_are_named_at_once(root):
    write_image(root, "ADE_train_00000011").unlink()
    torn = write_image(root, "ADE_train_00000012", [(4, 1, 0, 0, 10), (5, 1, 20, 0, 10)])
    small = write_image(root, "ADE_train_00000013")
    Image.new("RGB", (WIDTH, HEIGHT - 1)).save(small)
    semantic = write_image(root, "ADE_train_00000014")
    Image.new("L", (WIDTH, HEIGHT)).save(semantic)
    beyond = write_image(root, "ADE_train_00000015", [(101, 1, 0, 0, 10)])
    with pytest.raises(CastError) as error:
        read_ade20k(root, "training")
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert "00000011.png: is missing" in lines[0]
    assert f"{torn}: instance 1 has the classes [4, 5]" in lines[1]
    assert f"{small}: is of 40 × 29 pixels, its image of 40 × 30" in lines[2]
    assert f"{semantic}: is no RGB image" in lines[3]
    assert f"{beyond}: instance 1 has the classes [101]" in lines[4]


def test_a_missing_folder_says_what_to_unpack(tmp_path):
    with pytest.raises(CastError, match="validation: is missing; unpack ADE20K's images"):
        read_ade20k(tmp_path, "validation")
