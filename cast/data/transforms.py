"""Weak and strong views of one image: the same geometry, so that a pixel means the same place in both.

The crop is taken first, in the image's own pixels, and only the crop is resized. What lies outside the
image is filled with its mean colour and is not `valid`; a reflection would show objects that no label names.

Letters in shapes: N instances, H×W pixels of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cast.config import TrainSettings
from cast.data.batch import Target
from cast.data.coco import Annotation
from cast.data.rle import Rle, decode


@dataclass(frozen=True)
class Sample:
    """One image with its instances; the masks stay encoded until a crop shows them.

    Attributes:
        image: uint8 (3, height, width), RGB.
        labels: int64 (N,), class indices 0 … C-1.
        rles: N compressed run-length encodings at the image's size.
        boxes: int64 (N, 4), tight: x0, y0, x1, y1 with exclusive ends, in pixels.
        mean_colour: uint8 (3, 1, 1).
    """

    image: Tensor
    labels: NDArray[np.int64]
    rles: list[Rle]
    boxes: NDArray[np.int64]
    mean_colour: Tensor
    _decoded: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(image: NDArray[np.uint8], annotations: Sequence[Annotation]) -> Sample:
        """A sample from an RGB image (height, width, 3) and its annotations; crowds are left out."""
        instances = [annotation for annotation in annotations if not annotation.is_crowd]
        boxes = np.array([instance.box for instance in instances]).reshape(-1, 4).astype(np.int64)
        boxes[:, 2:] += boxes[:, :2]
        return Sample(
            image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            labels=np.array([instance.label for instance in instances], dtype=np.int64),
            rles=[instance.rle for instance in instances],
            boxes=boxes,
            mean_colour=torch.from_numpy(image.mean((0, 1)).round().astype(np.uint8))[:, None, None],
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def memory(self) -> int:
        """Bytes that the image and all its decoded masks take at most."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return self.image.nbytes + int(sides.prod(1).sum())

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask of one instance within its box, 0 or 1; decoded once."""
        if index not in self._decoded:
            x0, y0, x1, y1 = self.boxes[index]
            self._decoded[index] = decode(self.rles[index])[y0:y1, x0:x1].astype(np.uint8)
        return self._decoded[index]


@dataclass(frozen=True)
class Geometry:
    """How a view is cut: source region → resize → place on the canvas → quarter turns → mirror.

    Attributes:
        top, left, height, width: region of the source image, in its pixels.
        resized: (height, width) of that region after the resize.
        pad_top, pad_left: its place on the canvas.
        canvas: (height, width) before the turns.
        turns: anticlockwise quarter turns.
        mirror: left and right exchanged.
    """

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int]
    pad_top: int
    pad_left: int
    canvas: tuple[int, int]
    turns: int
    mirror: bool


@dataclass(frozen=True)
class Views:
    """Two views of one crop: weak and strong float32 (3, H, W) in 0 … 1, target, valid bool (H, W)."""

    weak: Tensor
    strong: Tensor
    target: Target
    valid: Tensor


def views(sample: Sample, train: TrainSettings, rng: np.random.Generator, strong: bool = True) -> Views:
    """The weak and strong view of one image (docs/method.md, L_pxl).

    Args:
        sample: the image and its instances.
        train: crop, ranges and probabilities.
        rng: the only source of randomness.
        strong: False spares the colour changes: the strong view is the weak one.

    Returns:
        Views at `train.image_size`; the target holds the instances that show more than
        `train.min_visible_area` pixels.
    """
    geometry = draw_geometry(sample.size, train, rng)
    weak = F.to_dtype(warp_image(sample, geometry), torch.float32, scale=True)
    return Views(
        weak=weak,
        strong=change_colours(weak, train, rng) if strong else weak,
        target=warp_masks(sample, geometry, train.min_visible_area),
        valid=_place(torch.ones(1, *geometry.resized, dtype=torch.bool), geometry, torch.tensor(False))[0],
    )


# --- geometry -----------------------------------------------------------------------------------------------


def draw_geometry(size: tuple[int, int], train: TrainSettings, rng: np.random.Generator) -> Geometry:
    """Draw scale, crop, flips and turns for an image of (height, width) pixels."""
    scale = rng.uniform(*train.resize_range)
    mirror = bool(rng.integers(2))
    # Quarter turns and a mirror image make all eight symmetries, the vertical flip among them.
    turns = int(rng.integers(4)) if train.flip_vertical else 0
    canvas = train.image_size[::-1] if turns % 2 else train.image_size
    top, height, resized_height, pad_top = _crop_axis(size[0], canvas[0], scale, rng)
    left, width, resized_width, pad_left = _crop_axis(size[1], canvas[1], scale, rng)
    resized = (resized_height, resized_width)
    return Geometry(top, left, height, width, resized, pad_top, pad_left, canvas, turns, mirror)


def _crop_axis(source: int, canvas: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Start and length of the crop in the source, its length after the resize, and the padding before it."""
    length = max(1, round(canvas / scale))
    if length < source:
        return int(rng.integers(source - length + 1)), length, canvas, 0
    resized = min(canvas, max(1, round(source * scale)))
    return 0, source, resized, int(rng.integers(canvas - resized + 1))


