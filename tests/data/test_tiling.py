"""Windows: their cores partition the image, and merging returns what the windows show, once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cast.config import InferenceSettings
from cast.data.batch import Instances, mask_boxes
from cast.data.coco import ImageRecord
from cast.data.suppression import mask_nms
from cast.data.tiling import predict_dataset, predict_image, resize_masks, spans


def inference(**changes: object) -> InferenceSettings:
    return InferenceSettings.model_validate({"batch_size": 3} | changes)


def oracle(images: Tensor, cores: Tensor | None = None) -> list[Instances]:
    """What a perfect model sees: channel 0 holds each instance's number, channel 1 its label."""
    results = []
    for numbers, labels, _ in images:
        found = [number for number in numbers.unique().tolist() if number >= 1 and number == int(number)]
        masks = [numbers == number for number in found]
        results.append(
            Instances(
                torch.stack(masks) if masks else torch.zeros(0, *numbers.shape, dtype=torch.bool),
                torch.tensor([int(labels[mask][0]) for mask in masks], dtype=torch.int64),
                torch.tensor([1 - number / 1000 for number in found]),
            )
        )
    return results


def discs(height: int, width: int, radius: int, seed: int, count: int = 40) -> Tensor:
    """An image of discs that do not touch, numbered from 1 in channel 0, with labels 0 … 2 in channel 1."""
    rng = np.random.default_rng(seed)
    image = torch.zeros(3, height, width)
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    number = 0
    for _ in range(count):
        y, x, r = (int(value) for value in rng.integers((0, 0, 2), (height, width, radius + 1)))
        distance = (ys - y) ** 2 + (xs - x) ** 2
        if (image[0][distance <= (r + 1) ** 2] > 0).any():
            continue
        number += 1
        image[0][distance <= r**2] = number
        image[1][distance <= r**2] = number % 3
    return image


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 400), tile=st.integers(1, 150), share=st.floats(0.01, 1))
def test_cores_partition_the_axis(length: int, tile: int, share: float) -> None:
    found = spans(length, tile, max(1, int(tile * share)))
    owners = np.zeros(length, dtype=int)
    for span in found:
        assert span.start <= span.core_start < span.core_end <= span.start + tile
        owners[span.core_start : span.core_end] += 1
    assert (owners == 1).all()
    assert found[0].start == 0
    assert found[-1].start + tile == max(length, tile)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(20, 150),
    width=st.integers(20, 150),
    stride=st.integers(10, 30),
    seed=st.integers(0, 1000),
)
def test_oracle_is_reconstructed_exactly_once(height: int, width: int, stride: int, seed: int) -> None:
    tile = 48
    radius = (tile - stride - 2) // 2  # discs up to tile − stride − 1 pixels across
    image = discs(height, width, radius, seed)
    whole = predict_image(oracle, image, inference(tile=None))
    tiled = predict_image(oracle, image, inference(tile=tile, tile_stride=stride))
    assert len(whole) == int(image[0].max())
    assert torch.equal(tiled.masks, whole.masks)
    assert torch.equal(tiled.labels, whole.labels)
    assert torch.allclose(tiled.scores, whole.scores)
    lean = predict_image(frugal_oracle, image, inference(tile=tile, tile_stride=stride))
    assert torch.equal(lean.masks, tiled.masks)


def frugal_oracle(images: Tensor, cores: Tensor | None) -> list[Instances]:
    """An oracle that leaves out what its windows' cores do not answer for."""
    assert cores is not None
    results = []
    for instances, core in zip(oracle(images), cores, strict=True):
        boxes = mask_boxes(instances.masks)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        results.append(instances[((centres >= core[:2]) & (centres < core[2:])).all(1)])
    return results


def test_windows_reach_the_model_in_batches_of_one_size() -> None:
    shapes = []

    def empty(images: Tensor, cores: Tensor | None) -> list[Instances]:
        shapes.append(tuple(images.shape))
        return [Instances.empty(*images.shape[2:]) for _ in images]

    found = predict_image(empty, torch.zeros(3, 50, 20), inference(tile=32, tile_stride=8))
    assert found.masks.shape == (0, 50, 20)
    assert shapes == [(3, 3, 32, 32), (1, 3, 32, 32)]  # rows 0, 8, 16, 18; one column, padded


def test_padding_has_the_mean_colour_and_no_detections() -> None:
    seen = []

    def everything(images: Tensor, cores: Tensor | None) -> list[Instances]:
        seen.append(images)
        return [Instances(torch.ones(1, 32, 32, dtype=torch.bool), torch.tensor([0]), torch.tensor([0.8]))]

    image = torch.rand(3, 10, 20, generator=torch.Generator().manual_seed(0))
    found = predict_image(everything, image, inference(tile=32))
    assert torch.allclose(seen[0][0, :, 10:].flatten(1), image.mean((1, 2))[:, None], atol=1e-6)
    assert torch.equal(seen[0][0, :, :10, :20], image)
    assert found.masks.shape == (1, 10, 20)
    assert found.masks.all()
    assert found.scores.tolist() == pytest.approx([0.8])  # the image's border is no cut


