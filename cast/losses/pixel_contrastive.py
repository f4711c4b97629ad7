"""L_pxl: instance-aware pixel-wise contrastive loss with debiased negatives (arXiv 2505.21904, section 3).

Letters in shapes: B images, N = h·w pixels of the feature map, M = B·N pixels of the batch (flat index
b·N + p), D encoder channels, E embedding channels, A anchors, R negatives.

The matrix of all pairs (M, M) never exists. Anchors pass in chunks through the sampler, which keeps R indices
of each; the R inner products and their gradient are then taken straight from the indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cast.config import ContrastiveSettings
from cast.losses.debiased_negatives import (
    PseudoProbabilities,
    Sampling,
    debias_vectors,
    dissimilarity,
    pseudo_probabilities,
    sample_negatives,
)

__all__ = [
    "ContrastiveResult",
    "PixelContrastiveLoss",
    "ProjectionHead",
    "PseudoProbabilities",
    "Sampling",
    "contrast",
    "debias_vectors",
    "dissimilarity",
    "pseudo_probabilities",
    "sample_negatives",
    "temperature_at",
]


class ProjectionHead(nn.Module):
    """Per-pixel projection: in → E → E → E, ReLU, no bias, then L2 norm; float32 also under autocast."""

    def __init__(self, in_dim: int, embedding_dim: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_dim, embedding_dim, bias=False),
            nn.ReLU(),
            nn.Linear(embedding_dim, embedding_dim, bias=False),
            nn.ReLU(),
            nn.Linear(embedding_dim, embedding_dim, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project a feature map.

        Args:
            features: float (B, D, h, w).

        Returns:
            float32 (B, N, E), unit vectors z, row-major over the map.
        """
        with torch.autocast(features.device.type, enabled=False):
            pixels = features.float().flatten(2).transpose(1, 2)
            return F.normalize(self.layers(pixels), dim=-1, eps=1e-6)


@dataclass
class ContrastiveResult:
    """L_pxl of one batch and what its diagnostics need.

    Attributes:
        loss: scalar, unweighted L_pxl.
        anchors: int64 (A,), flat pixel indices b·N + p.
        negatives: int64 (A, R), flat pixel indices.
        positive_similarity: float32 (A,), ⟨z_weak, z_strong⟩, detached.
        negative_similarity: float32 (A, R), ⟨z_weak, z_weak′⟩, detached.
    """

    loss: Tensor
    anchors: Tensor
    negatives: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor


class PixelContrastiveLoss(nn.Module):
    """L_pxl = −1/A Σ log(e^{s⁺} / (e^{s⁺} + Σ_r e^{s⁻_r})) over the anchors, all valid pixels by default."""

    def __init__(self, settings: ContrastiveSettings, sampling: Sampling = "fusion") -> None:
        super().__init__()
        self.settings = settings
        self.sampling: Sampling = sampling

    def forward(
        self,
        weak: Tensor,
        strong: Tensor,
        pseudo: PseudoProbabilities,
        temperature: float,
        valid: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> ContrastiveResult:
        """Sample negatives and compute the loss, in float32 also under autocast.

        Args:
            weak: float (B, N, E), unit vectors of the weak view; the gradient flows here only.
            strong: float (B, N, E), unit vectors of the strong view; detached.
            pseudo: P_m and F_c of the same pixels.
            temperature: T.
            valid: bool (B, N), False on padding, which neither anchors nor serves as a negative.
            generator: source of randomness on the same device.

        Returns:
            The loss with its samples. R shrinks to all the candidates where fewer exist; without any, or
            without valid pixels, the loss is 0.
        """
        with torch.autocast(weak.device.type, enabled=False):
            weak, strong = weak.float().flatten(0, 1), strong.detach().float().flatten(0, 1)
            pixels = torch.arange(len(weak), device=weak.device)
            if valid is not None:
                pixels = pixels[valid.flatten()]
            anchors = _subset(pixels, self.settings.num_anchors, generator)
            candidates = _subset(pixels, self.settings.candidate_pool, generator)
            negatives = self._negatives(pseudo, anchors, candidates, generator)
            if len(anchors) == 0:
                nothing = weak.new_zeros(0)
                return ContrastiveResult(weak.sum() * 0.0, anchors, negatives, nothing, nothing.view(0, 0))
            loss, positive, negative = contrast(weak, strong, anchors, negatives, temperature)
        return ContrastiveResult(loss, anchors, negatives, positive, negative)

    def _negatives(
        self,
        pseudo: PseudoProbabilities,
        anchors: Tensor,
        candidates: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        vectors = debias_vectors(pseudo, self.sampling, self.settings.cross_image_masks)
        # One less than the pool: the anchor itself may be in it.
        count = min(self.settings.num_negatives, max(len(candidates) - 1, 0))
        chunks = [anchors.new_zeros(0, count)]
        for chunk in anchors.split(self.settings.anchor_chunk) if count else ():
            s_deb = dissimilarity(vectors, chunk, candidates)
            column = torch.searchsorted(candidates, chunk).clamp_max(len(candidates) - 1)
            itself = candidates[column] == chunk
            s_deb[itself.nonzero().squeeze(1), column[itself]] = -1.0
            chunks.append(candidates[sample_negatives(s_deb, count, generator)])
        return torch.cat(chunks) if count else anchors.new_zeros(len(anchors), 0)


def _subset(pixels: Tensor, size: int | None, generator: torch.Generator | None) -> Tensor:
    """A random subset in ascending order; all of them when no size, or a larger one, is asked for."""
    if size is None or size >= len(pixels):
        return pixels
    chosen = torch.randperm(len(pixels), generator=generator, device=pixels.device)[:size]
    return pixels[chosen.sort().values]


def contrast(
    weak: Tensor, strong: Tensor, anchors: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss for given negatives.

    Args:
        weak: float32 (M, E).
        strong: float32 (M, E), treated as constant.
        anchors: int64 (A,), A > 0.
        negatives: int64 (A, R), R may be 0.
        temperature: T.

    Returns:
        (loss scalar, ⟨z_weak, z_strong⟩ (A,), ⟨z_weak, z_weak′⟩ (A, R)); only the loss is differentiable.
    """
    loss, positive, negative = _Contrast.apply(weak, strong, anchors, negatives, temperature)
    return loss, positive, negative


class _Contrast(torch.autograd.Function):
    """The loss with its closed-form gradient, found in the forward pass so that no (A, R, E) tensor exists.

    `embedding_bag` sums weighted rows given by index without gathering them. Its derivative by the weights is
    the inner product wanted here, its value Σ_r w_r z_r the anchors' gradient, its derivative by the rows the
    negatives' gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, weak: Tensor, strong: Tensor, anchors: Tensor, negatives: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, others = weak.detach(), strong[anchors]
        z = rows[anchors]
        positive = (z * others).sum(1)
        negative = _sampled_products(z, rows, negatives)
        logits = torch.cat([positive[:, None], negative], 1) / temperature
        log_p = logits.log_softmax(1)
        ctx.mark_non_differentiable(positive, negative)
        if ctx.needs_input_grad[0]:
            slope = log_p.exp()
            slope[:, 0] -= 1.0
            slope /= temperature * len(anchors)
            by_row, by_anchor = _sampled_gradients(z, rows, negatives, slope[:, 1:].contiguous())
            by_anchor = by_anchor.addcmul_(slope[:, :1], others)
            ctx.save_for_backward(by_row.index_add_(0, anchors, by_anchor))
        return -log_p[:, 0].mean(), positive, negative

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, *_: Any) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return loss_gradient * gradient, None, None, None, None


def _sampled_products(z: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """⟨z_a, rows[index[a, r]]⟩ as (A, R)."""
    if index.numel() == 0:
        return z.new_zeros(index.shape)
    with torch.enable_grad():
        weights = z.new_zeros(index.shape).requires_grad_()
        bags = F.embedding_bag(index, rows, per_sample_weights=weights, mode="sum")
    return torch.autograd.grad(bags, weights, z)[0]


def _sampled_gradients(z: Tensor, rows: Tensor, index: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of Σ slope·⟨z_a, rows[index[a, r]]⟩ by rows (M, E) and by z (A, E)."""
    if index.numel() == 0:
        return torch.zeros_like(rows), torch.zeros_like(z)
    with torch.enable_grad():
        leaf = rows.detach().requires_grad_()
        bags = F.embedding_bag(index, leaf, per_sample_weights=slope, mode="sum")
    return torch.autograd.grad(bags, leaf, z)[0], bags.detach().clone()


def temperature_at(step: int, steps: int, settings: ContrastiveSettings) -> float:
    """T of a step: linear from `temperature_start` at step 0 to `temperature_end` at step `steps` − 1."""
    progress = min(max(step / max(steps - 1, 1), 0.0), 1.0)
    return settings.temperature_start + progress * (settings.temperature_end - settings.temperature_start)
