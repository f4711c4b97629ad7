"""Drawn micrographs: exact, disjoint nucleus masks, dark backgrounds, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cast.data.cells import LOOKS, draw_scene

SIZE = (128, 128)


def scenes(domain: str, count: int = 40, size: tuple[int, int] = SIZE) -> list:
    return [draw_scene(np.random.default_rng([3, index]), domain, size) for index in range(count)]


@pytest.mark.parametrize("domain", list(LOOKS))
def test_scenes_hold_what_they_say(domain: str) -> None:
    counts, radii = [], []
    for pixels, masks, labels in scenes(domain, 60):
        assert pixels.shape == (*SIZE, 3)
        assert pixels.dtype == np.uint8
        assert masks.shape == (len(labels), *SIZE)
        assert set(labels) <= {0}
        assert masks.sum(0).max(initial=0) <= 1
        luminance = np.asarray(Image.fromarray(pixels).convert("L"))
        assert np.median(luminance) < 128  # the polarity that invert_bright gives photographs
        counts.append(len(labels))
        radii.extend(np.sqrt(masks.sum((1, 2)) / np.pi))
    assert max(counts) <= 40
    assert 6 <= np.median(counts) <= 15
    assert 4 <= np.median(radii) <= 9
    assert np.percentile(radii, 99) > 13


def test_nuclei_are_brighter_than_their_surroundings() -> None:
    differences = []
    for pixels, masks, _ in scenes("source"):
        inside = masks.any(0)
        ring = ndimage.binary_dilation(inside, iterations=9) & ~ndimage.binary_dilation(inside, iterations=4)
        if inside.any() and ring.any():
            differences.append(float(pixels[inside].mean()) - float(pixels[ring].mean()))
    assert min(differences) > 3
    assert np.median(differences) > 30


def test_some_nuclei_touch_and_some_images_are_coloured() -> None:
    touching, coloured, total = 0, 0, 0
    for pixels, masks, _ in scenes("source"):
        coloured += bool(np.ptp(pixels.astype(int), axis=2).mean() > 5)
        for index, mask in enumerate(masks):
            others = masks[np.arange(len(masks)) != index].any(0)
            touching += bool((ndimage.binary_dilation(mask) & others).any())
            total += 1
    assert 0.1 < touching / total < 0.8
    assert 1 <= coloured <= 15


def test_the_same_seed_draws_the_same_scene() -> None:
    first, second = (draw_scene(np.random.default_rng(5), "target", SIZE) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], draw_scene(np.random.default_rng(6), "target", SIZE)[0])


def test_oblong_and_small_scenes() -> None:
    for size in ((64, 160), (24, 24)):
        for pixels, masks, _ in scenes("target", 5, size):
            assert pixels.shape[:2] == size
            assert masks.shape[1:] == size
