"""The teacher's boxes and classes: MM-Grounding-DINO (arXiv 2303.05499, 2401.02361) as transformers has it.

Letters in shapes: B images, Q queries, C classes, L tokens of the prompt, S feature tokens of all levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, clip_boxes_to_image, nms
from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection
from transformers.loss.loss_grounding_dino import GroundingDinoHungarianMatcher, GroundingDinoImageLoss
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import build_label_maps, build_text_mask
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cast.config import InferenceSettings, PretrainedModel
from cast.data.batch import Target
from cast.errors import CastError
from cast.teacher.checkpoints import locate, read_architecture
from cast.teacher.prompts import build_prompt, build_tokenizer
from cast.teacher.weights import (
    load_pretrained,
    load_tokenizer,
    read_class_names,
    write_class_names,
)

MODEL_TYPES = ("mm-grounding-dino",)
CLASS_LOSS_WEIGHT = (
    2.0  # a literal in transformers' Grounding DINO loss too; the other weights are in its config
)

# torch's words for fewer feature tokens than queries, with data and without.
TOO_MANY_QUERIES = ("selected index k out of range", "k not in range")


@dataclass(frozen=True)
class Queries:
    """What the detector's Q queries say about a batch.

    Attributes:
        boxes: (B, Q, 4), x0, y0, x1, y1 in pixels of the input.
        class_scores: (B, Q, C), independent probabilities: token sigmoids averaged over each class's tokens.
        losses: weighted terms of the set loss; empty without targets.
    """

    boxes: Tensor
    class_scores: Tensor
    losses: dict[str, Tensor]

    @property
    def class_probabilities(self) -> Tensor:
        """(B, Q, C+1), no-object last; see `class_distribution`."""
        return class_distribution(self.class_scores)


@dataclass(frozen=True)
class Detections:
    """Detected boxes of one image, best first.

    Attributes:
        boxes: (N, 4), x0, y0, x1, y1 in pixels, inside the image.
        labels: int64 (N,).
        scores: (N,), probability of the best class.
        class_probabilities: (N, C+1), no-object last.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    class_probabilities: Tensor

    def __getitem__(self, keep: Tensor) -> Detections:
        """Those selected by a boolean mask or by indices."""
        return Detections(
            self.boxes[keep], self.labels[keep], self.scores[keep], self.class_probabilities[keep]
        )


