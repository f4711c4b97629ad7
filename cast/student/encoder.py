"""The student's image encoder: a timm vision transformer (DINOv2 by default) or a timm pyramid network.

Letters in shapes: B images, H×W pixels, D channels, h×w cells of a feature map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models import model_entrypoint
from timm.models.hieradet_sam2 import HieraDet
from torch import Tensor, nn
from torch.nn import functional as F

from cast.config import StudentSettings
from cast.errors import CastError
from cast.student.timm_weights import create_filled, locate_encoder

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
# timm families whose blocks all work on one token grid and accept `dynamic_img_size`.
TRANSFORMER_MODULES = ("timm.models.vision_transformer", "timm.models.deit", "timm.models.eva")
STAGE_STRIDES = (4, 8, 16, 32)  # of a pyramid network (ResNet, SAM 2's Hiera, ConvNeXt, …)


class Encoder(nn.Module):
    """Feature maps of an image from a timm model.

    `encoder_blocks` counts from 1. A transformer gives the maps of these blocks, all on its patch grid, after
    its final norm as DINOv2's own dense heads take them. Any other timm model gives the maps of these stages,
    a pyramid: stages 1, 2, 3, 4 have strides 4, 8, 16, 32; a ResNet's stem is none. In training a ResNet's
    batch norms use the batch's statistics, as Mask2Former's on Cityscapes do.

    Images of any size are resized to the nearest multiple of what one cell of the deepest map covers, so that
    all maps stay aligned with the whole image (no padding to crop away).

    Attributes:
        channels: channels of each map.
        strides: nominal pixels of the image per cell of each map.
        multiple: the sides of the images that the network sees are multiples of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: StudentSettings) -> None:
        """Build the encoder, with timm's weights when `settings.encoder_pretrained`.

        Raises:
            CastError: unknown model or argument, blocks that do not exist, weights that cannot be had.
        """
        super().__init__()
        self.name = settings.encoder
        self.model, self.is_transformer = _build(settings)
        if self.is_transformer:
            self.blocks = [block - 1 for block in settings.encoder_blocks]
            self.multiple = int(max(self.model.patch_embed.patch_size))
            self.channels = [int(self.model.embed_dim)] * len(self.blocks)
            self.strides = [self.multiple] * len(self.blocks)
        else:
            self.channels = list(self.model.feature_info.channels())
            self.strides = _checked_strides(settings, self.model.feature_info.reduction())
            self.multiple = _pyramid_multiple(self.model, self.strides)
        config = getattr(self.model, "pretrained_cfg", {})
        mean, std = config.get("mean", (0.485, 0.456, 0.406)), config.get("std", (0.229, 0.224, 0.225))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, shallow to deep.

        Args:
            images: float (B, 3, H, W), RGB in 0 … 1.

        Returns:
            One (B, D, h, w) per entry of `channels`; the last is the deepest.
        """
        images = (images - self.mean) / self.std
        size = [max(1, round(side / self.multiple)) * self.multiple for side in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        if not self.is_transformer:
            return list(self.model(images))
        # `stop_early`: blocks after the deepest map would cost time and get no gradient.
        return self.model.forward_intermediates(
            images, indices=self.blocks, norm=True, stop_early=True, intermediates_only=True
        )


class HasEncoder(Protocol):
    """A model with an `encoder`."""

    encoder: Encoder


def save_encoder(student: HasEncoder, folder: str | Path) -> None:
    """Write the encoder's weights alone: config.json and model.safetensors."""
    encoder, folder = student.encoder, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"model_type": "cast_encoder", "encoder": encoder.name}
    if encoder.is_transformer:
        config["grid_size"] = list(encoder.model.patch_embed.grid_size)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(_contiguous(encoder.model.state_dict()), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_encoder_weights(student: HasEncoder, folder: str | Path) -> None:
    """Load weights written by `save_encoder`; position embeddings are resampled to this encoder's grid.

    Raises:
        CastError: a file is missing or broken, or the weights belong to another architecture.
    """
    encoder, folder = student.encoder, Path(folder)
    config, state = read_config(folder, "cast_encoder"), read_weights(folder)
    embedding = state.get("pos_embed")
    if embedding is not None and encoder.is_transformer:
        model = encoder.model
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        grid = list(model.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(embedding, grid, config.get("grid_size"), prefix)
    load_state(encoder.model, state, folder / WEIGHTS_FILE)


def read_config(folder: Path, model_type: str) -> dict[str, Any]:
    """Read `config.json` of a model folder and check its `model_type`.

    Raises:
        CastError: the file is missing, is not JSON, or describes another kind of model.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not valid JSON"
        raise CastError(f"{path}: cannot be read ({reason}); give a model folder written by cast") from None
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != model_type:
        raise CastError(f"{path}: model_type is {found!r}, expected {model_type!r}; give the right folder")
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read `model.safetensors` of a model folder.

    Raises:
        CastError: the file is missing or damaged.
    """
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CastError(f"{path}: cannot be read ({reason}); rerun the stage that writes it") from None


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: Path) -> None:
    """Load a state dict whose keys and shapes must all agree.

    Raises:
        CastError: keys are missing or unexpected, or shapes differ; the message names the first ones.
    """
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape),
    }
    found = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in problems.items() if keys]
    if found:
        raise CastError(f"{origin}: weights do not fit the configured model: {'; '.join(found)}")
    model.load_state_dict(state)


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def _build(settings: StudentSettings) -> tuple[Any, bool]:
    """The network, and whether it is a plain transformer."""
    name = settings.encoder
    if not timm.is_model(name):
        raise CastError(f"student.encoder: timm has no model '{name}'; timm.list_models() names them")
    is_transformer = model_entrypoint(name.split(".")[0]).__module__ in TRANSFORMER_MODULES
    arguments: dict[str, Any]
    if is_transformer:
        arguments = {"num_classes": 0, "dynamic_img_size": True}
    else:
        _check_blocks(settings, len(STAGE_STRIDES), "stages")
        # Counted from the deepest: some networks of timm list their stem of stride 2 before the stages.
        stages = tuple(stage - 1 - len(STAGE_STRIDES) for stage in settings.encoder_blocks)
        arguments = {"features_only": True, "out_indices": stages}
    arguments |= settings.encoder_args
    try:
        model: Any = timm.create_model(name, pretrained=False, **arguments)
    except (TypeError, AssertionError) as error:
        raise CastError(f"student.encoder_args: {name} refuses them ({error})") from None
    if is_transformer:
        _check_blocks(settings, len(model.blocks), "blocks")
    if settings.encoder_pretrained:
        model = create_filled(name, arguments, locate_encoder(settings))
    return model, is_transformer


