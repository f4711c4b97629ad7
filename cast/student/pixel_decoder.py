"""What the pixel decoders (cast/student/dpt.py, cast/student/fpn.py) share.

Both turn an encoder's maps into mask features and the pyramid that the transformer decoder attends to.
Letters in shapes: B images, H×W pixels, D feature channels, h×w cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

NUM_SCALES = 3  # pyramid levels that the transformer decoder attends to (Mask2Former)


class ConvolutionalStem(nn.Sequential):
    """Local features, computed from the image, for the finest level; width halves towards the pixels."""

    def __init__(self, dim: int, stride: int) -> None:
        """`dim` channels at 1/`stride` of the image's size."""
        half = max(dim // 2, 1)
        first, second = (min(stride, 2), max(stride // 2, 1))
        super().__init__(
            nn.Conv2d(3, half, 3, stride=first, padding=1),
            nn.GELU(),
            nn.Conv2d(half, dim, 3, stride=second, padding=1),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, D, ⌈H/stride⌉, ⌈W/stride⌉) from images (B, 3, H, W), RGB in 0 … 1."""
        return super().forward(images - 0.5)


def level_size(images: Tensor, stride: int) -> tuple[int, int]:
    """(⌈H/stride⌉, ⌈W/stride⌉) of images (B, 3, H, W)."""
    height, width = images.shape[-2:]
    return math.ceil(height / stride), math.ceil(width / stride)


def resized(features: Tensor, size: Sequence[int]) -> Tensor:
    """(B, D, *size) from (B, D, h, w), bilinearly; as it is where the size agrees."""
    if tuple(features.shape[-2:]) == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