def test_cut_detections_lose_score() -> None:
    image = torch.zeros(3, 40, 80)
    image[0, 10:20, 10:70] = 1  # longer than the windows
    found = predict_image(oracle, image, inference(tile=40, tile_stride=20, cut_score_factor=0.5))
    assert len(found) >= 1
    assert torch.allclose(found.scores, torch.full((len(found),), 0.999 * 0.5))
    assert found.masks.any(0).equal(image[0] == 1)


def boxes_as_masks(*boxes: tuple[int, int, int, int]) -> Tensor:
    masks = torch.zeros(len(boxes), 30, 40, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_nms_by_hand() -> None:
    masks = boxes_as_masks((0, 0, 10, 10), (1, 0, 11, 10), (0, 0, 10, 10), (20, 20, 25, 25), (0, 0, 0, 0))
    instances = Instances(masks, torch.tensor([0, 0, 1, 0, 0]), torch.tensor([0.5, 0.9, 0.3, 0.7, 0.8]))
    kept = mask_nms(instances, 0.7)  # IoU of the first two: 90 / 110 = 0.82
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert kept.labels.tolist() == [0, 0, 1]
    assert torch.equal(kept.masks[0], masks[1])
    assert len(mask_nms(instances, 0.82)) == 4  # only the empty one goes
    assert len(mask_nms(Instances.empty(8, 8), 0.5)) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_nms_equals_the_dense_computation(seed: int, iou: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 20, (25, 2), generator=generator)
    sides = torch.randint(4, 20, (25, 2), generator=generator)
    masks = boxes_as_masks(*torch.cat([corners, corners + sides], 1).tolist())
    masks &= torch.rand(masks.shape, generator=generator) < 0.9
    labels = torch.randint(0, 2, (25,), generator=generator)
    scores = torch.rand(25, generator=generator)
    flat = masks.flatten(1).double()
    shared = flat @ flat.T
    union = flat.sum(1)[:, None] + flat.sum(1) - shared
    expected: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(labels[k] != labels[index] or shared[k, index] <= iou * union[k, index] for k in expected):
            expected.append(index)
    kept = mask_nms(Instances(masks, labels, scores), iou)
    assert torch.equal(kept.scores, scores[expected])
    assert torch.equal(kept.masks, masks[expected])


def test_dataset_batches_equal_sizes_in_order() -> None:
    shapes = []

    def counting(images: Tensor, cores: Tensor | None) -> list[Instances]:
        shapes.append(tuple(images.shape))
        return oracle(images)

    sizes = [(30, 40)] * 4 + [(40, 30)] + [(30, 40)]
    items = [(ImageRecord(i, "", w, h), discs(h, w, 5, seed=i)) for i, (h, w) in enumerate(sizes)]
    found = list(predict_dataset(counting, iter(items), inference()))
    assert [record.id for record, _ in found] == [0, 1, 2, 3, 4, 5]
    assert [shape[0] for shape in shapes] == [3, 1, 1, 1]
    for (_, image), (_, instances) in zip(items, found, strict=True):
        assert torch.equal(instances.masks.any(0), image[0] > 0)


@pytest.mark.parametrize("tile", [None, 24])
def test_dataset_returns_the_records_size(tile: int | None) -> None:
    image = torch.zeros(3, 30, 40)
    image[0, 10:20, 8:16] = 1
    image[0, 0, 39] = 2  # vanishes in the smaller record
    ((_, larger),) = predict_dataset(oracle, [(ImageRecord(1, "", 80, 60), image)], inference(tile=tile))
    assert larger.masks.shape == (2, 60, 80)
    assert larger.masks[0, 20:40, 16:32].all()
    assert larger.masks[0].sum() == 20 * 16
    ((_, smaller),) = predict_dataset(oracle, [(ImageRecord(1, "", 10, 8), image)], inference(tile=tile))
    assert len(smaller) == 1
    assert smaller.masks.shape == (1, 8, 10)


@pytest.mark.parametrize("size", [(37, 90), (20, 15), (64, 64)])
def test_resized_masks_equal_the_dense_interpolation(size: tuple[int, int]) -> None:
    masks = discs(40, 50, 9, seed=3)[0][None] == torch.arange(1, 6)[:, None, None]
    dense = torch.nn.functional.interpolate(
        masks[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )[0]
    resized = resize_masks(masks, size)
    clear = (dense - 0.5).abs() > 1e-4
    assert torch.equal(resized & clear, (dense >= 0.5) & clear)
    assert resized.flatten(1).any(1).all()


def test_many_instances_on_a_large_image() -> None:
    image = torch.zeros(3, 1024, 1024)
    for number in range(400):
        y, x = 50 * (number // 20) + 3, 50 * (number % 20) + 3
        image[0, y : y + 30, x : x + 30] = number + 1
    tiled = predict_image(oracle, image, inference(tile=256, tile_stride=192, batch_size=8))
    assert tiled.masks.shape == (400, 1024, 1024)
    assert torch.equal(tiled.masks.any(0), image[0] > 0)
