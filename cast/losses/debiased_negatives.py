"""Which pixels may be pushed apart: s_deb and the sampling of negatives (arXiv 2505.21904, section 3).

Letters in shapes: B images, N = h·w pixels of the feature map, M = B·N pixels of the batch (flat index
b·N + p), K queries, C classes, A anchors, P candidates, R negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Sampling = Literal["uniform", "mask_only", "class_only", "fusion"]

# 1 − cosine of equal unit vectors in float32 is not exactly 0: below this it is rounding, and counts as 0.
_ROUNDING = 1e-6
# Logarithm that stands for s_deb = 0: under any log s_deb + Gumbel noise, over −inf, which is "never".
_LOG_ZERO = -1e4
# Proposals per wanted negative beyond the expected number, and the share of anchors they need not suffice for
# (those are finished exactly, by the slower race). They set the speed only, never the distribution.
_PROPOSAL_SLACK = 1.3
_SLOW_SHARE = 0.05


@dataclass(frozen=True)
class PseudoProbabilities:
    """The model's own detached view of each pixel of the feature map.

    Attributes:
        masks: float32 (B, N, K), P_m transposed; sums to 1 over the valid queries, 0 on the others and in
            images without a valid query.
        classes: float32 (B, N, C+1), F_c; sums to 1, no-object last.
    """

    masks: Tensor
    classes: Tensor


@torch.no_grad()
def pseudo_probabilities(
    mask_logits: Tensor, class_probabilities: Tensor, query_valid: Tensor, size: tuple[int, int]
) -> PseudoProbabilities:
    """P_m, the mask logits resized to the feature map and softmaxed over the valid queries, and F_c.

    Args:
        mask_logits: float (B, K, H', W'); K may be 0.
        class_probabilities: float (B, K, C+1), P_c, no-object last.
        query_valid: bool (B, K), False on padding.
        size: (h, w) of the feature map.

    Returns:
        P_m and F_c. A pixel that no valid query explains is wholly no-object.
    """
    batch, queries = query_valid.shape
    with torch.autocast(mask_logits.device.type, enabled=False):
        valid = query_valid[:, None, :]
        if queries == 0:
            logits = mask_logits.new_zeros(batch, size[0] * size[1], 0, dtype=torch.float32)
        else:
            resized = F.interpolate(
                mask_logits.float(), size=size, mode="bilinear", align_corners=False, antialias=True
            )
            logits = resized.flatten(2).transpose(1, 2)
        lowest = torch.finfo(torch.float32).min
        masks = logits.masked_fill(~valid, lowest).softmax(-1).masked_fill(~valid, 0.0)
        per_query = class_probabilities.float().masked_fill(~query_valid[:, :, None], 0.0)
        classes = masks @ per_query
        total = classes.sum(-1, keepdim=True)
        no_object = torch.zeros_like(classes)
        no_object[..., -1] = 1.0
        classes = torch.where(
            total > 0, classes / total.clamp_min(torch.finfo(torch.float32).tiny), no_object
        )
    return PseudoProbabilities(masks, classes)


@dataclass(frozen=True)
class DebiasVectors:
    """Unit vectors whose inner product is the likeness of two pixels, 1 − s_deb.

    Attributes:
        everywhere: float32 (M, G), for any pair of pixels; G = 0 makes all pairs wholly unlike.
        within: float32 (M, G'), takes its place for pairs of one image; None where there is no difference.
        pixels_per_image: N.
    """

    everywhere: Tensor
    within: Tensor | None
    pixels_per_image: int


def debias_vectors(pseudo: PseudoProbabilities, sampling: Sampling, cross_image_masks: bool) -> DebiasVectors:
    """ỹ of every pixel of the batch.

    A query index means nothing across images. So without `cross_image_masks` a pair from two images counts
    only its class part, re-normalised; `mask_only` has none, and takes the pair as wholly unlike (s_deb = 1):
    pixels of different images never lie in the same instance. With `cross_image_masks` the paper's formula
    holds everywhere.

    Args:
        pseudo: P_m and F_c of B images.
        sampling: `uniform` (no y), `mask_only` (y = P_m), `class_only` (y = F_c) or `fusion` (both).
        cross_image_masks: compare mask parts across images too.
    """
    masks, classes = (
        pseudo.masks.detach().flatten(0, 1).float(),
        pseudo.classes.detach().flatten(0, 1).float(),
    )
    fused = torch.cat([masks, classes], 1)
    nothing = classes[:, :0]
    parts: dict[Sampling, tuple[Tensor, Tensor]] = {  # (across images, within an image)
        "uniform": (nothing, nothing),
        "mask_only": (nothing, masks),
        "class_only": (classes, classes),
        "fusion": (classes, fused),
    }
    across, within = parts[sampling]
    unit = F.normalize(within, dim=1)
    if cross_image_masks or across is within:
        return DebiasVectors(unit, None, pseudo.masks.shape[1])
    return DebiasVectors(F.normalize(across, dim=1), unit, pseudo.masks.shape[1])


@torch.no_grad()
def dissimilarity(vectors: DebiasVectors, anchors: Tensor, candidates: Tensor) -> Tensor:
    """s_deb = max(0, 1 − ⟨ỹ, ỹ′⟩) of a chunk of anchors against a pool; rounding errors count as 0.

    Args:
        vectors: ỹ of the batch.
        anchors: int64 (A,), ascending flat pixel indices.
        candidates: int64 (P,), ascending flat pixel indices.

    Returns:
        float32 (A, P) in 0 … 1.
    """
    with torch.autocast(vectors.everywhere.device.type, enabled=False):
        likeness = vectors.everywhere[anchors] @ vectors.everywhere[candidates].T
        if vectors.within is not None and len(anchors) and len(candidates):
            pixels = vectors.pixels_per_image
            first, last = int(anchors[0]) // pixels, int(anchors[-1]) // pixels
            edges = torch.arange(first, last + 2, device=anchors.device) * pixels
            rows = torch.searchsorted(anchors, edges).tolist()
            columns = torch.searchsorted(candidates, edges).tolist()
            for i in range(last - first + 1):
                r, c = slice(rows[i], rows[i + 1]), slice(columns[i], columns[i + 1])
                likeness[r, c] = vectors.within[anchors[r]] @ vectors.within[candidates[c]].T
    return F.threshold(likeness.neg_().add_(1.0), _ROUNDING, 0.0, inplace=True)


@torch.no_grad()
def sample_negatives(s_deb: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw `count` candidates per anchor without replacement, with probability ∝ s_deb (Gumbel top-k).

    Candidates with s_deb = 0 come in, uniformly, only when fewer than `count` others exist: the limit of
    s_deb + ε for ε → 0, which for an anchor all of whose candidates are identical to it is uniform sampling.

    Large pools take a shortcut of the same distribution: uniform proposals, accepted with probability
    s_deb / max s_deb, are draws ∝ s_deb with replacement; the first `count` distinct ones are draws without.
    Anchors whose proposals run out continue with the race of Gumbel keys over the candidates not yet drawn.

    Args:
        s_deb: float32 (A, P); negative marks candidates that must not be drawn.
        count: at most the number of candidates that may be drawn.
        generator: source of randomness on the device of `s_deb`.

    Returns:
        int64 (A, count), columns of `s_deb`.
    """
    rows, pool = s_deb.shape
    proposals_wanted = _proposal_count(s_deb, count) if rows and count else pool
    if 2 * proposals_wanted > pool:  # the race over all candidates costs no more
        return _gumbel_top_k(s_deb, count, generator)
    proposals = torch.randint(pool, (rows, proposals_wanted), generator=generator, device=s_deb.device)
    noise = torch.rand(proposals.shape, generator=generator, device=s_deb.device)
    accepted = noise * s_deb.amax(1, keepdim=True) < s_deb.gather(1, proposals)
    order = torch.arange(proposals_wanted, dtype=torch.int32, device=s_deb.device)
    order = torch.where(accepted, order, proposals_wanted)
    first = torch.full((rows, pool), proposals_wanted, dtype=torch.int32, device=s_deb.device)
    first.scatter_reduce_(1, proposals, order, "amin")
    fresh = accepted & (first.gather(1, proposals) == order)
    drawn = fresh & (fresh.cumsum(1) <= count)
    complete = drawn.sum(1) == count
    if complete.all():
        return proposals[drawn].view(rows, count)
    negatives = proposals.new_empty(rows, count)
    negatives[complete] = proposals[complete][drawn[complete]].view(-1, count)
    short = ~complete
    held = torch.zeros_like(s_deb[short]).scatter_add_(1, proposals[short], drawn[short].float())
    negatives[short] = _gumbel_top_k(s_deb[short], count, generator, held > 0)
    return negatives


def _proposal_count(s_deb: Tensor, count: int) -> int:
    """Uniform proposals that give nearly every anchor `count` accepted ones."""
    accepted_share = s_deb.mean(1) / s_deb.amax(1).clamp_min(_ROUNDING)
    typical = accepted_share.kthvalue(1 + int(_SLOW_SHARE * (len(s_deb) - 1))).values.item()
    return math.ceil(_PROPOSAL_SLACK * count / max(typical, 1.0 / s_deb.shape[1]))


def _gumbel_top_k(
    s_deb: Tensor, count: int, generator: torch.Generator | None, held: Tensor | None = None
) -> Tensor:
    """The `count` largest keys log s_deb + Gumbel noise of each row; those `held` are in already."""
    uniform = torch.rand(s_deb.shape, generator=generator, device=s_deb.device)
    keys = uniform.clamp_(torch.finfo(torch.float32).tiny).log_().neg_().log_().neg_()
    keys += torch.where(s_deb > 0, s_deb.clamp_min(_ROUNDING).log(), _LOG_ZERO)
    keys.masked_fill_(s_deb < 0, -torch.inf)
    if held is not None:
        keys.masked_fill_(held, torch.inf)
    return keys.topk(count, dim=1, sorted=False).indices
