"""The composite teacher in training: L_sup of both parts, and what L_pxl needs of them.

Letters in shapes: B images, K prompted boxes per image (padded), C classes, D feature channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from cast.config import FeatureMap, TeacherLossSettings
from cast.data.batch import LearnerOutput, Target
from cast.losses.box_prompted_masks import BoxPromptedMaskLoss
from cast.teacher.composite import CompositeTeacher
from cast.teacher.detector import Queries


@dataclass(frozen=True)
class Prompts:
    """Box prompts made from ground truth.

    Attributes:
        boxes: (B, K, 4), x0, y0, x1, y1 in pixels, jittered.
        masks: bool (B, K, H, W).
        valid: bool (B, K), False on padding; K is at least 1.
    """

    boxes: Tensor
    masks: Tensor
    valid: Tensor


class TeacherLearner(nn.Module):
    """Adapts both parts at once, or pretrains the one that the teacher has.

    The detector learns by its set loss, the segmenter by masks prompted with jittered ground-truth boxes.
    Without a segmenter the features are zeros and no query is valid; without a detector the class
    probabilities are uniform.

    Args:
        teacher: the model in training.
        settings: weights, jitter and the number of prompts.
        feature_map: L_pxl's features: SAM 2's deepest map, or its finest, of stride 4.
    """

    def __init__(
        self, teacher: CompositeTeacher, settings: TeacherLossSettings, feature_map: FeatureMap = "deepest"
    ) -> None:
        super().__init__()
        self.teacher, self.settings = teacher, settings
        self.criterion = BoxPromptedMaskLoss(settings)
        self.level = 0 if feature_map == "finest" else -1  # of the segmenter's maps, fine to coarse
        self.feature_dim = teacher.segmenter.widths[self.level] if teacher.segmenter is not None else 1

    def forward(self, images: Tensor, targets: list[Target]) -> LearnerOutput:
        """L_sup of the images, with SAM 2's map, the prompted masks and their class distributions.

        Args:
            images: (B, 3, H, W), RGB in 0 … 1.
            targets: ground truth or pseudo-labels; images without instances are fine.
        """
        losses: dict[str, Tensor] = {}
        prompts = make_prompts(targets, self.settings, images)
        num_classes = len(self.teacher.class_names)
        probabilities = images.new_full((*prompts.valid.shape, num_classes + 1), 1 / (num_classes + 1))
        detector, segmenter = self.teacher.detector, self.teacher.segmenter
        if detector is not None:
            queries: Queries = detector(images, targets)
            weight = self.settings.detector_weight
            losses |= {f"detector_{name}": weight * value for name, value in queries.losses.items()}
            probabilities = classes_of_boxes(prompts.boxes, queries)
        if segmenter is None:
            nothing = images.new_zeros(len(images), prompts.valid.shape[1], 1, 1)
            no_query = torch.zeros_like(prompts.valid)
            return LearnerOutput(losses, self.encode(images), nothing, probabilities, no_query)
        size = (images.shape[-2], images.shape[-1])
        embeddings = segmenter.encode(images)
        mask_logits, predicted_iou = segmenter.decode(embeddings, prompts.boxes, size)
        # Judged at the image's own resolution: boundaries finer than the decoder's stride of 4 still count.
        full = F.interpolate(mask_logits.float(), size, mode="bilinear")
        losses |= self.criterion(full, predicted_iou, prompts.masks, prompts.valid)
        return LearnerOutput(
            losses, embeddings[self.level], mask_logits.detach(), probabilities, prompts.valid
        )

    def encode(self, images: Tensor) -> Tensor:
        """L_pxl's features (B, D, h, w), with gradient; zeros without the segmenter."""
        if self.teacher.segmenter is None:
            return images.new_zeros(len(images), self.feature_dim, 1, 1)
        return self.teacher.segmenter.encode(images)[self.level]


def make_prompts(targets: list[Target], settings: TeacherLossSettings, images: Tensor) -> Prompts:
    """Jittered boxes of at most `max_prompts` random instances per image.

    Args:
        targets: B targets.
        settings: jitter and number; random numbers come from torch's global generator.
        images: (B, 3, H, W), for size and device.
    """
    height, width = images.shape[-2:]
    chosen = [_at_most(target, settings.max_prompts) for target in targets]
    shape = (len(targets), max(1, *(len(target.labels) for target in chosen)))
    boxes = images.new_tensor([0, 0, width, height]).float().repeat(*shape, 1)
    masks = torch.zeros(*shape, height, width, dtype=torch.bool, device=images.device)
    valid = torch.zeros(shape, dtype=torch.bool, device=images.device)
    for index, target in enumerate(chosen):
        count = len(target.labels)
        boxes[index, :count] = jitter(target.boxes, settings.box_jitter, height, width)
        masks[index, :count] = target.masks
        valid[index, :count] = True
    return Prompts(boxes, masks, valid)


def jitter(boxes: Tensor, share: float, height: int, width: int) -> Tensor:
    """Move each edge by normal noise whose σ is `share` of the box's side (SAM, arXiv 2304.02643, §A).

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels.
        share: σ as a share of width and height.
        height: of the image.
        width: of the image.

    Returns:
        (N, 4), inside the image, x0 ≤ x1 and y0 ≤ y1.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + torch.randn_like(boxes) * share * sides
    corners = moved.reshape(-1, 2, 2).sort(1).values.reshape(-1, 4)
    return corners.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


@torch.no_grad()
def classes_of_boxes(boxes: Tensor, queries: Queries) -> Tensor:
    """Class distribution of each box: that of the detector's query which overlaps it most.

    Args:
        boxes: (B, K, 4), x0, y0, x1, y1 in pixels.
        queries: the detector's output for the same images.

    Returns:
        (B, K, C+1), no-object last, detached.
    """
    nearest = torch.stack(
        [box_iou(wanted, found).argmax(1) for wanted, found in zip(boxes, queries.boxes, strict=True)]
    )
    distributions = queries.class_probabilities.detach()
    return distributions.gather(1, nearest[..., None].expand(-1, -1, distributions.shape[-1]))


def _at_most(target: Target, number: int) -> Target:
    """A random subset of the instances, all of them if they are few."""
    if len(target.labels) <= number:
        return target
    keep = torch.randperm(len(target.labels), device=target.labels.device)[:number]
    return Target(target.masks[keep], target.labels[keep])
