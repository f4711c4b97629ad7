"""Views: one geometry for image, masks and both colourings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cast.config import TrainSettings
from cast.data.coco import Annotation, encode, new_annotation
from cast.data.transforms import (
    Geometry,
    Sample,
    change_colours,
    draw_geometry,
    shift_hue,
    views,
    warp_image,
    warp_masks,
)

BACKGROUND, PATCH = (200, 180, 160), (10, 40, 250)


def train_settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"steps": 1, "lr": 1.0, "image_size": (48, 64)} | changes)


def patch_sample(
    size: tuple[int, int] = (90, 70), box: tuple[int, int, int, int] = (20, 15, 50, 60)
) -> Sample:
    """A uniform image with one patch of its own colour, which is the only instance."""
    image = np.full((*size, 3), BACKGROUND, dtype=np.uint8)
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    image[mask] = PATCH
    return Sample.of(image, [new_annotation(1, 1, 3, mask)])


def random_sample(rng: np.random.Generator, size: tuple[int, int], count: int = 6) -> Sample:
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    annotations = [new_annotation(i, 1, i, rng.random(size) < 0.02) for i in range(count)]
    return Sample.of(image, annotations)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    turning=st.booleans(),
)
def test_mask_and_valid_follow_the_pixels(seed: int, height: int, width: int, turning: bool) -> None:
    sample = patch_sample((height, width), (5, 5, width * 2 // 3, height // 2))
    train = train_settings(flip_vertical=turning, min_visible_area=0)
    view = views(sample, train, np.random.default_rng(seed))
    assert view.weak.shape == view.strong.shape == (3, 48, 64)
    assert view.valid.shape == (48, 64)
    colour = torch.tensor(PATCH)[:, None, None] / 255
    other = torch.tensor(BACKGROUND)[:, None, None] / 255
    is_patch = (view.weak - colour).abs().amax(0) < (view.weak - other).abs().amax(0)
    mask = view.target.masks[0] if len(view.target.masks) else torch.zeros_like(view.valid)
    mean = sample.mean_colour / 255
    differs = (mask != is_patch) & view.valid
    # Interpolated pixels on the patch's outline may fall to either side.
    blended = ((view.weak - colour).abs().amax(0) > 0.01) & ((view.weak - other).abs().amax(0) > 0.01)
    assert not (differs & ~blended).any()
    assert not (mask & ~view.valid).any()
    assert torch.allclose(view.weak[:, ~view.valid], mean.expand(3, 48, 64)[:, ~view.valid])


def test_strong_view_has_the_weak_geometry() -> None:
    still = train_settings(
        strong_jitter=(0, 0, 0, 0), strong_grayscale=0, strong_blur_sigma=(1e-3, 1e-3), flip_vertical=True
    )
    for seed in range(8):
        view = views(random_sample(np.random.default_rng(0), (60, 80)), still, np.random.default_rng(seed))
        assert torch.allclose(view.strong, view.weak, atol=1e-4)
    view = views(
        random_sample(np.random.default_rng(0), (60, 80)), train_settings(), np.random.default_rng(0)
    )
    assert not torch.allclose(view.strong, view.weak, atol=1e-2)
    assert view.strong.min() >= 0
    assert view.strong.max() <= 1


def test_identity_geometry_returns_the_image() -> None:
    sample = random_sample(np.random.default_rng(1), (30, 40))
    geometry = Geometry(0, 0, 30, 40, (30, 40), 0, 0, (30, 40), 0, False)
    assert torch.equal(warp_image(sample, geometry), sample.image)
    target = warp_masks(sample, geometry, 0)
    assert target.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert target.masks.sum() == sum(int(sample.mask(i).sum()) for i in range(6))


@pytest.mark.parametrize("resized", [(40, 64), (20, 32), (17, 50)])
def test_warp_equals_torchvision_on_the_whole_image(resized: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    masks = rng.random((4, 90, 70)) < 0.1
    image = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    sample = Sample.of(image, [new_annotation(i, 1, i, mask) for i, mask in enumerate(masks)])
    geometry = Geometry(13, 8, 35, 44, resized, 0, 0, resized, 3, True)
    box, size = (13, 8, 35, 44), list(resized)
    expected = F.resized_crop(
        torch.from_numpy(masks).byte(), *box, size, interpolation=InterpolationMode.NEAREST_EXACT
    )
    expected = F.horizontal_flip(F.rotate(expected, 270, expand=True))
    assert torch.equal(warp_masks(sample, geometry, 0).masks, expected.bool())
    picture = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    picture = F.horizontal_flip(
        F.rotate(F.resized_crop(picture, *box, size, antialias=True), 270, expand=True)
    )
    assert torch.equal(warp_image(sample, geometry), picture)


def test_symmetries_all_occur_and_only_where_allowed() -> None:
    def drawn(train: TrainSettings) -> set[tuple[int, bool]]:
        geometries = [draw_geometry((60, 60), train, np.random.default_rng(seed)) for seed in range(100)]
        return {(geometry.turns, geometry.mirror) for geometry in geometries}

    assert drawn(train_settings()) == {(0, False), (0, True)}
    assert len(drawn(train_settings(flip_vertical=True))) == 8


def test_scale_one_shows_natural_size() -> None:
    train = train_settings(resize_range=(1.0, 1.0))
    large = draw_geometry((100, 100), train, np.random.default_rng(0))
    assert (large.height, large.width) == large.resized == (48, 64)
    small = draw_geometry((30, 20), train, np.random.default_rng(0))
    assert (small.height, small.width) == small.resized == (30, 20)
    wide = draw_geometry((30, 100), train_settings(resize_range=(2.0, 2.0)), np.random.default_rng(0))
    assert ((wide.height, wide.width), wide.resized) == ((24, 32), (48, 64))


def test_slivers_crowds_and_empty_images() -> None:
    size = (48, 64)
    masks = np.zeros((3, *size), dtype=bool)
    masks[0, 0, :5], masks[1, 1, :6], masks[2, 10:40, 10:40] = True, True, True
    crowd = Annotation(9, 1, 2, encode(masks[2]), 900.0, (10.0, 10.0, 30.0, 30.0), is_crowd=True)
    image = np.zeros((*size, 3), dtype=np.uint8)
    sample = Sample.of(image, [new_annotation(1, 1, 0, masks[0]), new_annotation(2, 1, 1, masks[1]), crowd])
    still = train_settings(resize_range=(1.0, 1.0), min_visible_area=5)
    assert views(sample, still, np.random.default_rng(0)).target.labels.tolist() == [1]
    empty = views(Sample.of(image, []), train_settings(), np.random.default_rng(0)).target
    assert empty.masks.shape == (0, 48, 64)
    assert empty.masks.dtype == torch.bool
    assert empty.labels.shape == (0,)
    assert empty.labels.dtype == torch.int64


def test_only_touching_masks_are_decoded() -> None:
    size = (100, 100)
    near, far = np.zeros((2, *size), dtype=bool)
    near[10:20, 10:20], far[80:90, 80:90] = True, True
    broken = new_annotation(2, 1, 1, far)
    broken.rle["counts"] = None  # decoding it would raise
    sample = Sample.of(np.zeros((*size, 3), dtype=np.uint8), [new_annotation(1, 1, 0, near), broken])
    geometry = Geometry(0, 0, 80, 80, (80, 80), 0, 0, (80, 80), 0, False)
    assert warp_masks(sample, geometry, 0).labels.tolist() == [0]
    with pytest.raises(TypeError):
        warp_masks(sample, Geometry(5, 5, 80, 80, (80, 80), 0, 0, (80, 80), 0, False), 0)


def test_instances_at_the_crop_border_are_kept_and_those_beyond_are_not() -> None:
    size = (50, 60)
    lines: list[Any] = [
        np.s_[10, 15:30],
        np.s_[29, 15:30],
        np.s_[15:25, 12],
        np.s_[15:25, 41],
    ]  # inside the border
    lines += [np.s_[9, 15:30], np.s_[30, 15:30], np.s_[15:25, 11], np.s_[15:25, 42]]  # one pixel beyond
    annotations = []
    for label, line in enumerate(lines):
        mask = np.zeros(size, dtype=bool)
        mask[line] = True
        annotations.append(new_annotation(label, 1, label, mask))
    sample = Sample.of(np.zeros((*size, 3), dtype=np.uint8), annotations)
    target = warp_masks(sample, Geometry(10, 12, 20, 30, (20, 30), 0, 0, (20, 30), 0, False), 0)
    assert target.labels.tolist() == [0, 1, 2, 3]
    assert target.masks.sum((1, 2)).tolist() == [15, 15, 10, 10]


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_hue_equals_torchvision(shift: float) -> None:
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    image[:, :4] = image[:1, :4]  # greys have no hue
    image[1, 4:8] = image[0, 4:8]  # two equal channels
    image[:, 8:12] = image[:, 8:12].round()  # pure colours
    assert torch.allclose(shift_hue(image, shift), F.adjust_hue(image, shift), atol=1e-5)


def test_grayscale_probability_and_seed() -> None:
    image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    grey = change_colours(image, train_settings(strong_grayscale=1.0), np.random.default_rng(0))
    assert torch.allclose(grey[0], grey[1])
    assert torch.allclose(grey[1], grey[2])
    first, again, other = (
        change_colours(image, train_settings(), np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
