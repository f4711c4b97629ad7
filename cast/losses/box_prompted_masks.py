"""L_sup of the segmenter: box-prompted masks, SAM 2's losses (arXiv 2408.00714, appendix on training)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from cast.config import TeacherLossSettings

# RetinaNet's values, which SAM and SAM 2 keep.
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


class BoxPromptedMaskLoss(nn.Module):
    """Focal, dice and IoU-prediction loss, each a mean over the valid prompts, weighted.

    Args:
        settings: the three weights.
    """

    def __init__(self, settings: TeacherLossSettings) -> None:
        super().__init__()
        self.weights = {
            "mask_focal": settings.mask_focal_weight,
            "mask_dice": settings.mask_dice_weight,
            "mask_iou": settings.mask_iou_weight,
        }

    def forward(
        self,
        mask_logits: Float[Tensor, "B N H W"],
        predicted_iou: Float[Tensor, "B N"],
        masks: Bool[Tensor, "B N H W"],
        valid: Bool[Tensor, "B N"],
    ) -> dict[str, Tensor]:
        """The weighted terms, computed in float32.

        Args:
            mask_logits: predictions, at the resolution of `masks`.
            predicted_iou: the model's own estimate, 0 … 1.
            masks: ground truth.
            valid: False where a prompt is padding; those have no influence.

        Returns:
            Scalars `mask_focal`, `mask_dice`, `mask_iou`; zeros in the graph when no prompt is valid.
        """
        if not valid.any():
            nothing = 0.0 * (mask_logits.float().sum() + predicted_iou.float().sum())
            return dict.fromkeys(self.weights, nothing)
        logits, truth = mask_logits[valid].float().flatten(1), masks[valid].flatten(1)
        terms = {
            "mask_focal": sigmoid_focal_loss(
                logits, truth.float(), FOCAL_ALPHA, FOCAL_GAMMA, reduction="mean"
            ),
            "mask_dice": dice_loss(logits, truth).mean(),
            "mask_iou": (predicted_iou[valid].float() - mask_iou(logits, truth)).abs().mean(),
        }
        return {name: self.weights[name] * term for name, term in terms.items()}


def dice_loss(logits: Float[Tensor, "N P"], masks: Bool[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """1 − (2 Σ p·g + 1) / (Σ p + Σ g + 1) per mask; p = sigmoid(logits), g = ground truth (V-Net)."""
    probabilities, truth = logits.sigmoid(), masks.float()
    overlap = (probabilities * truth).sum(-1)
    return 1.0 - (2.0 * overlap + 1.0) / (probabilities.sum(-1) + truth.sum(-1) + 1.0)


@torch.no_grad()
def mask_iou(logits: Float[Tensor, "N P"], masks: Bool[Tensor, "N P"]) -> Float[Tensor, " N"]:
    """IoU of each predicted mask (logit > 0) with its ground truth; what the IoU head learns to predict."""
    predicted = logits > 0
    overlap = (predicted & masks).sum(-1).float()
    return overlap / (predicted | masks).sum(-1).clamp(min=1).float()
