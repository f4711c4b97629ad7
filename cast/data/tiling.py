"""Inference on whole images and in windows, and the merging of what the windows show.

Windows overlap. Their cores, which end midway between neighbours, partition the image, and a detection
counts only where its centre lies in its window's core. An instance no larger than `tile - tile_stride`
is therefore found whole, and once. Larger ones may come in pieces: those at a cut edge lose score.

Letters in shapes: B windows, N instances, h×w pixels of a window, H×W of the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from cast.config import InferenceSettings
from cast.data.batch import Instances, mask_boxes, not_empty
from cast.data.coco import ImageRecord
from cast.data.suppression import mask_nms, suppress

Item = TypeVar("Item")
# Images (B, 3, h, w) and the windows' cores (B, 4), x0, y0, x1, y1 in pixels of the window → B results at
# that size. What lies outside its window's core may be left out; without cores everything counts.
Predict = Callable[[Tensor, Tensor | None], list[Instances]]
# A pixel belongs to a resized mask when the mask covers at least half of it.
HALF_COVERED = 0.5


@dataclass(frozen=True)
class Span:
    """A window along one axis, in pixels: its start, and the core [core_start, core_end) it answers for."""

    start: int
    core_start: int
    core_end: int


@dataclass(frozen=True)
class Piece:
    """One detection of one window: the mask within its tight box, placed in the image."""

    label: int
    score: float
    top: int
    left: int
    mask: NDArray[np.bool_]


def predict_dataset(
    predict: Predict, images: Iterable[tuple[ImageRecord, Tensor]], settings: InferenceSettings
) -> Iterator[tuple[ImageRecord, Instances]]:
    """Instances of every image, in order, at the record's size.

    Without windows, neighbours of equal size share a batch: mixed sizes make smaller batches.

    Args:
        predict: the model.
        images: records and float images (3, H, W), of the record's size or resized.
        settings: window, batch size and overlap threshold.

    Yields:
        The record and its instances on the CPU, best first, masks bool (N, record.height, record.width).
    """
    if settings.tile is not None:
        for record, image in images:
            yield record, _at_size(predict_image(predict, image, settings), record)
        return
    for _, group in itertools.groupby(images, key=lambda item: item[1].shape):
        for batch in _batches(group, settings.batch_size):
            found = predict(torch.stack([image for _, image in batch]), None)
            for (record, _), instances in zip(batch, found, strict=True):
                yield record, _at_size(mask_nms(_on_cpu(instances), settings.nms_iou), record)


def predict_image(predict: Predict, image: Tensor, settings: InferenceSettings) -> Instances:
    """Instances of one image, in windows when `settings.tile` is set.

    Args:
        predict: the model.
        image: float (3, H, W).
        settings: window, stride, batch size, overlap threshold.

    Returns:
        Instances on the CPU, best first, masks bool (N, H, W).
    """
    if settings.tile is None:
        return mask_nms(_on_cpu(predict(image[None], None)[0]), settings.nms_iou)
    height, width = image.shape[1:]
    stride = settings.tile_stride or max(1, settings.tile // 2)
    rows, columns = spans(height, settings.tile, stride), spans(width, settings.tile, stride)
    padded = _pad(image, settings.tile)
    pieces: list[Piece] = []
    for batch in _batches(itertools.product(rows, columns), settings.batch_size):
        cuts = [
            padded[:, row.start : row.start + settings.tile, column.start : column.start + settings.tile]
            for row, column in batch
        ]
        cores = torch.tensor([_core(row, column) for row, column in batch], dtype=torch.float32)
        for (row, column), instances in zip(batch, predict(torch.stack(cuts), cores), strict=True):
            pieces += _core_pieces(instances, row, column, (height, width), settings)
    return _assemble(pieces, height, width, settings.nms_iou)


def spans(length: int, tile: int, stride: int) -> list[Span]:
    """Windows along an axis of `length` pixels; the last one ends at the border.

    Their cores partition 0 … length. A window longer than the axis is the only one, and its core takes in the
    padding.
    """
    starts = [*range(0, length - tile, stride), max(0, length - tile)]
    borders = [(start + tile + following) // 2 for start, following in itertools.pairwise(starts)]
    edges = itertools.pairwise([0, *borders, starts[-1] + tile])
    return [Span(start, *edge) for start, edge in zip(starts, edges, strict=True)]


def _core(row: Span, column: Span) -> tuple[int, int, int, int]:
    """The window's core, x0, y0, x1, y1 in the window's own pixels."""
    return (
        column.core_start - column.start,
        row.core_start - row.start,
        column.core_end - column.start,
        row.core_end - row.start,
    )


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items in lists of `size`, the last one shorter."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _pad(image: Tensor, tile: int) -> Tensor:
    """The image (3, H, W) with its mean colour below and to the right up to the window's side."""
    height, width = image.shape[1:]
    if min(height, width) >= tile:
        return image
    padded = image.mean((1, 2), keepdim=True).repeat(1, max(height, tile), max(width, tile))
    padded[:, :height, :width] = image
    return padded


