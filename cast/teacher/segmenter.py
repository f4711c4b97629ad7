"""The teacher's masks: SAM 2 (arXiv 2408.00714) on single images, prompted by boxes.

Letters in shapes: B images, N boxes, D feature channels, S the model's own (square) image size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Sam2Config, Sam2Model
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cast.config import PretrainedModel
from cast.teacher.checkpoints import locate, read_architecture
from cast.teacher.weights import load_pretrained

# The released SAM 2.1 checkpoints are of the video model: its memory modules are left out.
MODEL_TYPES = ("sam2", "sam2_video")
# The random Fourier features of positions: SAM's unit scale is too fine to learn from scratch in few steps.
POSITION_SCALE = 0.25
SINGLE_IMAGE_CONFIGS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
PATCH_SIZE = 16  # pixels per cell of the deepest map, fixed by SAM 2's decoder


class Segmenter(nn.Module):
    """SAM 2 with boxes in, one mask per box out.

    Args:
        model: the transformers model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        config: Any = model.config
        # This option swaps an unsteady single mask for one of the multi-mask outputs, which never train here.
        config.mask_decoder_config.dynamic_multimask_via_stability = False
        model.mask_decoder.dynamic_multimask_via_stability = False
        self.model = model
        self.image_size = int(config.prompt_encoder_config.image_size)
        # Channels of the maps of `encode`.
        decoder, deepest = model.mask_decoder, int(config.vision_config.fpn_hidden_size)
        self.widths = (decoder.conv_s0.out_channels, decoder.conv_s1.out_channels, deepest)
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None], persistent=False)

    def encode(self, images: Tensor) -> list[Tensor]:
        """The image embeddings of `Sam2Model.get_image_embeddings`, with gradient.

        Args:
            images: (B, 3, H, W), RGB in 0 … 1; resized to S × S, each axis by itself, and normalised here.

        Returns:
            Maps (B, ·, S/4, S/4), (B, ·, S/8, S/8) and the deepest (B, D, S/16, S/16).
        """
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        maps = self.model.vision_encoder((images - self.mean) / self.std).fpn_hidden_states
        decoder = self.model.mask_decoder
        deepest = maps[2] + self.model.no_memory_embedding.reshape(1, -1, 1, 1)
        return [decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1]), deepest]

    def decode(
        self, embeddings: list[Tensor], boxes: Tensor, image_size: tuple[int, int], chunk: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """One mask per box.

        Args:
            embeddings: from `encode`.
            boxes: (B, N, 4), x0, y0, x1, y1 in pixels of the images given to `encode`.
            image_size: height and width of those images.
            chunk: boxes per image decoded at a time; all at once when None.

        Returns:
            mask_logits (B, N, S/4, S/4), covering the whole image, and predicted IoU (B, N) in 0 … 1.
        """
        height, width = image_size
        scale = boxes.new_tensor([1 / width, 1 / height, 1 / width, 1 / height]) * self.image_size
        if boxes.shape[1] == 0:
            side = self.image_size // 4
            return boxes.new_zeros(len(boxes), 0, side, side), boxes.new_zeros(len(boxes), 0)
        outputs = [
            self.model(image_embeddings=embeddings, input_boxes=part, multimask_output=False)
            for part in (boxes * scale).split(chunk or boxes.shape[1], 1)
        ]
        mask_logits = torch.cat([output.pred_masks[:, :, 0] for output in outputs], 1)
        return mask_logits, torch.cat([output.iou_scores[:, :, 0] for output in outputs], 1)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        self.model.save_pretrained(folder)


def build_segmenter(settings: PretrainedModel) -> Segmenter:
    """A segmenter from the hub, from a folder, or from scratch.

    Args:
        settings: origin of the weights, or the architecture (see `sam2_config`).

    Raises:
        CastError: the weights cannot be had or do not fit.
    """
    if settings.pretrained is not None:
        folder = locate(settings, "segmenter")
        return Segmenter(load_pretrained(Sam2Model, MODEL_TYPES, folder, "segmenter.pretrained"))
    assert settings.architecture is not None
    model = Sam2Model(sam2_config(settings.architecture))
    initialise(model)
    return Segmenter(model)


def random_segmenter(settings: PretrainedModel) -> Segmenter:
    """A segmenter with random weights, of the `architecture` or else of what a checkpoint's config says.

    Args:
        settings: the architecture (see `sam2_config`), or the checkpoint whose config.json is read.

    Raises:
        CastError: the config.json cannot be had or is another model's.
    """
    architecture = settings.architecture
    if architecture is None:
        content = read_architecture(settings, MODEL_TYPES, "segmenter")
        # Of a video model's configuration, what concerns single images.
        architecture = {key: content[key] for key in SINGLE_IMAGE_CONFIGS if key in content}
        prompt: Any = Sam2Config(**architecture).prompt_encoder_config
        architecture |= {"image_size": prompt.image_size, "hidden_size": prompt.hidden_size}
    return build_segmenter(PretrainedModel(architecture=architecture))


def load_segmenter(folder: Path) -> Segmenter:
    """A segmenter saved by `Segmenter.save`.

    Raises:
        CastError: the folder is incomplete.
    """
    return build_segmenter(PretrainedModel(pretrained=str(folder)))


def sam2_config(architecture: dict[str, Any]) -> Sam2Config:
    """Sam2Config from its nested keywords, with what must agree between its parts given once.

    Args:
        architecture: keywords of Sam2Config; `image_size` (S, a multiple of 32) and `hidden_size`
            (channels of neck, prompt encoder and mask decoder) are set in all the places that need them.
    """
    rest = {key: value for key, value in architecture.items() if key not in ("image_size", "hidden_size")}
    size, hidden = int(architecture["image_size"]), int(architecture["hidden_size"])
    vision = dict(rest.pop("vision_config", {}))
    backbone = {
        "model_type": "sam2_hiera_det_model",
        **vision.pop("backbone_config", {}),
        "image_size": [size, size],
    }
    vision |= {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": hidden,
        "backbone_feature_sizes": [
            [size // stride] * 2 for stride in (PATCH_SIZE // 4, PATCH_SIZE // 2, PATCH_SIZE)
        ],
    }
    if "embed_dim_per_stage" in backbone:
        vision["backbone_channel_list"] = backbone["embed_dim_per_stage"][::-1]
    prompt = {**rest.pop("prompt_encoder_config", {}), "image_size": size, "patch_size": PATCH_SIZE}
    decoder = {**rest.pop("mask_decoder_config", {}), "hidden_size": hidden}
    return Sam2Config(
        vision_config=vision,
        prompt_encoder_config=prompt | {"hidden_size": hidden},
        mask_decoder_config=decoder,
        **rest,
    )


@torch.no_grad()
def initialise(model: Sam2Model) -> None:
    """Random weights from which SAM 2 learns in few steps.

    The library's normal(0, 0.02) stalls: torch's own defaults replace it. Boxes and image cells must be
    placed by the same Fourier features, as in the released checkpoints.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm, nn.Embedding)):
            module.reset_parameters()
    shared = model.shared_image_embedding.positional_embedding
    shared.normal_(std=POSITION_SCALE)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
