"""ADE20K in its official layout, drawn here."""

from __future__ import annotations

from pathlib import Path

import pytest
from official_trees import write_ade20k_image
from PIL import ExifTags, Image

from cast.data.ade20k import ade20k_splits, categories
from cast.data.coco import CocoData, check_images, decode, read_coco
from cast.data.official import read_splits
from cast.errors import CastError
from cast.stages import prepare

HEIGHT, WIDTH = 30, 40


def write_image(root: Path, name: str, boxes=(), split: str = "training") -> Path:
    return write_ade20k_image(root, split, name, boxes, (HEIGHT, WIDTH))


def read_training(root: Path) -> CocoData:
    (data,) = read_splits(ade20k_splits(root, ["training"]))
    return data


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
    data = read_training(root)
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


def test_problems_of_both_splits_are_named_at_once(root, tmp_path):
    write_image(root, "ADE_train_00000011").unlink()
    torn = write_image(root, "ADE_train_00000012", [(4, 1, 0, 0, 10), (5, 1, 20, 0, 10)])
    small = write_image(root, "ADE_train_00000013")
    Image.new("RGB", (WIDTH, HEIGHT - 1)).save(small)
    semantic = write_image(root, "ADE_train_00000014")
    Image.new("L", (WIDTH, HEIGHT)).save(semantic)
    beyond = write_image(root, "ADE_train_00000015", [(101, 1, 0, 0, 10)])
    cut = root / "images/training/ADE_train_00000010.jpg"
    cut.write_bytes(cut.read_bytes()[:-30])
    alone = write_image(root, "ADE_val_00000001", split="validation")
    write_image(root, "ADE_val_00000002", split="validation")
    (root / "images/validation/ADE_val_00000001.jpg").unlink()
    with pytest.raises(CastError) as error:
        prepare.run({"format": "ade20k"}, root, tmp_path / "data")
    head, *lines = str(error.value).splitlines()
    assert head.startswith("7 problems in the data set")
    assert "00000011.jpg: has no label file" in lines[0]
    assert f"{alone}: has no image" in lines[1]
    assert f"{cut}: cannot be read as an image (image file is truncated" in lines[2]
    assert f"{torn}: instance 1 has the classes [4, 5]" in lines[3]
    assert f"{small}: is of 40 × 29 pixels, its image of 40 × 30" in lines[4]
    assert f"{semantic}: is no RGB image" in lines[5]
    assert f"{beyond}: instance 1 has the classes [101]" in lines[6]


def test_labels_are_compared_with_the_upright_image(root):
    """Training reads images upright: labels of a rotated image's raw pixels would not lie on its objects."""
    path = root / "images/training/ADE_train_00000010.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (WIDTH, HEIGHT), 90).save(path, exif=exif)
    with pytest.raises(CastError, match="is of 40 × 30 pixels, its image of 30 × 40"):
        read_training(root)


def test_empty_and_missing_folders_say_what_to_unpack(root, tmp_path):
    for path in (root / "images/training").iterdir():
        path.unlink()
    with pytest.raises(CastError) as error:
        prepare.run({"format": "ade20k"}, root, tmp_path / "data")
    _, *lines = str(error.value).splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "holds no image (*.jpg); unpack it again",
        f"is missing; unpack ADE20K's images into {root}",
        f"is missing; unpack ADE20K's annotations_instance into {root}",
    ]
