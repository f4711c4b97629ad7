"""Street scenes: exact, reproducible masks of objects large enough to learn, in two domains that differ."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cast.data.drawing import SUPERSAMPLING, Canvas, Paints, Place
from cast.data.street_objects import CLUTTER, THINGS
from cast.data.streets import CLASS_NAMES, draw_scene

SIZE = (96, 96)
PLAIN = Paints((255, 0, 0), (255, 0, 0), (255, 0, 0), (255, 0, 0))


def scenes(domain: str, count: int = 40, size: tuple[int, int] = SIZE) -> list:
    return [draw_scene(np.random.default_rng([7, index]), domain, size) for index in range(count)]


@pytest.mark.parametrize("domain", ["source", "target"])
def test_scenes_hold_what_they_say(domain: str) -> None:
    drawn = scenes(domain)
    for pixels, masks, labels in drawn:
        assert pixels.shape == (*SIZE, 3)
        assert pixels.dtype == np.uint8
        assert masks.shape == (len(labels), *SIZE)
        assert masks.dtype == bool
        assert masks.sum(0).max(initial=0) <= 1  # every pixel shows one thing
        assert all(mask.sum() >= 24 for mask in masks)
    labels = [label for _, _, found in drawn for label in found]
    assert set(labels) == set(range(len(CLASS_NAMES)))
    assert 3.5 < len(labels) / len(drawn) < 5


def test_the_same_seed_draws_the_same_scene() -> None:
    first, second = (draw_scene(np.random.default_rng([1, 2, 3]), "target", SIZE) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[2] == second[2]
    other = draw_scene(np.random.default_rng([1, 2, 4]), "target", SIZE)
    assert not np.array_equal(first[0], other[0])


def test_the_target_is_darker_and_noisier() -> None:
    def statistics(domain: str) -> tuple[float, float]:
        images = np.stack([pixels for pixels, _, _ in scenes(domain)]).astype(float)
        return images.mean(), np.abs(np.diff(images[:, :15], axis=2)).mean()  # the sky is smooth

    (source_mean, source_noise), (target_mean, target_noise) = statistics("source"), statistics("target")
    assert target_mean < 0.8 * source_mean
    assert target_noise > 1.3 * source_noise


@pytest.mark.parametrize("painter", [*(thing[0] for thing in THINGS), *(thing[0] for thing in CLUTTER)])
def test_masks_are_what_was_painted(painter) -> None:
    canvas = Canvas((60, 60))
    canvas.owner = 3
    painter(canvas, Place(30, 55, 40, 40, False), PLAIN, np.random.default_rng(0))
    painted = np.asarray(canvas.image).any(2)
    assert painted.any()
    assert np.array_equal(painted, np.asarray(canvas.owners) == 3)


def test_mirrored_places_mirror() -> None:
    place = Place(30, 50, 20, 10, True)
    assert place.at(0.5, 1) == (20, 40)


def test_nearer_objects_cover_farther_ones() -> None:
    canvas = Canvas((20, 20))
    for owner, left in ((1, 2), (2, 6)):
        canvas.owner = owner
        canvas.polygon([(left, 5), (left + 8, 5), (left + 8, 15), (left, 15)], (9, 9, 9))
    owners = np.asarray(canvas.owners)[1::SUPERSAMPLING, 1::SUPERSAMPLING]
    assert (owners[10, 3], owners[10, 8], owners[10, 12]) == (1, 2, 2)


def test_larger_scenes_hold_larger_objects() -> None:
    def mean_height(size: tuple[int, int]) -> float:
        return float(
            np.mean([mask.any(1).sum() for _, masks, _ in scenes("source", 15, size) for mask in masks])
        )

    assert 1.7 < mean_height((192, 256)) / mean_height(SIZE) < 2.3


def test_drawing_is_fast() -> None:
    started = time.process_time()
    scenes("target", 60)
    assert 60 / (time.process_time() - started) > 30  # about 250 on an idle core; busy ones are slower
