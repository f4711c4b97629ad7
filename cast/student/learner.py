"""The student in training: images and targets in, weighted losses and detached predictions out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cast.data.batch import LearnerOutput, Target
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.student.model import Student


class StudentLearner(nn.Module):
    """A student with its set criterion, behind the interface that the objective shares with the teacher."""

    def __init__(self, student: Student, criterion: MaskClassificationCriterion) -> None:
        """`criterion` must be for the student's number of classes."""
        super().__init__()
        assert student.num_classes == criterion.num_classes
        self.student = student
        self.criterion = criterion

    @property
    def feature_dim(self) -> int:
        """Channels of `features`."""
        return self.student.feature_dim

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
        return LearnerOutput(losses, output.features, masks, classes.float().softmax(-1), valid)

    def encode(self, images: Tensor) -> Tensor:
        """The encoder's deepest map (B, D, h, w)."""
        return self.student.encode(images)
