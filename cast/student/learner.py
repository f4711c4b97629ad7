"""The student in training: images and targets in, weighted losses and detached predictions out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cast.config import FeatureMap
from cast.data.batch import LearnerOutput, Target
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.student.model import Student


class StudentLearner(nn.Module):
    """A student with its set criterion, behind the interface that the objective shares with the teacher.

    Args:
        student: the model in training.
        criterion: for the student's number of classes.
        feature_map: L_pxl's features: the encoder's deepest map, or the finest, the mask features.
    """

    def __init__(
        self, student: Student, criterion: MaskClassificationCriterion, feature_map: FeatureMap = "deepest"
    ) -> None:
        super().__init__()
        assert student.num_classes == criterion.num_classes
        self.student = student
        self.criterion = criterion
        self.finest = feature_map == "finest"

    @property
    def feature_dim(self) -> int:
        """Channels of `features`."""
        return self.student.settings.decoder_dim if self.finest else self.student.feature_dim

    def forward(self, images: Tensor, targets: Sequence[Target]) -> LearnerOutput:
        """Losses and what the contrastive loss needs.

        Args:
            images: float (B, 3, H, W), RGB in 0 … 1.
            targets: B targets of that size.
        """
        output = self.student(images)
        losses = self.criterion.weighted(self.criterion(output, targets))
        masks, classes = output.mask_logits[-1].detach(), output.class_logits[-1].detach()
        valid = torch.ones(classes.shape[:2], dtype=torch.bool, device=classes.device)
        features = output.mask_features if self.finest else output.features
        return LearnerOutput(losses, features, masks, classes.float().softmax(-1), valid)

    def encode(self, images: Tensor) -> Tensor:
        """L_pxl's features (B, D, h, w)."""
        return self.student.decode_pixels(images) if self.finest else self.student.encode(images)
