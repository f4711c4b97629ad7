"""J(θ; D_l, D_u; λ_semi, λ_pxl), the one objective of all stages (arXiv 2505.21904, eq. 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cast.config import ContrastiveSettings
from cast.data.batch import Batch, LearnerOutput, Target
from cast.losses.pixel_contrastive import (
    ContrastiveResult,
    PixelContrastiveLoss,
    ProjectionHead,
    Sampling,
    pseudo_probabilities,
)


class Learner(Protocol):
    """A model with its supervised loss: the student or the composite teacher in training."""

    @property
    def feature_dim(self) -> int:
        """D, channels of L_pxl's features."""

    def __call__(self, images: Tensor, targets: list[Target]) -> LearnerOutput:
        """L_sup of the images (B, 3, H, W) with the features and predictions that L_pxl needs."""

    def encode(self, images: Tensor) -> Tensor:
        """L_pxl's features (B, D, h, w)."""


@dataclass
class Terms:
    """One evaluation of J.

    Attributes:
        total: scalar to minimise.
        named: detached scalars: `sup`, `semi`, `pxl` (unweighted) and each supervised term.
        contrastive: what L_pxl sampled, for the diagnostics; None where it did not run.
        feature_size: (h, w) of the map whose pixels it compared.
        compared: the images it compared, by kind (`sup`, `semi`), in the order of its pixels.
    """

    total: Tensor
    named: dict[str, Tensor]
    contrastive: ContrastiveResult | None = None
    feature_size: tuple[int, int] | None = None
    compared: dict[str, Batch] = field(default_factory=dict)


class Objective(nn.Module):
    """J as a module: the learner and, where λ_pxl > 0, the projection head.

    Labelled images are learnt on their weak view (or strong, see `strong_labelled`), unlabelled ones on
    their strong view; L_pxl compares both views, of all or of a share of the images, and reuses the features
    of L_sup and L_semi.

    Args:
        learner: the model in training.
        lambda_semi: weight of L_semi.
        lambda_pxl: weight of L_pxl.
        sampling: strategy of the negatives.
        contrastive: settings of L_pxl.
        strong_labelled: learn labelled images on their strong view.
    """

    def __init__(
        self,
        learner: Learner,
        lambda_semi: float,
        lambda_pxl: float,
        sampling: Sampling,
        contrastive: ContrastiveSettings,
        strong_labelled: bool = False,
    ) -> None:
        super().__init__()
        self.learner = learner
        self.lambda_semi, self.lambda_pxl = lambda_semi, lambda_pxl
        self.strong_labelled = strong_labelled
        self.image_share = contrastive.image_share
        self.head: nn.Module | None = None
        if lambda_pxl > 0:
            self.head = ProjectionHead(learner.feature_dim, contrastive.embedding_dim)
            self.pixel_contrastive = PixelContrastiveLoss(contrastive, sampling)

    def forward(self, labelled: Batch | None, unlabelled: Batch | None, temperature: float) -> Terms:
        """Evaluate J on one batch of each kind (at least one).

        Args:
            labelled: images of D_l with ground truth.
            unlabelled: images of D_u with pseudo-labels.
            temperature: T of L_pxl at this step.
        """
        parts = []
        if labelled is not None:
            parts.append(("sup", 1.0, labelled, self.strong_labelled))
        if unlabelled is not None:
            parts.append(("semi", self.lambda_semi, unlabelled, True))
        named: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        outputs = []
        for name, weight, batch, on_strong in parts:
            output = self.learner(batch.strong_images if on_strong else batch.weak_images, batch.targets)
            loss = torch.stack([term.float() for term in output.losses.values()]).sum()
            named |= {f"{name}_{key}": value.detach() for key, value in output.losses.items()}
            named[name] = loss.detach()
            weighted.append(weight * loss)
            outputs.append((output, batch, on_strong))
        if self.head is None:
            return Terms(torch.stack(weighted).sum(), named)
        # Batches are shuffled, so their first images are a random choice.
        numbers = [math.ceil(self.image_share * len(batch.image_ids)) for _, batch, _ in outputs]
        outputs = [
            (output.first(number), batch.first(number), on_strong)
            for number, (output, batch, on_strong) in zip(numbers, outputs, strict=True)
        ]
        weak, strong, feature_size = self._embed(outputs)
        result = self._contrast(weak, strong, outputs, feature_size, temperature)
        named["pxl"] = result.loss.detach()
        total = torch.stack([*weighted, self.lambda_pxl * result.loss]).sum()
        kinds = [name for name, *_ in parts]
        compared = {kind: batch for kind, (_, batch, _) in zip(kinds, outputs, strict=True)}
        return Terms(total, named, result, feature_size, compared)

    def _embed(
        self, outputs: list[tuple[LearnerOutput, Batch, bool]]
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Embeddings of both views: the weak one learns, the strong one is constant."""
        assert self.head is not None
        weak, strong = [], []
        for output, batch, learnt_on_strong in outputs:
            if learnt_on_strong:
                strong.append(output.features.detach())
                weak.append(self.learner.encode(batch.weak_images))
            else:
                weak.append(output.features)
                with torch.no_grad():
                    strong.append(self.learner.encode(batch.strong_images))
        weak_embeddings = self.head(torch.cat(weak))
        with torch.no_grad():
            strong_embeddings = self.head(torch.cat(strong))
        height, width = weak[0].shape[-2:]
        return weak_embeddings, strong_embeddings, (height, width)

    def _contrast(
        self,
        weak: Tensor,
        strong: Tensor,
        outputs: list[tuple[LearnerOutput, Batch, bool]],
        size: tuple[int, int],
        temperature: float,
    ) -> ContrastiveResult:
        num_queries = max(output.mask_logits.shape[1] for output, _, _ in outputs)
        padded = [_pad_queries(output, num_queries) for output, _, _ in outputs]
        pseudo = pseudo_probabilities(
            torch.cat([mask_logits for mask_logits, _, _ in padded]),
            torch.cat([classes for _, classes, _ in padded]),
            torch.cat([valid for _, _, valid in padded]),
            size,
        )
        valid = torch.cat([batch.valid for _, batch, _ in outputs])
        valid = F.adaptive_avg_pool2d(valid[:, None].float(), size).flatten(1) > 0.5
        return self.pixel_contrastive(weak, strong, pseudo, temperature, valid=valid)


def _pad_queries(output: LearnerOutput, num_queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the K queries or prompts to `num_queries`, the padding marked invalid."""
    missing = num_queries - output.mask_logits.shape[1]
    return (
        F.pad(output.mask_logits, (0, 0, 0, 0, 0, missing)),
        F.pad(output.class_probabilities, (0, 0, 0, missing)),
        F.pad(output.query_valid, (0, missing), value=False),
    )
