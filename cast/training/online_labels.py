"""Pseudo-labels made while a model trains, by the running average of its own weights.

Unbiased Teacher (arXiv 2102.09480), Guided Distillation (2308.02668) and PAIS (2308.05359) share this; they
differ in the burn-in before it, the score threshold and the weighting (`OnlineSettings`).
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from cast.config import InferenceSettings, OnlineSettings
from cast.data.batch import Batch, Instances, Target
from cast.data.suppression import mask_nms


class Predictor(Protocol):
    """A student or composite teacher."""

    def predict(
        self, images: Tensor, inference: InferenceSettings, cores: Tensor | None = None
    ) -> list[Instances]:
        """Instances of images (B, 3, H, W) at that size."""


class OnlineLabeller:
    """Labels a batch's weak views, for the model to learn on the strong ones.

    Args:
        ema_model: the averaged student or teacher; labels in eval mode.
        settings: threshold, smallest area and weighting.
        inference: how the model predicts; its score threshold gives way to that of `settings`.
    """

    def __init__(self, ema_model: nn.Module, settings: OnlineSettings, inference: InferenceSettings) -> None:
        self.ema_model: Predictor = cast(Predictor, ema_model.eval())
        self.settings = settings
        self.inference = inference.model_copy(update={"score_threshold": settings.score_threshold})

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch | None:
        """The batch with pseudo-labels for targets; None when no image has any.

        An image without is left out: that nothing was recognised with confidence is no evidence that it is
        empty.
        """
        found = self.ema_model.predict(batch.weak_images, self.inference)
        targets = [self._target(*pair) for pair in zip(found, batch.valid, strict=True)]
        keep = [place for place, target in enumerate(targets) if len(target.labels)]
        labelled = Batch(batch.weak_images, batch.strong_images, targets, batch.valid, batch.image_ids)
        return labelled.images(keep) if keep else None

    def _target(self, instances: Instances, valid: Tensor) -> Target:
        """One image's pseudo-labels, none of them on padding."""
        instances = mask_nms(instances, self.inference.nms_iou)
        masks = instances.masks.to(valid.device) & valid
        large = masks.flatten(1).sum(1) > self.settings.min_area
        weights = None
        if self.settings.weighting == "quality":
            assert instances.confidences is not None, "whole crops, no windows"
            weights = instances.confidences.to(valid.device)[large]
        return Target(masks[large], instances.labels.to(valid.device)[large], weights)