def warp_image(sample: Sample, geometry: Geometry) -> Tensor:
    """The view's image, uint8 (3, H, W), padded with the image's mean colour."""
    bottom, right = geometry.top + geometry.height, geometry.left + geometry.width
    region = sample.image[:, geometry.top : bottom, geometry.left : right]
    if geometry.resized != region.shape[1:]:
        region = F.resize(region, list(geometry.resized), InterpolationMode.BILINEAR, antialias=True)
    return _place(region, geometry, sample.mean_colour)


def warp_masks(sample: Sample, geometry: Geometry, min_visible_area: int) -> Target:
    """The view's target: masks bool (N, H, W) of instances that show more than `min_visible_area` pixels."""
    bottom, right = geometry.top + geometry.height, geometry.left + geometry.width
    x0, y0, x1, y1 = sample.boxes.T
    touching = np.flatnonzero((x0 < right) & (x1 > geometry.left) & (y0 < bottom) & (y1 > geometry.top))
    region = np.zeros((len(touching), geometry.height, geometry.width), dtype=np.uint8)
    for out, index in zip(region, touching, strict=True):
        top, left = y0[index] - geometry.top, x0[index] - geometry.left
        rows = slice(max(top, 0), y1[index] - geometry.top)
        columns = slice(max(left, 0), x1[index] - geometry.left)
        seen = sample.mask(int(index))[max(-top, 0) :, max(-left, 0) :]
        shape = out[rows, columns].shape
        out[rows, columns] = seen[: shape[0], : shape[1]]
    masks = torch.from_numpy(region)
    if len(touching) and geometry.resized != region.shape[1:]:
        masks = F.resize(masks, list(geometry.resized), InterpolationMode.NEAREST_EXACT)
    elif not len(touching):
        masks = masks.new_zeros(0, *geometry.resized)
    masks = _place(masks.bool(), geometry, torch.tensor(False))
    kept = masks.sum((1, 2)) > min_visible_area
    return Target(masks[kept], torch.from_numpy(sample.labels[touching])[kept])


def _place(region: Tensor, geometry: Geometry, fill: Tensor) -> Tensor:
    """Put (channels, *resized) on the filled canvas, then turn and mirror it."""
    if geometry.resized == geometry.canvas:
        canvas = region
    else:
        canvas = fill.expand(len(region), *geometry.canvas).clone()
        rows = slice(geometry.pad_top, geometry.pad_top + geometry.resized[0])
        columns = slice(geometry.pad_left, geometry.pad_left + geometry.resized[1])
        canvas[:, rows, columns] = region
    turned = torch.rot90(canvas, geometry.turns, (1, 2))
    return (turned.flip(2) if geometry.mirror else turned).contiguous()


# --- colour -------------------------------------------------------------------------------------------------


def change_colours(image: Tensor, train: TrainSettings, rng: np.random.Generator) -> Tensor:
    """Colour jitter in random order, grayscale and blur on a float image (3, H, W) in 0 … 1."""
    brightness, contrast, saturation, hue = train.strong_jitter
    changes = (
        (F.adjust_brightness, rng.uniform(1 - brightness, 1 + brightness)),
        (F.adjust_contrast, rng.uniform(1 - contrast, 1 + contrast)),
        (F.adjust_saturation, rng.uniform(1 - saturation, 1 + saturation)),
        (shift_hue, rng.uniform(-hue, hue)),
    )
    for index in rng.permutation(len(changes)):
        change, amount = changes[index]
        image = change(image, amount)
    if rng.random() < train.strong_grayscale:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    sigma = rng.uniform(*train.strong_blur_sigma)
    blurred: Tensor = F.gaussian_blur(image, [train.strong_blur_kernel] * 2, [sigma, sigma])
    return blurred


def shift_hue(image: Tensor, shift: float) -> Tensor:
    """Turn the hue of a float image (3, H, W) in 0 … 1 by `shift` of the colour circle.

    Equals torchvision's `adjust_hue` in a third of its time, which is the strong view's largest: value and
    saturation stay, so each channel follows from the new hue without building the HSV image.
    """
    red, green, blue = image
    value, chroma = image.amax(0), image.amax(0) - image.amin(0)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # Place on the circle in sixths, turned for each channel so that the channel is at its lowest in 1 … 3
    # and at its highest in 4 … 6.
    distance = (hue + 6 * shift + torch.tensor([5.0, 3.0, 1.0])[:, None, None]) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)
