"""Cityscapes in its official layout, drawn here: our instances against the dataset's own tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.instances2dict import instances2dict
from official_trees import write_cityscapes_frame
from PIL import Image

from cast.data.cityscapes import CATEGORIES, cityscapes_splits
from cast.data.coco import CocoData, check_images, decode, read_coco
from cast.data.official import read_splits
from cast.errors import CastError
from cast.stages import prepare, split

HEIGHT, WIDTH = 64, 128
# Later polygons hide earlier ones; some stick out of the image, one is deleted, one is hidden wholly.
OBJECTS = [
    ("road", [[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], False),
    ("car", [[10, 10], [40, 10], [40, 30], [10, 30]], False),
    ("car", [[30, 15], [60, 15], [60, 35], [30, 35]], False),
    ("person", [[70, 5], [80, 5], [80, 40], [70, 40]], False),
    ("rider", [[2, 40], [8, 40], [8, 50], [2, 50]], True),
    ("cargroup", [[90, 10], [140, 10], [140, 30], [90, 30]], False),
    ("caravan", [[5, 50], [25, 50], [25, 60], [5, 60]], False),
    ("bicycle", [[50, 45], [52, 45], [52, 47], [50, 47]], False),
    ("truck", [[48, 43], [66, 43], [66, 60], [48, 60]], False),
    ("license plate", [[35, 20], [38, 20], [38, 22], [35, 22]], False),
    ("out of roi", [[0, 0], [WIDTH, 0], [WIDTH, 3], [0, 3]], False),
    ("rectification border", [[124, 0], [WIDTH, 0], [WIDTH, HEIGHT], [124, HEIGHT]], False),
]


def write_frame(root: Path, split: str, city: str, frame: int, objects=OBJECTS) -> str:
    return write_cityscapes_frame(root, split, f"{city}_{frame:06d}_000019", objects, (HEIGHT, WIDTH))


def read_train(root: Path) -> CocoData:
    (data,) = read_splits(cityscapes_splits(root, ["train"]))
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_frame(tmp_path, "train", "aachen", 1)
    write_frame(tmp_path, "train", "zurich", 2, OBJECTS[:4])
    write_frame(tmp_path, "train", "zurich", 3, OBJECTS[:1])  # no instance at all
    return tmp_path


def test_instances_are_those_of_the_official_tools(root):
    data = read_train(root)
    names = [label["name"] for label in CATEGORIES]
    assert names == ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    for image in data.images:
        truth = root / "gtFine" / "train" / image.file_name.replace("_leftImg8bit", "_gtFine_instanceIds")
        ids = np.asarray(Image.open(truth))
        (official,) = instances2dict([str(truth)]).values()
        expected = {
            (name, entry["instID"] < 1000, entry["pixelCount"]) for name in names for entry in official[name]
        }
        items = data.annotations_of(image.id)
        assert {(names[item.label], item.is_crowd, int(item.area)) for item in items} == expected
        for item in items:
            mask = decode(item.rle)
            (value,) = np.unique(ids[mask])
            assert (mask == (ids == value)).all()
            assert data.category_ids[item.label] == (value if item.is_crowd else value // 1000)


def test_what_is_hidden_deleted_or_ignored_is_no_instance(root):
    data = read_train(root)
    found = sorted((data.class_names[item.label], item.is_crowd) for item in data.annotations_of(1))
    assert found == [("car", False), ("car", False), ("car", True), ("person", False), ("truck", False)]
    assert data.annotations_of(3) == []
    group = next(item for item in data.annotations_of(1) if item.is_crowd)
    assert group.area == (124 - 90) * 21  # cut by the rectification border; PIL fills both ends
    assert [image.file_name.split("/")[0] for image in data.images] == ["aachen", "zurich", "zurich"]


def test_prepare_and_split_take_the_official_folders(root, tmp_path):
    write_frame(root, "val", "munster", 9)
    prepare.run({"format": "cityscapes"}, root, tmp_path / "data")
    validation = read_coco(tmp_path / "data" / "validation.json")
    assert [image.file_name for image in validation.images] == [
        "munster/munster_000009_000019_leftImg8bit.png"
    ]
    check_images(validation)
    listed = tmp_path / "half.txt"
    listed.write_text("aachen_000001_000019\n")
    split.run({"labelled_list": str(listed)}, tmp_path / "data", 0, tmp_path / "split")
    labelled = read_coco(tmp_path / "split" / "labelled.json")
    assert [image.file_name[:6] for image in labelled.images] == ["aachen"]
    assert len(labelled.annotations) == 5


def test_polygons_serve_where_the_ids_are_missing(root):
    expected = read_train(root)
    for path in root.glob("gtFine/*/*/*_instanceIds.png"):
        path.unlink()
    assert read_train(root).by_image == expected.by_image


def test_problems_of_both_splits_are_named_at_once(root, tmp_path):
    """In train cities and labels are not there, a label is alone, an image torn; val is missing wholly."""
    ids = sorted(root.glob("gtFine/train/*/*_instanceIds.png"))
    for path in ids[:2]:
        path.unlink()
        path.with_name(path.name.replace("instanceIds.png", "polygons.json")).unlink()
    (root / "gtFine/train/ulm").mkdir()
    (root / "leftImg8bit/train/bochum").mkdir()
    alone = write_frame(root, "train", "zurich", 4)
    (root / f"leftImg8bit/train/zurich/{alone}_leftImg8bit.png").unlink()
    torn = root / f"leftImg8bit/train/zurich/{write_frame(root, 'train', 'zurich', 5)}_leftImg8bit.png"
    torn.write_bytes(torn.read_bytes()[:4000])
    with pytest.raises(CastError) as error:
        prepare.run({"format": "cityscapes"}, root, tmp_path / "data")
    head, *lines = str(error.value).splitlines()
    assert head.startswith("8 problems in the data set")
    expected = [
        "leftImg8bit/train/ulm: is missing",
        "gtFine/train/bochum: is missing",
        "aachen_000001_000019_leftImg8bit.png: has no label file",
        "zurich_000002_000019_leftImg8bit.png: has no label file",
        f"{alone}_gtFine_instanceIds.png: has no image",
        "leftImg8bit/val: is missing; unpack leftImg8bit_trainvaltest.zip",
        "gtFine/val: is missing; unpack gtFine_trainvaltest.zip",
        f"{torn}: cannot be read as an image (image file is truncated",
    ]
    assert [part in line for part, line in zip(expected, lines, strict=True)] == [True] * 8
    assert not (tmp_path / "data").exists()


def test_ten_problems_are_listed_and_the_rest_counted(root):
    for frame in range(10, 23):
        path = (
            root / f"leftImg8bit/train/zurich/{write_frame(root, 'train', 'zurich', frame)}_leftImg8bit.png"
        )
        path.write_bytes(b"no png")
    with pytest.raises(CastError) as error:
        read_train(root)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("13 problems")
    assert len(lines) == 12
    assert lines[-1] == "… and 3 more"


def test_a_part_of_the_images_is_a_warning_that_names_both_numbers(root, tmp_path, capsys):
    write_frame(root, "val", "munster", 9)
    prepare.run({"format": "cityscapes"}, root, tmp_path / "data")
    printed = capsys.readouterr()
    warnings = printed.err.splitlines()
    assert len(warnings) == 2
    assert "leftImg8bit/train: 3 images of the 2975 published" in warnings[0]
    assert "leftImg8bit/val: 1 images of the 500 published" in warnings[1]
    assert "check: image 4/4 (100 %)" in printed.out


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda ids: Image.new("I;16", (WIDTH, HEIGHT - 1)).save(ids),
            "is of 128 × 63 pixels, its image of 128 × 64",
        ),
        (lambda ids: ids.write_bytes(b"no png"), "cannot be read"),
        (lambda ids: ids.write_bytes(ids.read_bytes()[:-80]), "cannot be read"),
        (lambda ids: Image.new("RGB", (WIDTH, HEIGHT)).save(ids), "cannot be read .it has colours"),
        (lambda ids: Image.new("I;16", (WIDTH, HEIGHT), 34).save(ids), r"holds the ids \[34\]"),
        (lambda ids: Image.new("I;16", (WIDTH, HEIGHT), 7001).save(ids), r"holds the ids \[7001\]"),
    ],
)
def test_an_unfit_label_file_is_named(root, spoil, message):
    ids = sorted(root.glob("gtFine/train/*/*_instanceIds.png"))[1]
    spoil(ids)
    with pytest.raises(CastError, match=message) as error:
        read_train(root)
    assert str(ids) in str(error.value)


def test_an_unknown_label_in_the_polygons_is_an_error(root, capsys):
    path = next(root.glob("gtFine/train/aachen/*_polygons.json"))
    path.with_name(path.name.replace("polygons.json", "instanceIds.png")).unlink()
    path.write_text(path.read_text().replace('"truck"', '"spaceship"'))
    with pytest.raises(CastError, match=r"polygons\.json: cannot be read \(unknown label\)"):
        read_train(root)
    assert all(line.startswith("check: ") for line in capsys.readouterr().out.splitlines())
