"""Proposition 3.1, measured: margin Δ and false-negative rate (arXiv 2505.21904, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cast.data.batch import Target
from cast.losses.objective import Terms
from cast.losses.pixel_contrastive import ContrastiveResult

BACKGROUND = -1  # in instance-id maps: a pixel of no labelled instance, or one that must not be judged
RATES = {"sup": "false_negative_rate", "semi": "false_negative_rate_pseudo"}  # by the kind of images


def diagnose(terms: Terms) -> dict[str, float]:
    """Margin and false-negative rates of one evaluation of J; the raw loss is its `named["pxl"]`.

    Args:
        terms: of J on one batch of each kind.

    Returns:
        `margin`, `false_negative_rate` of the anchors in labelled images, against the ground truth, and
        `false_negative_rate_pseudo` of those in unlabelled images, against their pseudo-labels; nan where
        nothing can be counted. Only the rates of the kinds of images that were there; empty where L_pxl did
        not run.
    """
    if terms.contrastive is None or terms.feature_size is None:
        return {}
    size = terms.feature_size
    maps = {kind: instance_id_map(batch.targets, size) for kind, batch in terms.compared.items()}
    found = {"margin": margin(terms.contrastive)}
    for kind in maps:
        judged = [ids if other == kind else torch.full_like(ids, BACKGROUND) for other, ids in maps.items()]
        found[RATES[kind]] = false_negative_rate(terms.contrastive, torch.cat(judged))
    return found


def margin(result: ContrastiveResult) -> float:
    """Δ = mean cosine distance to negatives − mean cosine distance to positives, −2 … 2; nan without any."""
    negative_distance = 1.0 - result.negative_similarity.mean()
    positive_distance = 1.0 - result.positive_similarity.mean()
    return float(negative_distance - positive_distance)


def false_negative_rate(result: ContrastiveResult, instance_ids: Tensor) -> float:
    """Share of the sampled negatives in the anchor's own ground-truth instance, 1 − p of Proposition 3.1.

    Anchors outside every instance are left out: they have no instance of their own. A negative on background,
    or in any other image, is a true negative.

    Args:
        result: of the loss on B images.
        instance_ids: int64 (B, N), 0 … inside instances, negative elsewhere.

    Returns:
        The share in 0 … 1; nan when no anchor lies in an instance.
    """
    pixels = instance_ids.shape[1]
    flat = instance_ids.flatten()
    own = flat[result.anchors]
    counted = own >= 0
    own, anchors, negatives = own[counted, None], result.anchors[counted, None], result.negatives[counted]
    same_image = anchors // pixels == negatives // pixels
    return float((same_image & (flat[negatives] == own)).float().mean())


@torch.no_grad()
def instance_id_map(targets: Sequence[Target], size: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """Which instance each pixel of the feature map belongs to: the one that covers most of the pixel's cell.

    Args:
        targets: B targets whose masks cover the same crop.
        size: (h, w) of the feature map.
        valid: bool (B, N), False on padding.

    Returns:
        int64 (B, N): index of the instance in its target, or `BACKGROUND` where none covers more of the cell
        than background does.
    """
    maps = []
    for target in targets:
        device = target.masks.device
        if len(target.masks) == 0:
            maps.append(torch.full((size[0] * size[1],), BACKGROUND, dtype=torch.int64, device=device))
            continue
        cover = F.adaptive_avg_pool2d(target.masks.float(), size).flatten(1)
        outside = F.adaptive_avg_pool2d((~target.masks.any(0, keepdim=True)).float(), size).flatten(1)
        maps.append(torch.cat([outside, cover]).argmax(0) - 1)
    ids = torch.stack(maps)
    return ids if valid is None else ids.masked_fill(~valid, BACKGROUND)
