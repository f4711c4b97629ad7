"""The COCO reader and writer, and the reading of image files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cast.config import Reading
from cast.data.coco import (
    ImageRecord,
    check_images,
    decode,
    encode,
    load_image,
    new_annotation,
    read_coco,
    read_image,
    write_coco,
)
from cast.data.rle import from_segmentation
from cast.errors import CastError

HEIGHT, WIDTH = 20, 30
STRETCH = Reading(stretch_contrast=True)
SQUARE = [[4, 2, 10, 2, 10, 8, 4, 8]]


def square_mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[2:8, 4:10] = True
    return mask


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Runs counted one by one, down the columns, starting with zeros."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def dataset(**changes: Any) -> dict[str, Any]:
    annotation = {
        "id": 70,
        "image_id": 5,
        "category_id": 33,
        "segmentation": SQUARE,
        "area": 36,
        "iscrowd": 0,
    }
    content = {
        "images": [
            {"id": 5, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 9, "file_name": "sub/b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [annotation],
        "categories": [{"id": 90, "name": "dog"}, {"id": 33, "name": "cat", "supercategory": "animal"}],
    }
    for key, value in changes.items():
        if key in annotation:
            annotation[key] = value
        else:
            content[key] = value
    return content


def write(folder: Path, content: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def with_segmentation(folder: Path, segmentation: Any) -> Path:
    return write(folder, dataset(segmentation=segmentation))


# --- masks ---


@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_masks_survive_encoding(height: int, width: int, random: Any) -> None:
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    rle = encode(mask)
    assert isinstance(rle["counts"], str)
    assert np.array_equal(decode(json.loads(json.dumps(rle))), mask)
    assert from_segmentation(rle, height, width) == rle
    assert from_segmentation(uncompressed(mask), height, width) == rle


def test_polygon_and_both_rle_forms_give_the_same_mask(tmp_path: Path) -> None:
    for segmentation in (SQUARE, encode(square_mask()), uncompressed(square_mask())):
        (annotation,) = read_coco(with_segmentation(tmp_path, segmentation)).annotations
        assert np.array_equal(decode(annotation.rle), square_mask())
        assert annotation.box == (4, 2, 6, 6)


def test_several_polygons_are_one_instance(tmp_path: Path) -> None:
    (annotation,) = read_coco(
        with_segmentation(tmp_path, [*SQUARE, [14, 2, 20, 2, 20, 8, 14, 8]])
    ).annotations
    assert decode(annotation.rle).sum() == 72


# --- reading ---


def test_ids_classes_and_empty_images(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, dataset(iscrowd=1)))
    assert data.class_names == ["dog", "cat"]
    assert data.category_ids == [90, 33]
    assert [image.id for image in data.images] == [5, 9]
    (annotation,) = data.annotations_of(5)
    assert (annotation.id, annotation.label, annotation.is_crowd, annotation.area) == (70, 1, True, 36)
    assert data.annotations_of(9) == []
    assert data.image_root == tmp_path


def test_area_of_the_file_wins_unless_absent_or_zero(tmp_path: Path) -> None:
    assert read_coco(write(tmp_path, dataset(area=35.5))).annotations[0].area == 35.5
    for absent in (None, 0):
        assert read_coco(write(tmp_path, dataset(area=absent))).annotations[0].area == 36


def test_subset_keeps_the_annotations_of_its_images(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, dataset()))
    assert [image.id for image in data.subset([9]).images] == [9]
    assert data.subset([9]).annotations == []
    assert data.subset([5]).annotations == data.annotations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a COCO dataset"),
        ({"images": []}, "annotations, categories"),
        (dataset(categories=[]), "no categories"),
        (dataset(image_id=6), "annotation 70 belongs to image 6"),
        (dataset(category_id=1), "annotation 70 has category 1"),
        (dataset(image_id="5"), "whole numbers"),
        (dataset(area=float("nan")), "annotation 70 .*area is nan"),
        (
            dataset(categories=[{"id": 33, "name": "a"}, {"id": 33, "name": "b"}]),
            "two categories have the id 33",
        ),
        (dataset(images=[{"id": 5, "file_name": "a.png", "width": 0, "height": 3}]), "width and height"),
        (dataset(images=[{"id": 5, "width": 3, "height": 3}]), "file_name"),
    ],
)
def test_wrong_files_are_named_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CastError, match=message) as caught:
        read_coco(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(CastError, match="cannot be read"):
            read_coco(path)


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_duplicate_ids(tmp_path: Path, key: str) -> None:
    content = dataset()
    content[key] = [*content[key], content[key][0]]
    with pytest.raises(CastError, match=f"two {key} have the id"):
        read_coco(write(tmp_path, content))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 9, 9]], "three x, y pairs"),
        ([[1, 1, 9, 9, 5, 5, 7]], "three x, y pairs"),
        ([[1, 1, 9, 9, float("nan"), 5]], "finite"),
        ([[1, 1, 9, 9, 1e9, 5]], "far outside"),
        ([[1, 1, 2, 2, 3, 3]], "covers no pixel"),
        ([["a", 1, 2, 2, 3, 3]], "other than numbers"),
        ([], "empty list"),
        (None, "neither"),
        ({"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}, r"size \[30, 20\]"),
        ({"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}, "covers no pixel"),
        ({"size": [HEIGHT, WIDTH], "counts": [10, 20]}, "do not fill"),
        ({"size": [HEIGHT, WIDTH], "counts": [500, -100, 200]}, "do not fill"),
        ({"size": [HEIGHT, WIDTH], "counts": encode(square_mask())["counts"][:-2]}, "do not fill"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "damaged"),
        ({"size": [HEIGHT, WIDTH], "counts": "é"}, "damaged"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 30 + "0"}, "damaged"),
    ],
)
def test_bad_segmentations_name_the_annotation(tmp_path: Path, segmentation: Any, message: str) -> None:
    with pytest.raises(CastError, match=rf"annotation 70 \(image 5, a.png\).*{message}"):
        read_coco(with_segmentation(tmp_path, segmentation))


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "sub/../../a.png", "..\\a.png", "C:\\a.png"])
def test_images_cannot_lie_outside_the_image_folder(tmp_path: Path, name: str) -> None:
    images = [{"id": 5, "file_name": name, "width": WIDTH, "height": HEIGHT}]
    with pytest.raises(CastError, match="leaves the image folder"):
        read_coco(write(tmp_path, dataset(images=images)))


def test_reading_needs_no_torch() -> None:
    modules = "cast.data.coco, cast.data.splits, cast.data.streets, cast.data.cells"
    command = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


# --- writing ---


def test_written_files_read_back_equal(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, dataset()))
    scored = [replace(data.annotations[0], score=0.5)]
    path = tmp_path / "out.json"
    write_coco(path, data.images, scored, data.categories, data.image_root, {"note": "x"})
    again = read_coco(path)
    assert again.annotations == scored
    assert (again.images, again.categories) == (data.images, data.categories)
    assert again.info["note"] == "x"
    assert json.loads(path.read_text())["annotations"][0]["category_id"] == 33


def test_image_root_moves_with_its_folder_and_is_absolute_elsewhere(tmp_path: Path) -> None:
    inside, moved = tmp_path / "one", tmp_path / "two"
    (inside / "images").mkdir(parents=True)
    write_coco(inside / "a.json", [], [], [{"id": 1, "name": "x"}], inside / "images")
    write_coco(inside / "b.json", [], [], [{"id": 1, "name": "x"}], tmp_path / "elsewhere")
    inside.rename(moved)
    assert read_coco(moved / "a.json").image_root == moved / "images"
    assert read_coco(moved / "b.json").image_root == tmp_path / "elsewhere"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, dataset()))
    path = tmp_path / "out.json"
    write_coco(path, data.images, [], data.categories, tmp_path)
    before = path.read_bytes()
    bad = new_annotation(1, 5, 0, square_mask(), score=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        write_coco(path, data.images, [bad], data.categories, tmp_path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["instances.json", "out.json"]


# --- image files ---


def gradient() -> np.ndarray:
    return np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(gradient()).convert(mode).save(path)
    pixels = read_image(path)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8
    if mode != "1":
        assert np.abs(pixels - gradient()[:, :, None].astype(int)).max() <= 1


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(path)
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.tile(np.array([0, 257, 32896, 65535], dtype=np.uint16), (3, 1))
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(CastError, match="floating-point"):
        read_image(tmp_path / "a.tif")


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png")[:, :, 0], np.rot90(gradient(), -1))
    upright = ImageRecord(1, "a.png", HEIGHT, WIDTH)
    assert load_image(tmp_path, upright).shape == (WIDTH, HEIGHT, 3)
    with pytest.raises(CastError, match="20 × 30"):
        load_image(tmp_path, ImageRecord(1, "a.png", WIDTH, HEIGHT))


def test_bright_images_are_inverted_on_request_only(tmp_path: Path) -> None:
    bright = np.full((HEIGHT, WIDTH, 3), (200, 180, 220), dtype=np.uint8)
    bright[:5, :5] = (90, 40, 130)
    for name, pixels in (("bright.png", bright), ("dark.png", 255 - bright)):
        Image.fromarray(pixels).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), pixels)
        assert np.array_equal(read_image(tmp_path / name, Reading(invert_bright=True)), 255 - bright)


def test_contrast_is_stretched_on_request_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(5, 26, (50, 40), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "dark.png")
    plain, stretched = read_image(tmp_path / "dark.png"), read_image(tmp_path / "dark.png", STRETCH)
    assert plain.max() == 25
    assert (stretched.min(), stretched.max()) == (0, 255)
    expected = np.interp(plain, np.percentile(grey, (1.0, 99.8)), (0, 255))
    assert np.abs(stretched - expected).max() <= 1
    # 16 bits are stretched before they are rounded to 8: these 2,000 values span 40 of the 8-bit levels.
    fine = np.linspace(2570, 12850, 2000).reshape(50, 40).astype(np.uint16)
    Image.fromarray(fine).save(tmp_path / "fine.png")
    assert len(np.unique(read_image(tmp_path / "fine.png"))) < 50
    assert len(np.unique(read_image(tmp_path / "fine.png", STRETCH))) > 200


def test_an_empty_images_noise_is_not_stretched_to_full_contrast(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(7, 9, (50, 40), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    assert read_image(tmp_path / "a.png", STRETCH).max() <= 255 / 8 + 1


def test_stretching_keeps_hues(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), dtype=np.uint8)
    pixels[5:15, 5:15] = (40, 20, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    red, green, blue = read_image(tmp_path / "a.png", STRETCH)[10, 10].astype(float)
    assert red == 255, "brighter than the luminance's percentile: clipped"
    assert green / blue == pytest.approx(2, rel=0.02)


def test_missing_and_broken_images(tmp_path: Path) -> None:
    good, cut, text = (tmp_path / name for name in ("good.png", "cut.png", "text.png"))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(good)
    cut.write_bytes(good.read_bytes()[:3000])
    text.write_text("no image")
    for path, message in (
        (tmp_path / "none.png", "missing"),
        (cut, "cannot be read"),
        (text, "cannot be read"),
    ):
        with pytest.raises(CastError, match=message) as caught:
            read_image(path)
        assert path.name in str(caught.value)


def test_check_images(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, dataset()))
    with pytest.raises(CastError, match=r"2 of 2 images are missing.*\(a.png, sub/b.png\)"):
        check_images(data)
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / name)
    check_images(data)
    Image.new("L", (WIDTH + 1, HEIGHT)).save(tmp_path / "a.png")
    with pytest.raises(CastError, match=r"a.png: the image is 31 × 20"):
        check_images(data)
    with pytest.raises(CastError, match="image folder is missing"):
        check_images(replace(data, image_root=tmp_path / "none"))