def _core_pieces(
    instances: Instances, row: Span, column: Span, size: tuple[int, int], settings: InferenceSettings
) -> list[Piece]:
    """The detections of one window whose box centre lies in its core; cut ones with a lower score."""
    assert settings.tile is not None
    bottom, right = row.start + settings.tile, column.start + settings.tile
    # What lies on the padding is no part of the image.
    masks = instances.masks[:, : size[0] - row.start, : size[1] - column.start].cpu()
    pieces = []
    for index in not_empty(masks):
        x0, y0, x1, y1 = mask_boxes(masks[index : index + 1])[0].long().tolist()
        centre_y, centre_x = row.start + (y0 + y1) / 2, column.start + (x0 + x1) / 2
        if not (
            row.core_start <= centre_y < row.core_end and column.core_start <= centre_x < column.core_end
        ):
            continue
        cut = (
            (y0 == 0 and row.start > 0)
            or (x0 == 0 and column.start > 0)
            or (y1 == settings.tile and bottom < size[0])
            or (x1 == settings.tile and right < size[1])
        )
        score = float(instances.scores[index]) * (settings.cut_score_factor if cut else 1.0)
        mask = masks[index, y0:y1, x0:x1].numpy().copy()
        label = int(instances.labels[index])
        pieces.append(Piece(label, score, row.start + y0, column.start + x0, mask))
    return pieces


def _assemble(pieces: Sequence[Piece], height: int, width: int, iou: float) -> Instances:
    """Full-size masks, built only for the pieces that survive the suppression."""
    boxes = np.array(
        [(p.left, p.top, p.left + p.mask.shape[1], p.top + p.mask.shape[0]) for p in pieces], dtype=np.int64
    ).reshape(-1, 4)
    scores = np.array([piece.score for piece in pieces])
    labels = np.array([piece.label for piece in pieces], dtype=np.int64)
    kept = suppress([piece.mask for piece in pieces], boxes, labels, scores, iou)
    masks = torch.zeros(len(kept), height, width, dtype=torch.bool)
    for out, index in zip(masks, kept, strict=True):
        x0, y0, x1, y1 = boxes[index]
        out[y0:y1, x0:x1] = torch.from_numpy(pieces[index].mask)
    return Instances(masks, torch.from_numpy(labels[kept]), torch.from_numpy(scores[kept]).float())


def _on_cpu(instances: Instances) -> Instances:
    return Instances(instances.masks.cpu(), instances.labels.cpu(), instances.scores.detach().cpu())


# --- the record's size --------------------------------------------------------------------------------------


def _at_size(instances: Instances, record: ImageRecord) -> Instances:
    """The instances at the record's size; those that vanish in the resize are dropped."""
    size = (record.height, record.width)
    if instances.masks.shape[1:] == size:
        return instances
    resized = Instances(resize_masks(instances.masks, size), instances.labels, instances.scores)
    return resized[torch.tensor(not_empty(resized.masks), dtype=torch.int64)]


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks by antialiased bilinear interpolation of their boxes only.

    The interpolation is separable, so a mask M becomes R·M·Cᵀ with the weights R of the rows and C of the
    columns; outside the rows and columns that a mask's box reaches the product is zero.

    Args:
        masks: bool (N, h, w).
        size: (H, W).

    Returns:
        bool (N, H, W): pixels at least half covered.
    """
    rows, columns = _weights(masks.shape[1], size[0]), _weights(masks.shape[2], size[1])
    resized = torch.zeros(len(masks), *size, dtype=torch.bool)
    for index in not_empty(masks):
        x0, y0, x1, y1 = mask_boxes(masks[index : index + 1])[0].long().tolist()
        row_range, row_weights = _reached(rows[:, y0:y1])
        column_range, column_weights = _reached(columns[:, x0:x1])
        cover = row_weights @ masks[index, y0:y1, x0:x1].float() @ column_weights.T
        resized[index, row_range, column_range] = cover >= HALF_COVERED
    return resized


def _weights(length: int, resized: int) -> Tensor:
    """Interpolation weights (resized, length) along one axis."""
    identity = torch.eye(length)[None, None]
    return interpolate(identity, size=(resized, length), mode="bilinear", antialias=True)[0, 0]


def _reached(weights: Tensor) -> tuple[slice, Tensor]:
    """The contiguous outputs with any weight on these inputs, and their weights."""
    outputs = weights.any(1).nonzero()[:, 0]
    reach = slice(int(outputs[0]), int(outputs[-1]) + 1) if len(outputs) else slice(0, 0)
    return reach, weights[reach]
