"""The student: encoder, pixel decoder and transformer decoder, with its predictions and its files.

Letters in shapes: B images, H×W pixels, Q queries, C classes without no-object, D channels, h×w cells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cast.config import InferenceSettings, StudentSettings
from cast.data.batch import Instances
from cast.errors import CastError
from cast.student.dpt import DPT
from cast.student.encoder import CONFIG_FILE, WEIGHTS_FILE, Encoder, load_state, read_config, read_weights
from cast.student.fpn import FPN
from cast.student.query_prior import QueryPrior
from cast.student.transformer_decoder import TransformerDecoder

MODEL_TYPE = "cast_student"
# Masks upsampled to full size at a time: bounds memory on large images.
UPSAMPLE_CHUNK = 16


@dataclass(frozen=True)
class StudentOutput:
    """Raw predictions for B images.

    Attributes:
        mask_logits: per layer (B, Q, h, w), first the learned queries', last the prediction.
        class_logits: per layer (B, Q, C+1), no-object last.
        features: (B, D, h', w'), the encoder's deepest map.
        mask_features: (B, M, h, w), the pixel decoder's.
        semantic_logits: (B, C+1, h, w), background last, when the student has a semantic head.
    """

    mask_logits: list[Tensor]
    class_logits: list[Tensor]
    features: Tensor
    mask_features: Tensor
    semantic_logits: Tensor | None = None


class Student(nn.Module):
    """A small instance segmenter: timm encoder, pixel decoder (DPT or FPN), masked-attention decoder."""

    def __init__(self, settings: StudentSettings, num_classes: int) -> None:
        """Build the model; its encoder has timm's weights when `settings.encoder_pretrained`.

        Raises:
            CastError: settings that name no model or do not fit each other.
        """
        super().__init__()
        self.settings = settings
        self.num_classes = num_classes
        self.class_names: list[str] = []
        self.encoder = Encoder(settings)
        self.pixel_decoder = _pixel_decoder(settings, self.encoder)
        self.transformer_decoder = TransformerDecoder(settings, num_classes)
        self.query_prior = (
            QueryPrior(settings.num_queries, self.feature_dim, settings.decoder_dim)
            if settings.query_prior
            else None
        )
        self.semantic_head = (
            nn.Conv2d(settings.decoder_dim, num_classes + 1, 1) if settings.semantic_head else None
        )

    @property
    def feature_dim(self) -> int:
        """Channels of the encoder's deepest map."""
        return self.encoder.channels[-1]

    def forward(self, images: Tensor) -> StudentOutput:
        """Predictions of every layer.

        Args:
            images: float (B, 3, H, W), RGB in 0 … 1; H and W of any size.
        """
        maps = self.encoder(images)
        mask_features, pyramid = self.pixel_decoder(maps, images)
        mask_logits, class_logits = self.transformer_decoder(
            pyramid, mask_features, self.query_prior, maps[-1]
        )
        semantic = None if self.semantic_head is None else self.semantic_head(mask_features)
        return StudentOutput(mask_logits, class_logits, maps[-1], mask_features, semantic)

    def encode(self, images: Tensor) -> Tensor:
        """The encoder's deepest map (B, D, h, w) of images (B, 3, H, W)."""
        return self.encoder(images)[-1]

    def decode_pixels(self, images: Tensor) -> Tensor:
        """The pixel decoder's mask features (B, M, h, w) of images (B, 3, H, W)."""
        mask_features, _ = self.pixel_decoder(self.encoder(images), images)
        return mask_features

    @torch.no_grad()
    def predict(
        self, images: Tensor, inference: InferenceSettings, cores: Tensor | None = None
    ) -> list[Instances]:
        """Instances at the images' size, best first, on the CPU.

        Args:
            images: float (B, 3, H, W), RGB in 0 … 1.
            inference: its `score_threshold`, `mask_threshold` and `max_instances` apply.
            cores: ignored: masks come with the queries.
        """
        output = self(images)
        masks, classes = output.mask_logits[-1].float(), output.class_logits[-1].float().softmax(-1)
        return [
            _instances(logits, probabilities, images.shape[-2:], inference)
            for logits, probabilities in zip(masks, classes[..., :-1], strict=True)
        ]


def _pixel_decoder(settings: StudentSettings, encoder: Encoder) -> DPT | FPN:
    common = (settings.feature_dim, settings.decoder_dim, settings.mask_stride, settings.convolutional_stem)
    if settings.pixel_decoder == "fpn":
        return FPN(encoder.channels, encoder.strides, *common)
    return DPT(encoder.channels, encoder.strides, settings.dpt_widths, *common)


def _instances(
    mask_logits: Tensor, probabilities: Tensor, size: Sequence[int], inference: InferenceSettings
) -> Instances:
    """Mask2Former's inference: score = class probability × mean mask probability inside the mask.

    Every (query, class) pair competes, so one query may give two classes with their own scores.

    Args:
        mask_logits: (Q, h, w).
        probabilities: (Q, C), without no-object.
        size: height and width of the result.
        inference: score and mask thresholds and greatest number of instances.
    """
    least = torch.tensor(inference.mask_threshold).logit().item()  # no transfer to the device
    inside = mask_logits > least
    quality = (mask_logits.sigmoid() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
    scores = (probabilities * quality[:, None]).flatten()
    scores, order = scores.topk(min(inference.max_instances, scores.numel()))
    kept = (scores > inference.score_threshold) & (scores > 0)
    scores, order = scores[kept], order[kept]
    queries, labels = order // probabilities.shape[1], order % probabilities.shape[1]
    height, width = size
    chunks = [
        (F.interpolate(part[None], (height, width), mode="bilinear", align_corners=False)[0] > least).cpu()
        for part in mask_logits[queries].split(UPSAMPLE_CHUNK)
        if len(part)
    ]
    if not chunks:
        return Instances.empty(height, width)
    confidences = torch.stack([probabilities.flatten()[order], quality[queries]], 1)
    found = Instances(torch.cat(chunks), labels.cpu(), scores.cpu(), confidences.cpu())
    return found[found.masks.flatten(1).any(1)]


def num_parameters(model: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_student(model: Student, folder: str | Path, class_names: Sequence[str]) -> None:
    """Write config.json and model.safetensors (Hugging Face layout).

    Args:
        model: the student.
        folder: made when missing.
        class_names: one per class, in the order of the class logits.
    """
    assert len(class_names) == model.num_classes
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": MODEL_TYPE,
        "architectures": [type(model).__name__],
        "class_names": list(class_names),
        "settings": model.settings.model_dump(mode="json"),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_student(folder: str | Path) -> Student:
    """Read a folder written by `save_student`; downloads nothing.

    Returns:
        The student in evaluation mode on the CPU, with its `class_names`.

    Raises:
        CastError: a file is missing, damaged or does not fit the other.
    """
    folder = Path(folder)
    config = read_config(folder, MODEL_TYPE)
    names = config.get("class_names")
    if not isinstance(names, list) or not names:
        raise CastError(f"{folder / CONFIG_FILE}: has no class_names; rerun the stage that writes it")
    try:
        settings = StudentSettings.model_validate(config.get("settings"))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"]) or "settings"
        raise CastError(
            f"{folder / CONFIG_FILE}: {key}: {error.errors()[0]['msg']}; written by another version of cast"
        ) from None
    student = Student(settings.model_copy(update={"encoder_pretrained": False}), len(names))
    load_state(student, read_weights(folder), folder / WEIGHTS_FILE)
    student.settings, student.class_names = settings, [str(name) for name in names]
    return student.eval()
