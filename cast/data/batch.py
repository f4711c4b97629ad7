"""What flows between the parts: targets, batches and predicted instances.

Letters in shapes: B images, N instances, H×W pixels of the crop or image, C classes without no-object.
No dataclass is frozen: Fabric passes those that leave a module through copies that it fills in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Target:
    """The instances of one image.

    Attributes:
        masks: bool (N, H, W).
        labels: int64 (N,), class indices 0 … C-1.
        weights: float32 (N, 2), what each instance's class and mask terms count; all fully when None.
    """

    masks: Tensor
    labels: Tensor
    weights: Tensor | None = None

    @property
    def boxes(self) -> Tensor:
        """float32 (N, 4), pixel edges x0, y0, x1, y1 (x1, y1 exclusive); masks must not be empty."""
        return mask_boxes(self.masks)

    def to(self, device: torch.device) -> Target:
        """A copy on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        return Target(self.masks.to(device), self.labels.to(device), weights)


class Batch:
    """Two views of the same crops with their instances.

    No dataclass: Fabric rounds the floats in one to half precision on their way into a module.

    Attributes:
        weak_images: float32 (B, 3, H, W), RGB in 0 … 1, geometry only.
        strong_images: float32 (B, 3, H, W), the same geometry plus colour changes.
        targets: B targets (ground truth or pseudo-labels).
        valid: bool (B, H, W), False on padding.
        image_ids: COCO ids.
    """

    def __init__(
        self,
        weak_images: Tensor,
        strong_images: Tensor,
        targets: list[Target],
        valid: Tensor,
        image_ids: list[int],
    ) -> None:
        self.weak_images, self.strong_images = weak_images, strong_images
        self.targets, self.valid, self.image_ids = targets, valid, image_ids

    def first(self, number: int) -> Batch:
        """The first `number` images."""
        return Batch(
            self.weak_images[:number],
            self.strong_images[:number],
            self.targets[:number],
            self.valid[:number],
            self.image_ids[:number],
        )

    def images(self, keep: list[int]) -> Batch:
        """Those at these places."""
        return Batch(
            self.weak_images[keep],
            self.strong_images[keep],
            [self.targets[place] for place in keep],
            self.valid[keep],
            [self.image_ids[place] for place in keep],
        )

    def to(self, device: torch.device) -> Batch:
        """A copy on `device`."""
        return Batch(
            self.weak_images.to(device),
            self.strong_images.to(device),
            [target.to(device) for target in self.targets],
            self.valid.to(device),
            self.image_ids,
        )


@dataclass
class Instances:
    """Predicted instances of one image, best first.

    Attributes:
        masks: bool (N, H, W) at the image's own size.
        labels: int64 (N,), class indices 0 … C-1.
        scores: float32 (N,) in 0 … 1.
        confidences: float32 (N, 2), class score and predicted mask IoU, of which the score is made; None
            where windows were merged.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor
    confidences: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keep: Tensor) -> Instances:
        """Those selected by a boolean mask or by indices."""
        confidences = None if self.confidences is None else self.confidences[keep]
        return Instances(self.masks[keep], self.labels[keep], self.scores[keep], confidences)

    @staticmethod
    def empty(height: int, width: int) -> Instances:
        """No instances in an image of this size."""
        return Instances(
            torch.zeros(0, height, width, dtype=torch.bool),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0),
            torch.zeros(0, 2),
        )


@dataclass
class LearnerOutput:
    """What a model in training hands to the objective for one view of B images.

    Attributes:
        losses: weighted scalar terms; their sum is L_sup or L_semi.
        features: float (B, D, h, w), the map of these images that L_pxl compares.
        mask_logits: float (B, K, H', W'), detached: masks of the K queries or prompts.
        class_probabilities: float (B, K, C+1), detached, no-object last.
        query_valid: bool (B, K), False on padded prompts.
    """

    losses: dict[str, Tensor]
    features: Tensor
    mask_logits: Tensor
    class_probabilities: Tensor
    query_valid: Tensor

    def first(self, number: int) -> LearnerOutput:
        """That of the first `number` images, with the losses of all."""
        return LearnerOutput(
            self.losses,
            self.features[:number],
            self.mask_logits[:number],
            self.class_probabilities[:number],
            self.query_valid[:number],
        )


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of boolean masks.

    Args:
        masks: bool (N, H, W), none empty.

    Returns:
        float32 (N, 4), x0, y0, x1, y1 with exclusive ends, in pixels.
    """
    if len(masks) == 0:
        return torch.zeros(0, 4, device=masks.device)
    columns, rows = masks.any(1), masks.any(2)
    x0 = columns.float().argmax(1)
    y0 = rows.float().argmax(1)
    x1 = masks.shape[2] - columns.flip(1).float().argmax(1)
    y1 = masks.shape[1] - rows.flip(1).float().argmax(1)
    return torch.stack([x0, y0, x1, y1], 1).float()


def not_empty(masks: Tensor) -> list[int]:
    """Indices of the masks (N, H, W) that hold any pixel."""
    return [index for index, mask in enumerate(masks) if bool(mask.any())]
