"""Feature Pyramid Network (arXiv 1612.03144): encoder maps to a pyramid and to mask features.

The paper's: 1×1 convolutions bring every map to one width, coarser maps are added to finer ones upsampled by
the nearest neighbour, a 3×3 convolution follows each sum, and there is no non-linearity. It presumes a
backbone whose maps are a pyramid. A plain transformer's share one stride: they are brought to the strides of
a pyramid by bilinear interpolation, which learns nothing; to learn it is DPT's idea (cast/student/dpt.py).
Letters in shapes: B images, H×W pixels, D feature channels, M mask-feature channels, h×w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from cast.errors import CastError
from cast.student.pixel_decoder import NUM_SCALES, ConvolutionalStem, level_size, resized


class FPN(nn.Module):
    """Merge encoder maps at 1, 2, 4, … times the mask stride from the coarsest to the finest."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        feature_dim: int,
        mask_dim: int,
        mask_stride: int,
        convolutional_stem: bool = False,
    ) -> None:
        """Lay out one level per encoder map.

        Args:
            channels: channels of each encoder map, shallow to deep.
            strides: pixels per cell of each encoder map.
            feature_dim: D, channels of every level.
            mask_dim: M, channels of the mask features.
            mask_stride: pixels of the image per cell of the mask features.
            convolutional_stem: add local features, computed from the image, to the finest level.

        Raises:
            CastError: fewer than three maps.
        """
        super().__init__()
        levels = len(channels)
        if levels < NUM_SCALES:
            raise CastError(f"student.encoder_blocks: {levels} maps; give {NUM_SCALES} at least")
        self.mask_stride = mask_stride
        self.strides = [mask_stride * 2**level for level in range(levels)]
        self.in_place = [have == want for have, want in zip(strides, self.strides, strict=True)]
        self.lateral = nn.ModuleList(nn.Conv2d(channel, feature_dim, 1) for channel in channels)
        # Levels that neither the masks nor the transformer decoder read have no output.
        self.output = nn.ModuleDict(
            {
                str(level): nn.Conv2d(feature_dim, feature_dim, 3, padding=1)
                for level in sorted({0, *range(levels - NUM_SCALES, levels)})
            }
        )
        self.mask_head = nn.Conv2d(feature_dim, mask_dim, 1)
        self.stem = ConvolutionalStem(feature_dim, mask_stride) if convolutional_stem else None

    def forward(self, maps: Sequence[Tensor], images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mask features and the maps that the transformer decoder attends to.

        Args:
            maps: encoder maps (B, C, h, w), shallow to deep.
            images: (B, 3, H, W); its size sets those of the levels, its pixels feed the stem.

        Returns:
            mask features (B, M, ⌈H/stride⌉, ⌈W/stride⌉) and three maps (B, D, h, w), coarse to fine.
        """
        merged: Tensor | None = None
        pyramid: list[Tensor] = []
        for level in reversed(range(len(maps))):
            # A 1×1 convolution and bilinear interpolation commute: the smaller map is convolved.
            features = self.lateral[level](maps[level])
            if not self.in_place[level]:
                features = resized(features, level_size(images, self.strides[level]))
            if merged is not None:
                features = features + F.interpolate(merged, size=features.shape[-2:], mode="nearest-exact")
            if level == 0 and self.stem is not None:
                features = features + resized(self.stem(images), features.shape[-2:])
            merged = features
            if str(level) in self.output:
                pyramid.append(self.output[str(level)](merged))
        mask_features = resized(self.mask_head(pyramid[-1]), level_size(images, self.mask_stride))
        return mask_features, pyramid[:NUM_SCALES]
