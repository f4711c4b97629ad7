"""L_pxl with dense matrices, image by image: the plain way to write it, and the peer of the benchmark."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cast.losses.debiased_negatives import PseudoProbabilities


def dense_pixel_contrastive_loss(
    weak: Tensor,
    strong: Tensor,
    pseudo: PseudoProbabilities,
    temperature: float,
    num_negatives: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """L_pxl with the paper's formula everywhere (`fusion`, masks compared across images too).

    Args:
        weak: float32 (B, N, E), unit vectors of the weak view.
        strong: float32 (B, N, E), unit vectors of the strong view; detached.
        pseudo: P_m and F_c of the same pixels.
        temperature: T.
        num_negatives: R, below B·N.
        generator: source of randomness on the same device.

    Returns:
        Scalar loss.
    """
    batch, pixels, _ = weak.shape
    y = F.normalize(torch.cat([pseudo.masks, pseudo.classes], -1), dim=-1).flatten(0, 1)
    everywhere = weak.flatten(0, 1)
    losses = []
    for b in range(batch):
        own = torch.arange(pixels, device=weak.device)
        s_deb = (1.0 - y[b * pixels + own] @ y.T).clamp(min=1e-6)
        noise = torch.rand(s_deb.shape, generator=generator, device=weak.device)
        keys = s_deb.log() - (-noise.log()).log()
        keys[own, b * pixels + own] = -torch.inf
        negatives = everywhere[keys.topk(num_negatives, dim=1).indices]
        positive = (weak[b] * strong[b].detach()).sum(-1, keepdim=True)
        negative = torch.einsum("pe,pre->pr", weak[b], negatives)
        logits = torch.cat([positive, negative], 1) / temperature
        losses.append(-logits.log_softmax(1)[:, 0])
    return torch.stack(losses).mean()