def _check_blocks(settings: StudentSettings, depth: int, parts: str) -> None:
    blocks = list(settings.encoder_blocks)
    if not blocks or blocks != sorted(set(blocks)) or blocks[-1] > depth:
        raise CastError(
            f"student.encoder_blocks: {blocks} must rise and end at {depth} at most, "
            f"the number of {parts} of {settings.encoder}"
        )


def _checked_strides(settings: StudentSettings, strides: Sequence[int]) -> list[int]:
    wanted = [STAGE_STRIDES[stage - 1] for stage in settings.encoder_blocks]
    if list(strides) != wanted:
        raise CastError(
            f"student.encoder: the maps of {settings.encoder} have strides {list(strides)}, not {wanted}; "
            f"choose a network whose last four stages have strides {list(STAGE_STRIDES)}"
        )
    return wanted


def _pyramid_multiple(model: Any, strides: Sequence[int]) -> int:
    """What the image's sides must be multiples of for maps that cover all of it."""
    hiera = getattr(model, "model", None)
    if not isinstance(hiera, HieraDet):
        return strides[-1]
    # SAM 2's Hiera also tiles a window of position embeddings over its first grid.
    return math.lcm(strides[-1], STAGE_STRIDES[0] * hiera.pos_embed_window.shape[-1])