class Detector(nn.Module):
    """Grounding DINO with the prompt of one dataset's classes.

    Args:
        model: the transformers model.
        tokenizer: its tokenizer.
        class_names: C names, in the order of the class indices.
    """

    input_ids: Tensor
    class_tokens: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, model: MMGroundingDinoForObjectDetection, tokenizer: Any, class_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.class_names, self.tokenizer = list(class_names), tokenizer
        # Deep supervision is part of the set loss; checkpoints for inference have it switched off.
        model.config.auxiliary_loss = True
        self.model = model
        text_config: Any = model.config.text_config
        prompt = build_prompt(class_names, tokenizer, text_config.max_position_embeddings)
        _make_room(model, len(prompt.input_ids))
        self.register_buffer("input_ids", prompt.input_ids, persistent=False)
        self.register_buffer("class_tokens", prompt.class_tokens, persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor, targets: list[Target] | None = None) -> Queries:
        """Run all queries, with the set loss where targets are given.

        Args:
            images: (B, 3, H, W), RGB in 0 … 1; normalised here.
            targets: instances of the images.

        Raises:
            CastError: the images have fewer feature tokens than the model has queries.
        """
        height, width = images.shape[-2:]
        input_ids = self.input_ids.expand(len(images), -1)
        labels = None if targets is None else [_labels(target, height, width) for target in targets]
        try:
            output = self.model((images - self.mean) / self.std, input_ids, labels=labels)
        except RuntimeError as error:
            if not any(words in str(error) for words in TOO_MANY_QUERIES):
                raise
            raise CastError(
                f"the detector has {self.model.config.num_queries} queries, more than feature tokens in "
                f"an image of {height} x {width} pixels; raise image_size or inference.teacher.short_side, "
                "or lower detector.architecture.num_queries"
            ) from None
        losses = {} if labels is None else self._weighted_losses(output, labels, input_ids)
        size = images.new_tensor([width, height, width, height])
        boxes = box_convert(output.pred_boxes.float(), "cxcywh", "xyxy") * size
        return Queries(boxes, self._class_scores(output.logits.float()), losses)

    def losses(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The set loss, already weighted as the model's config says: token-contrastive focal loss (`class`),
        L1 (`box`) and GIoU (`giou`), each summed over the decoder layers, and the two-stage `encoder`'s.

        Args:
            images: (B, 3, H, W), RGB in 0 … 1.
            targets: B targets; empty ones are fine.
        """
        queries: Queries = self(images, targets)
        return queries.losses

    @torch.no_grad()
    def detect(self, images: Tensor, settings: InferenceSettings) -> list[Detections]:
        """The best boxes of each image, one class per box.

        A query counts with its best class only, from `score_threshold` on; a box that a better one overlaps
        by more than `nms_iou` is dropped, whatever their classes: one object has one class.

        Args:
            images: (B, 3, H, W), RGB in 0 … 1.
            settings: thresholds.
        """
        queries: Queries = self(images)
        size = (images.shape[-2], images.shape[-1])
        return [
            _select(boxes, class_scores, size, settings)
            for boxes, class_scores in zip(queries.boxes, queries.class_scores, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, the tokenizer's files and the class names."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_class_names(folder, self.class_names)

    def _class_scores(self, logits: Tensor) -> Tensor:
        tokens = self.class_tokens.to(logits.dtype)
        # Half precision would round scores to 0 and 1. Tensors without data (`meta`) know no autocast.
        autocast = torch.amp.is_autocast_available(logits.device.type)
        with torch.autocast(logits.device.type, enabled=False) if autocast else nullcontext():
            return logits[..., : tokens.shape[1]].sigmoid() @ (tokens / tokens.sum(1, keepdim=True)).T

    def _weighted_losses(
        self, output: Any, labels: list[dict[str, Tensor]], input_ids: Tensor
    ) -> dict[str, Tensor]:
        """The library's decoder terms by kind, and the encoder's computed anew.

        transformers 5.23 scores its `*_enc` terms on detached boxes and the wrong embeddings: the head that
        proposes the queries never learns from them (tests/teacher/test_detector.py watches for a mending).
        """
        config = self.model.config
        kinds = {
            "loss_ce": ("class", CLASS_LOSS_WEIGHT),
            "loss_bbox": ("box", config.bbox_loss_coefficient),
            "loss_giou": ("giou", config.giou_loss_coefficient),
        }
        losses = {name: output.pred_boxes.new_zeros(()) for name, _ in kinds.values()}
        for key, value in output.loss_dict.items():
            kind = next((kind for kind in kinds if key.startswith(kind)), None)
            if kind is not None and not key.endswith("_enc"):
                name, weight = kinds[kind]
                losses[name] = losses[name] + weight * value
        encoder = self._encoder_losses(output, labels, input_ids)
        losses["encoder"] = torch.stack([kinds[key][1] * value for key, value in encoder.items()]).sum()
        return losses

    def _encoder_losses(
        self, output: Any, labels: list[dict[str, Tensor]], input_ids: Tensor
    ) -> dict[str, Tensor]:
        """Set loss of the encoder's proposals, all S of them, by the library's matcher and criterion."""
        config = self.model.config
        ids: Any = input_ids
        matcher = GroundingDinoHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
        criterion = GroundingDinoImageLoss(matcher, config.focal_alpha, ["labels", "boxes"])
        logits = output.enc_outputs_class.float()
        proposals = {
            "logits": logits,
            "pred_boxes": output.enc_outputs_coord_logits.float().sigmoid(),
            "label_maps": build_label_maps(logits, ids),
            "text_mask": build_text_mask(logits, torch.ones_like(input_ids)),
        }
        losses: dict[str, Tensor] = criterion(proposals, labels)
        return losses


def build_detector(settings: PretrainedModel, class_names: Sequence[str]) -> Detector:
    """A detector from the hub, from a folder, or from scratch.

    Args:
        settings: origin of the weights, or the architecture (keywords of MMGroundingDinoConfig, nested).
        class_names: what to detect.

    Raises:
        CastError: the weights cannot be had or do not fit, or the prompt is too long.
    """
    if settings.pretrained is not None:
        folder = locate(settings, "detector")
        tokenizer = load_tokenizer(folder)
        model = load_pretrained(MMGroundingDinoForObjectDetection, MODEL_TYPES, folder, "detector.pretrained")
        return Detector(model, tokenizer, class_names)
    assert settings.architecture is not None
    config: Any = MMGroundingDinoConfig(**settings.architecture)
    tokenizer = build_tokenizer(class_names, config.text_config.vocab_size)
    return Detector(MMGroundingDinoForObjectDetection(config), tokenizer, class_names)


def _make_room(model: MMGroundingDinoForObjectDetection, tokens: int) -> None:
    """Let a detector read longer prompts than its checkpoint says: 100 classes come near its 256 tokens.

    `max_text_len` has no weights: it is the width to which the logits are padded, and where text is cut off.
    """
    if tokens > model.config.max_text_len:
        owner: Any
        for owner in (model.config, *(part for part in model.modules() if hasattr(part, "max_text_len"))):
            owner.max_text_len = tokens


def random_detector(settings: PretrainedModel, class_names: Sequence[str]) -> Detector:
    """A detector with random weights, of the `architecture` or else of what a checkpoint's config says.

    Args:
        settings: the architecture, or the checkpoint whose config.json is read.
        class_names: what to detect.

    Raises:
        CastError: the config.json cannot be had or is another model's, or the prompt is too long.
    """
    architecture = settings.architecture
    if architecture is None:
        architecture = read_architecture(settings, MODEL_TYPES, "detector")
    return build_detector(PretrainedModel(architecture=architecture), class_names)


def load_detector(folder: Path, class_names: Sequence[str] | None = None) -> Detector:
    """A detector saved by `Detector.save`.

    Args:
        folder: its folder.
        class_names: the classes the caller works with; those of the folder when None.

    Raises:
        CastError: the folder is incomplete or was trained for other classes.
    """
    known = read_class_names(folder)
    if class_names is not None and list(class_names) != known:
        raise CastError(
            f"{folder}: this detector was trained for the classes {', '.join(known)}, but the dataset has "
            f"{', '.join(class_names)}; use matching data or train the detector anew"
        )
    return build_detector(PretrainedModel(pretrained=str(folder)), known)


def class_distribution(class_scores: Tensor) -> Tensor:
    """One distribution from independent probabilities p_c: what they say given that at most one class holds.

    P(c) ∝ p_c / (1 − p_c), P(no object) ∝ 1: the softmax of the logits with a zero for no object.

    Args:
        class_scores: (..., C) in 0 … 1.

    Returns:
        (..., C+1), no-object last, sums to 1.
    """
    logits = torch.logit(class_scores, eps=1e-6)
    return F.pad(logits, (0, 1)).softmax(-1)


def _labels(target: Target, height: int, width: int) -> dict[str, Tensor]:
    """A target in the form of the library's loss: boxes as cx, cy, w, h in 0 … 1."""
    boxes = box_convert(target.boxes, "xyxy", "cxcywh")
    return {"class_labels": target.labels, "boxes": boxes / boxes.new_tensor([width, height, width, height])}


def _select(
    boxes: Tensor, class_scores: Tensor, size: tuple[int, int], settings: InferenceSettings
) -> Detections:
    """The detections of one image among its queries."""
    boxes = clip_boxes_to_image(boxes, size)
    scores, labels = class_scores.max(-1)
    wide_enough = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    candidates = ((scores >= settings.score_threshold) & wide_enough).nonzero()[:, 0]
    best = nms(boxes[candidates], scores[candidates], settings.nms_iou)[: settings.max_instances]
    keep = candidates[best]
    return Detections(boxes[keep], labels[keep], scores[keep], class_distribution(class_scores[keep]))
