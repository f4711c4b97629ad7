"""Hungarian matching of queries to instances on sampled points (Mask2Former, arXiv 2112.01527, section 3.3).

Letters in shapes: L decoder layers, B images, Q queries, C classes without no-object, N instances (of all
images, one after the other), P points, H×W pixels of the targets, h×w cells of the mask logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from cast.config import CriterionSettings
from cast.data.batch import Target


@dataclass(frozen=True)
class Matches:
    """Matched pairs, all int64 (M,) on the predictions' device.

    Attributes:
        layers: decoder layer of the pair.
        images: image of the pair.
        queries: the query.
        instances: index among the instances of all images, one after the other.
    """

    layers: Tensor
    images: Tensor
    queries: Tensor
    instances: Tensor


@torch.no_grad()
def match(
    mask_logits: Sequence[Tensor],
    class_logits: Sequence[Tensor],
    targets: Sequence[Target],
    settings: CriterionSettings,
) -> Matches:
    """Match each layer's queries to each image's instances at the least total cost.

    The cost of a pair is class_weight · (−p(label)) + mask_weight · BCE + dice_weight · dice, on points
    shared by the queries and instances of an image. All costs go to the CPU in one transfer.

    Args:
        mask_logits: L tensors (B, Q, h, w).
        class_logits: L tensors (B, Q, C+1).
        targets: B targets; images may have no instance, or more instances than queries.
        settings: weights and number of points.

    Returns:
        min(Q, N of the image) pairs per layer and image.
    """
    device = mask_logits[0].device
    counts = [len(target.labels) for target in targets]
    points = torch.rand(len(targets), settings.num_points, 2, device=device)
    labels = _padded([target.labels for target in targets])
    sampled = [
        sample_masks(t.masks, p.expand(len(t.masks), -1, -1)) for t, p in zip(targets, points, strict=True)
    ]
    truth = _padded(sampled)
    costs = [
        pair_costs(sample_logits(masks.float(), points), classes.float(), truth, labels, settings)
        for masks, classes in zip(mask_logits, class_logits, strict=True)
    ]
    return _assign(torch.stack(costs).cpu().numpy(), counts, device)


def pair_costs(
    logits: Tensor, class_logits: Tensor, truth: Tensor, labels: Tensor, settings: CriterionSettings
) -> Tensor:
    """Cost of every query with every instance of its image.

    Args:
        logits: mask logits at the points, (B, Q, P).
        class_logits: (B, Q, C+1).
        truth: masks at the same points in 0 … 1, (B, N, P), padded.
        labels: int64 (B, N), padded with any class.
        settings: the three weights.

    Returns:
        (B, Q, N); entries that are not finite become the greatest float, so that such a pair is made only
        when no other is left.
    """
    classes = -class_logits.softmax(-1).gather(2, labels[:, None].expand(-1, logits.shape[1], -1))
    # BCE(x, t) = softplus(x) − x·t, so one product with the targets serves all pairs.
    transposed = truth.transpose(1, 2)
    cross_entropy = (F.softplus(logits).sum(-1, keepdim=True) - logits @ transposed) / logits.shape[-1]
    probabilities = logits.sigmoid()
    overlap = 2 * probabilities @ transposed
    total = probabilities.sum(-1, keepdim=True) + truth.sum(-1)[:, None]
    dice = 1 - (overlap + 1) / (total + 1)
    cost = (
        settings.class_weight * classes + settings.mask_weight * cross_entropy + settings.dice_weight * dice
    )
    worst = torch.finfo(cost.dtype).max
    return cost.nan_to_num(nan=worst, posinf=worst, neginf=worst)


def sample_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples with a gradient: (B, Q, P) from (B, Q, h, w) at points (B, P, 2), x and y in 0 … 1."""
    return F.grid_sample(logits, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of boolean masks, equal to `grid_sample` on floats with zeros outside.

    Reads the four neighbours of each point, so full-size masks are never turned into floats.

    Args:
        masks: bool (N, H, W).
        points: (N, P, 2), x and y in 0 … 1.

    Returns:
        float32 (N, P) in 0 … 1.
    """
    height, width = masks.shape[-2:]
    flat = masks.flatten(1)
    x, y = (points[..., 0] * width - 0.5), (points[..., 1] * height - 0.5)
    left, top = x.floor(), y.floor()
    total = torch.zeros_like(x)
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            total += weight_x * weight_y * (flat.gather(1, index) & inside)
    return total


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stack (N_b, …) into (B, max N, …) with zeros."""
    longest = max(len(tensor) for tensor in tensors)
    stacked = tensors[0].new_zeros(len(tensors), longest, *tensors[0].shape[1:])
    for row, tensor in enumerate(tensors):
        stacked[row, : len(tensor)] = tensor
    return stacked


def _assign(costs: np.ndarray, counts: Sequence[int], device: torch.device) -> Matches:
    """Hungarian assignment of (L, B, Q, N) costs, the first counts[b] instances of each image."""
    starts = np.cumsum([0, *counts])
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for layer in range(costs.shape[0]):
        for image, count in enumerate(counts):
            queries, instances = linear_sum_assignment(costs[layer, image, :, :count])
            row = (
                np.full(len(queries), layer),
                np.full(len(queries), image),
                queries,
                instances + starts[image],
            )
            for column, values in zip(columns, row, strict=True):
                column.append(values)
    merged = torch.from_numpy(np.stack([np.concatenate(column).astype(np.int64) for column in columns]))
    return Matches(*merged.to(device))
