"""DPT pixel decoder (arXiv 2103.13413): encoder maps to a pyramid and to mask features.

Letters in shapes: B images, H×W pixels, D feature channels, M mask-feature channels, h×w cells.

No normalisation layers: DPT trains without them, and batch statistics would break batches of one image.
Residual units use depthwise-separable convolutions: with DPT's dense ones at width 384 the pixel decoder
alone would hold 32 M parameters; separable ones give the paper's total of about 52 M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from cast.errors import CastError
from cast.student.pixel_decoder import NUM_SCALES, ConvolutionalStem, level_size, resized


class DPT(nn.Module):
    """Reassemble encoder maps at 1, 2, 4, … times the mask stride (4 in DPT) and fuse them."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        widths: Sequence[int],
        feature_dim: int,
        mask_dim: int,
        mask_stride: int,
        convolutional_stem: bool = False,
    ) -> None:
        """Lay out one level per encoder map.

        Args:
            channels: channels of each encoder map, shallow to deep.
            strides: pixels per cell of each encoder map.
            widths: channels of each map when reassembled.
            feature_dim: D, channels of the fused pyramid.
            mask_dim: M, channels of the mask features.
            mask_stride: pixels of the image per cell of the mask features.
            convolutional_stem: add local features, computed from the image, to the finest level.

        Raises:
            CastError: the numbers of maps and widths differ or are below three.
        """
        super().__init__()
        if len(widths) != len(channels) or len(widths) < NUM_SCALES:
            raise CastError(
                f"student.dpt_widths: {len(widths)} widths for {len(channels)} encoder_blocks; "
                f"give as many, {NUM_SCALES} at least"
            )
        self.mask_stride = mask_stride
        self.reassemble = nn.ModuleList(
            _reassemble(channel, width, stride / (mask_stride * 2**level))
            for level, (channel, width, stride) in enumerate(zip(channels, widths, strides, strict=True))
        )
        self.project = nn.ModuleList(nn.Conv2d(width, feature_dim, 1, bias=False) for width in widths)
        self.fusion = nn.ModuleList(
            FusionBlock(feature_dim, coarsest=level == len(widths) - 1) for level in range(len(widths))
        )
        self.mask_head = nn.Conv2d(feature_dim, mask_dim, 1)
        self.stem = ConvolutionalStem(feature_dim, mask_stride) if convolutional_stem else None

    def forward(self, maps: Sequence[Tensor], images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mask features and the maps that the transformer decoder attends to.

        Args:
            maps: encoder maps (B, C, h, w), shallow to deep.
            images: (B, 3, H, W); its size sets that of the mask features, its pixels feed the stem.

        Returns:
            mask features (B, M, ⌈H/stride⌉, ⌈W/stride⌉) and three maps (B, D, h, w), coarse to fine.
        """
        fused: Tensor | None = None
        pyramid: list[Tensor] = []
        for level in reversed(range(len(maps))):
            features = self.project[level](self.reassemble[level](maps[level]))
            if level == 0 and self.stem is not None:
                features = features + resized(self.stem(images), features.shape[-2:])
            fused = self.fusion[level](features, fused)
            pyramid.append(fused)
        assert fused is not None
        mask_features = resized(self.mask_head(fused), level_size(images, self.mask_stride))
        return mask_features, pyramid[:NUM_SCALES]


class FusionBlock(nn.Module):
    """DPT's fusion: refine a level, add the coarser levels, refine the sum."""

    def __init__(self, dim: int, coarsest: bool) -> None:
        """`coarsest`: nothing is added, so the first unit would be redundant and is left out (DPT)."""
        super().__init__()
        self.level_unit = None if coarsest else ResidualUnit(dim)
        self.fused_unit = ResidualUnit(dim)
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, level: Tensor, coarser: Tensor | None) -> Tensor:
        """(B, D, h, w) from a level of that size and the coarser result of any size."""
        if self.level_unit is not None and coarser is not None:
            level = self.level_unit(level) + resized(coarser, level.shape[-2:])
        return self.out(self.fused_unit(level))


class ResidualUnit(nn.Module):
    """DPT's residual convolution unit, depthwise separable."""

    def __init__(self, dim: int) -> None:
        """`dim` channels in and out."""
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), *_separable(dim), nn.ReLU(), *_separable(dim))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) to the same shape."""
        return features + self.layers(features)


def _separable(dim: int) -> list[nn.Module]:
    return [nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False), nn.Conv2d(dim, dim, 1)]


def _reassemble(channels: int, width: int, scale: float) -> nn.Sequential:
    """Project, then resize by the power of two nearest to `scale`: learned both ways, as in DPT."""
    factor = 2 ** round(math.log2(scale))
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1)]
    if factor > 1:
        layers.append(nn.ConvTranspose2d(width, width, int(factor), stride=int(factor)))
    elif factor < 1:
        # Depthwise: a dense 3×3 on 768 channels would cost as much as two decoder layers.
        step = round(1 / factor)
        layers.append(nn.Conv2d(width, width, step + 1, stride=step, padding=step // 2, groups=width))
    return nn.Sequential(*layers)
