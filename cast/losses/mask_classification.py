"""Mask2Former's set criterion, L_sup and L_semi of the student (arXiv 2112.01527, section 3.3).

Letters in shapes: L decoder layers, B images, Q queries, C classes without no-object, M matched pairs of all
layers, P points, H×W pixels of the targets, h×w cells of the mask logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F

from cast.config import CriterionSettings
from cast.data.batch import Target
from cast.errors import CastError
from cast.losses.matching import Matches, match, sample_logits, sample_masks
from cast.student.model import StudentOutput


class MaskClassificationCriterion(nn.Module):
    """Class cross-entropy, mask BCE and dice of matched queries, summed over the decoder's layers."""

    class_weights: Tensor

    def __init__(self, settings: CriterionSettings, num_classes: int) -> None:
        """`num_classes` excludes no-object."""
        super().__init__()
        self.settings = settings
        self.num_classes = num_classes
        weights = torch.ones(num_classes + 1)
        weights[-1] = settings.no_object_weight
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, output: StudentOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Unweighted losses, each summed over the layers (deep supervision).

        Args:
            output: predictions of B images.
            targets: B targets at the images' size, on the predictions' device.

        Returns:
            `class` (mean over queries, weighted by class), `mask` and `dice` (per instance), and `semantic`
            (mean over pixels) when its weight is not zero. Always finite for finite predictions.

        Raises:
            CastError: `semantic_weight` is set for a student without a semantic head.
        """
        # Half precision would lose the sums over thousands of points.
        with torch.autocast(output.features.device.type, enabled=False):
            matches = match(output.mask_logits, output.class_logits, targets, self.settings)
            losses = {"class": self._class_loss(output.class_logits, targets, matches)}
            losses["mask"], losses["dice"] = self._mask_losses(output.mask_logits, targets, matches)
            if self.settings.semantic_weight > 0:
                losses["semantic"] = self._semantic_loss(output.semantic_logits, targets)
        return losses

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses times their weights; their sum is L_sup."""
        settings = self.settings
        weights = {
            "class": settings.class_weight,
            "mask": settings.mask_weight,
            "dice": settings.dice_weight,
            "semantic": settings.semantic_weight,
        }
        return {name: weights[name] * loss for name, loss in losses.items()}

    def _class_loss(
        self, class_logits: Sequence[Tensor], targets: Sequence[Target], matches: Matches
    ) -> Tensor:
        logits = torch.stack(list(class_logits)).float()
        labels = torch.cat([target.labels for target in targets])
        truth = torch.full(logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device)
        truth[matches.layers, matches.images, matches.queries] = labels[matches.instances]
        losses = F.cross_entropy(
            logits.flatten(0, 2), truth.flatten(), weight=self.class_weights, reduction="none"
        )
        weights = self.class_weights[truth].flatten(1).sum(1)
        losses = losses.view(logits.shape[:3])
        counted = instance_weights(targets, "class")
        if counted is not None:
            pairs = (matches.layers, matches.images, matches.queries)
            losses = losses.index_put(pairs, losses[pairs] * counted[matches.instances])
        return (losses.flatten(1).sum(1) / weights).sum()

    def _mask_losses(
        self, mask_logits: Sequence[Tensor], targets: Sequence[Target], matches: Matches
    ) -> tuple[Tensor, Tensor]:
        """Mask BCE and dice of the matched pairs at sampled points, over the number of instances."""
        stacked = torch.stack(list(mask_logits))
        logits = stacked[matches.layers, matches.images, matches.queries].float()  # (M, h, w)
        count = instance_count(targets, logits.device)
        if len(logits) == 0:
            # Zero with a gradient path: ranks without instances must still take part in the reduction.
            nothing = stacked.float().sum() * 0
            return nothing, nothing
        masks = torch.cat([target.masks for target in targets])
        with torch.no_grad():
            points = uncertain_points(logits, self.settings)
            truth = sample_masks(masks[matches.instances], points)
        sampled = sample_logits(logits[:, None], points)[:, 0]
        mask = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none").mean(1)
        dice = dice_loss(sampled, truth)
        counted = instance_weights(targets, "mask")
        if counted is not None:
            mask, dice = mask * counted[matches.instances], dice * counted[matches.instances]
        return mask.sum() / count, dice.sum() / count

    def _semantic_loss(self, logits: Tensor | None, targets: Sequence[Target]) -> Tensor:
        if logits is None:
            raise CastError("criterion.semantic_weight: the student needs student.semantic_head: true")
        truth = torch.stack([semantic_map(target, logits.shape[-2:], self.num_classes) for target in targets])
        return F.cross_entropy(logits.float(), truth)


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 − (2 Σ p·t + 1) / (Σ p + Σ t + 1) per row: (M,) from logits and truth (M, P)."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * truth).sum(-1)
    return 1 - (overlap + 1) / (probabilities.sum(-1) + truth.sum(-1) + 1)


def uncertain_points(logits: Tensor, settings: CriterionSettings) -> Tensor:
    """PointRend's importance sampling (arXiv 1912.08193): mostly points where the mask is least certain.

    Args:
        logits: (M, h, w).
        settings: number of points, oversampling and the share chosen by uncertainty.

    Returns:
        (M, num_points, 2), x and y in 0 … 1.
    """
    pairs, device = len(logits), logits.device
    candidates = torch.rand(pairs, int(settings.num_points * settings.oversample_ratio), 2, device=device)
    uncertainty = -sample_logits(logits[:, None], candidates)[:, 0].abs()
    chosen = int(settings.importance_sample_ratio * settings.num_points)
    index = uncertainty.topk(chosen, dim=1).indices
    points = candidates.gather(1, index[..., None].expand(-1, -1, 2))
    return torch.cat([points, torch.rand(pairs, settings.num_points - chosen, 2, device=device)], 1)


def instance_count(targets: Sequence[Target], device: torch.device) -> Tensor:
    """Mean number of instances per rank, one at least: the normaliser of the mask losses."""
    count = torch.tensor(float(sum(len(target.labels) for target in targets)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


def instance_weights(targets: Sequence[Target], term: Literal["class", "mask"]) -> Tensor | None:
    """What each instance of all images counts in the class or mask terms, (N,); None where all count fully.

    Unmatched queries always count fully, and the terms are still divided by the number of instances: PAIS
    (arXiv 2308.05359) weakens what it is unsure of, and strengthens nothing in its place.
    """
    if all(target.weights is None for target in targets):
        return None
    column = ("class", "mask").index(term)
    return torch.cat(
        [
            torch.ones(len(target.labels), device=target.labels.device)
            if target.weights is None
            else target.weights[:, column]
            for target in targets
        ]
    )


def semantic_map(target: Target, size: Sequence[int], background: int) -> Tensor:
    """int64 (h, w): class at each cell's centre, `background` outside every instance; later instances win."""
    height, width = target.masks.shape[-2:]
    device = target.masks.device
    rows = ((torch.arange(size[0], device=device) + 0.5) * height / size[0]).long()
    columns = ((torch.arange(size[1], device=device) + 0.5) * width / size[1]).long()
    classes = torch.full(tuple(size), background, dtype=torch.int64, device=device)
    for mask, label in zip(target.masks[:, rows][:, :, columns], target.labels, strict=True):
        classes[mask] = label
    return classes
