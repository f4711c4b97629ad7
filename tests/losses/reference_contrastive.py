"""L_pxl pixel by pixel from the equations, in float64 with Python loops: slow, and meant to be."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pixel_vector(masks: Tensor, classes: Tensor, sampling: str, with_masks: bool) -> list[float]:
    """y of one pixel: [P_m ‖ F_c] or the parts that the strategy keeps."""
    y: list[float] = []
    if sampling in ("mask_only", "fusion") and with_masks:
        y += [float(value) for value in masks]
    if sampling in ("class_only", "fusion"):
        y += [float(value) for value in classes]
    return y


def dissimilarity(
    masks: Tensor, classes: Tensor, first: int, second: int, sampling: str, cross_image_masks: bool
) -> float:
    """s_deb of two pixels by flat index; masks (B, N, K), classes (B, N, C+1)."""
    pixels = masks.shape[1]
    (b1, p1), (b2, p2) = divmod(first, pixels), divmod(second, pixels)
    with_masks = cross_image_masks or b1 == b2
    y1 = pixel_vector(masks[b1, p1], classes[b1, p1], sampling, with_masks)
    y2 = pixel_vector(masks[b2, p2], classes[b2, p2], sampling, with_masks)
    norm1 = math.sqrt(sum(value * value for value in y1))
    norm2 = math.sqrt(sum(value * value for value in y2))
    if norm1 == 0 or norm2 == 0:
        return 1.0
    inner = sum(a * b for a, b in zip(y1, y2, strict=True)) / (norm1 * norm2)
    return max(0.0, 1.0 - inner)


def fused_classes(
    mask_logits: Tensor, class_probabilities: Tensor, query_valid: Tensor
) -> tuple[Tensor, Tensor]:
    """P_m (N, K) and F_c (N, C+1) of one image whose mask logits (K, N) are at the feature map's size."""
    queries, pixels = mask_logits.shape
    masks = torch.zeros(pixels, queries, dtype=torch.float64)
    classes = torch.zeros(pixels, class_probabilities.shape[-1], dtype=torch.float64)
    used = [k for k in range(queries) if query_valid[k]]
    for p in range(pixels):
        total = sum(math.exp(float(mask_logits[k, p])) for k in used)
        for k in used:
            masks[p, k] = math.exp(float(mask_logits[k, p])) / total
        for c in range(classes.shape[1]):
            classes[p, c] = sum(float(masks[p, k]) * float(class_probabilities[k, c]) for k in used)
        mass = float(classes[p].sum())
        if mass > 0:
            classes[p] /= mass
        else:
            classes[p, -1] = 1.0
    return masks, classes


def contrastive_loss(
    weak: Tensor, strong: Tensor, anchors: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """L_pxl for given negatives; weak and strong (M, E), differentiable in `weak`."""
    weak, strong = weak.double(), strong.detach().double()
    total = weak.new_zeros(())
    for row, a in enumerate(anchors.tolist()):
        positive = torch.exp(weak[a] @ strong[a] / temperature)
        denominator = positive
        for q in negatives[row].tolist():
            denominator = denominator + torch.exp(weak[a] @ weak[q] / temperature)
        total = total - torch.log(positive / denominator)
    return total / len(anchors)
