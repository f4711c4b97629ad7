"""Splits are reproducible, complete and in proportion."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cast.data import ade20k
from cast.data.coco import ImageRecord
from cast.data.splits import appearance_groups, choose, split_labelled, split_listed
from cast.errors import CastError


@given(st.integers(2, 80), st.floats(0.5, 1.0), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_image_is_on_one_side(count: int, fraction: float, seed: int) -> None:
    ids = list(range(10, 10 + count))
    labelled, unlabelled = split_labelled(ids, fraction, seed)
    assert sorted(labelled + unlabelled) == ids
    assert len(labelled) == round(fraction * count)


def records(*names: str) -> list[ImageRecord]:
    return [ImageRecord(number, name, 8, 8) for number, name in enumerate(names, start=10)]


def test_a_list_names_the_labelled_images(tmp_path: Path) -> None:
    images = records("ulm/ulm_000001_000019_left.png", "ulm/ulm_000002_000019_left.png", "plain.png")
    path = tmp_path / "list.txt"
    path.write_text("plain\n\nulm_000002_000019\n")
    assert split_listed(images, path) == ([11, 12], [10])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ulm_000003\n", r"list\.txt: 1 of 1 names fit no image, or several \(ulm_000003\)"),
        ("plain\nulm\n", r"1 of 2 names fit no image, or several \(ulm\)"),
        ("", r"list\.txt: names no image"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(content)
    with pytest.raises(CastError, match=message):
        split_listed(records("ulm_000001.png", "ulm_000002.png", "plain.png"), path)


@pytest.mark.parametrize(("name", "count"), [("5", 144), ("10", 296), ("20", 592), ("30", 888)])
def test_the_published_cityscapes_splits_are_whole(name: str, count: int) -> None:
    path = Path(__file__).parents[2] / "config" / "splits" / "cityscapes" / f"{name}.txt"
    names = path.read_text().split()
    assert len(names) == len(set(names)) == count
    assert all(re.fullmatch(r"[a-z]+_\d{6}_\d{6}", line) for line in names)


def test_the_ade20k_split_is_the_one_drawn_with_seed_0() -> None:
    """The list, drawn anew; and what stage split does with the list and with a tenth of the data set."""
    path = Path(__file__).parents[2] / "config" / "splits" / "ade20k" / "10.txt"
    total = ade20k.PUBLISHED["training"]
    drawn = sorted(choose(range(1, total + 1), 2021, 0))
    assert path.read_text() == "".join(f"ADE_train_{number:08d}\n" for number in drawn)
    images = [ImageRecord(number, f"ADE_train_{number:08d}.jpg", 8, 8) for number in range(1, total + 1)]
    by_fraction = split_labelled([image.id for image in images], 0.1, 0)
    assert by_fraction[0] == drawn
    assert split_listed(images, path) == by_fraction


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    ids = list(range(100))
    assert split_labelled(ids, 0.1, 0) == split_labelled(ids[::-1], 0.1, 0)
    assert split_labelled(ids, 0.1, 0) != split_labelled(ids, 0.1, 1)


def test_the_split_never_changes() -> None:
    assert split_labelled(range(20), 0.2, 0)[0] == [2, 4, 6, 19]


def test_groups_are_split_in_proportion_and_none_goes_without() -> None:
    groups = {**dict.fromkeys(range(80), "dark"), **dict.fromkeys(range(80, 97), "colour")}
    groups |= dict.fromkeys(range(97, 100), "grey")
    for seed in range(5):
        labelled, _ = split_labelled(range(100), 0.1, seed, groups)
        counts = {name: sum(groups[image] == name for image in labelled) for name in set(groups.values())}
        assert counts == {"dark": 7, "colour": 2, "grey": 1}


def test_choosing_none_and_all() -> None:
    assert choose([3, 4], 0, 0) == set()
    assert choose([3, 4], 2, 0, {3: "a", 4: "b"}) == {3, 4}
    assert choose([], 0, 0) == set()


def test_no_labelled_image_is_an_error() -> None:
    with pytest.raises(CastError, match=r"labelled_fraction.*raise it"):
        split_labelled(range(9), 0.05, 0)


def test_appearance(tmp_path: Path) -> None:
    colours = {"dark": (20, 20, 30), "bright colour": (200, 150, 220), "bright grey": (220, 220, 220)}
    records = []
    for number, colour in enumerate(colours.values()):
        pixels = np.full((8, 8, 3), colour, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        records.append(ImageRecord(number, f"{number}.png", 8, 8))
    assert list(appearance_groups(records, tmp_path).values()) == list(colours)
