"""Drawn street scenes with exact instance masks: a bright, clean source and a dark, cluttered target domain.

Five classes are told apart by shape alone; colours come from one palette for all of them. Farther objects
are smaller and are covered by nearer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cast.data.drawing import SUPERSAMPLING, Canvas, Paints, Place, random_colour
from cast.data.street_objects import CLUTTER, THINGS

CLASS_NAMES = ("person", "car", "bicycle", "bus", "sign")  # in the order of THINGS

REFERENCE_HEIGHT = 96
MIN_VISIBLE = 24  # pixels at the reference height; what shows less is no instance
MIN_VISIBLE_SHARE = 0.3  # of the object's own area
ACCEPTED_COVER = 0.3  # share of a box that may lie over another
PLACING_TRIES = 6

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in scene pixels


@dataclass(frozen=True)
class Look:
    """Statistics of a domain."""

    objects: tuple[int, int]  # fewest and most per scene
    clutter: tuple[int, int]
    value: tuple[float, float]  # brightness of the palette, 0 … 1
    saturation: tuple[float, float]
    gain: tuple[float, float]  # exposure
    cast: float  # spread of the colour cast
    noise: tuple[float, float]  # standard deviation, 8-bit levels
    blur: tuple[float, float]  # σ, pixels
    texture: float  # amplitude of patterns on walls and road, 8-bit levels


LOOKS = {
    "source": Look((3, 6), (1, 3), (0.45, 1.0), (0.35, 0.9), (0.95, 1.1), 0.02, (1, 3), (0.0, 0.3), 4),
    "target": Look((3, 6), (2, 5), (0.35, 0.95), (0.2, 0.7), (0.55, 0.85), 0.1, (3, 6), (0.2, 0.5), 8),
}


def draw_scene(
    rng: np.random.Generator, domain: str, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[int]]:
    """Draw one scene.

    Args:
        rng: everything random comes from it.
        domain: `source` or `target`.
        size: (H, W) in pixels.

    Returns:
        RGB uint8 (H, W, 3); visible pixels of the N instances, bool (N, H, W), none empty; N class indices.
    """
    look, canvas = LOOKS[domain], Canvas(size)
    horizon = size[0] * rng.uniform(0.28, 0.42)
    _draw_background(canvas, look, size, horizon, rng)
    labels = rng.choice(len(THINGS), _count(look.objects, rng), p=[thing[3] for thing in THINGS])
    things = [(depth, index) for index, depth in enumerate(np.sort(rng.uniform(0.1, 1.0, len(labels))))]
    clutter = [(depth, -1) for depth in rng.uniform(0.0, 0.9, _count(look.clutter, rng))]
    boxes: list[Box] = []
    owned = np.zeros(len(labels), dtype=np.int64)
    for depth, index in sorted(things + clutter):  # far to near
        if index < 0:
            painter, width, height = CLUTTER[int(rng.integers(len(CLUTTER)))]
        else:
            painter, width, height, _ = THINGS[labels[index]]
        canvas.owner = index + 1
        place = _place((width, height), depth, horizon, size, boxes, rng)
        painter(canvas, place, _paints(look, rng), rng)
        if index >= 0:
            owned[index] = np.count_nonzero(np.asarray(canvas.owners) == canvas.owner)
    masks, kept = _visible(canvas, owned, size)
    return _photograph(canvas.image, look, rng), masks, [int(labels[index]) for index in kept]


def _visible(
    canvas: Canvas, owned: NDArray[np.int64], size: tuple[int, int]
) -> tuple[NDArray[np.bool_], list[int]]:
    """Masks of the objects of which enough shows, and their indices."""
    middle = SUPERSAMPLING // 2
    owners = np.asarray(canvas.owners)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
    least = MIN_VISIBLE * (size[0] / REFERENCE_HEIGHT) ** 2
    masks, kept = [], []
    for index, area in enumerate(owned):
        mask = owners == index + 1
        if mask.sum() >= max(least, MIN_VISIBLE_SHARE * area / SUPERSAMPLING**2, 1):
            masks.append(mask)
            kept.append(index)
    return (np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)), kept


def _count(limits: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _place(
    extent: tuple[float, float],
    depth: float,
    horizon: float,
    size: tuple[int, int],
    boxes: list[Box],
    rng: np.random.Generator,
) -> Place:
    """A place at this depth (0 far … 1 near) that covers the boxes so far as little as a few tries allow."""
    unit = size[0] / REFERENCE_HEIGHT
    scale = unit * (0.6 + 0.5 * depth) * rng.uniform(0.9, 1.1)
    width, height = extent[0] * scale * rng.uniform(0.9, 1.1), extent[1] * scale * rng.uniform(0.92, 1.08)
    y = horizon + (size[0] - horizon) * (0.18 + 0.78 * depth)
    best, least = 0.0, np.inf
    for x in rng.uniform(0.25 * width, size[1] - 0.25 * width, PLACING_TRIES):
        box = (x - width / 2, y - height, x + width / 2, y)
        covered = sum(_overlap(box, other) for other in boxes)
        if covered < least:
            best, least = float(x), covered
        if covered < ACCEPTED_COVER:
            break
    boxes.append((best - width / 2, y - height, best + width / 2, y))
    return Place(best, y, width, height, bool(rng.random() < 0.5))


def _overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection as a share of the smaller box."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / min(areas)


def _draw_background(
    canvas: Canvas, look: Look, size: tuple[int, int], horizon: float, rng: np.random.Generator
) -> None:
    """Sky, a row of houses with windows, pavement, road with markings."""
    height, width = size
    sky = random_colour(rng, (0.55, 0.68), (0.1, 0.45), (0.75, 1.0))
    canvas.polygon([(0, 0), (width, 0), (width, height), (0, height)], sky)
    x = -rng.uniform(0, 0.2) * width
    while x < width:
        wide = rng.uniform(0.15, 0.35) * width
        top = horizon * rng.uniform(0.05, 0.75)
        wall = random_colour(rng, (0.0, 1.0), (0.05, 0.35), (0.45, 0.85))
        canvas.polygon([(x, top), (x + wide, top), (x + wide, horizon), (x, horizon)], wall)
        pane = random_colour(rng, (0.0, 1.0), (0.0, 0.3), (0.25, 0.6))
        step = width / 14
        for left in np.arange(x + 0.3 * step, x + wide - 0.5 * step, step).tolist():
            for upper in np.arange(top + 0.4 * step, horizon - 0.6 * step, 1.1 * step).tolist():
                right, lower = left + 0.45 * step, upper + 0.6 * step
                canvas.polygon([(left, upper), (right, upper), (right, lower), (left, lower)], pane)
        x += wide
    grey = int(rng.uniform(120, 190))
    pavement = (grey, grey, grey)
    canvas.polygon([(0, horizon), (width, horizon), (width, height), (0, height)], pavement)
    kerb = horizon + 0.12 * (height - horizon)
    tone = int(rng.uniform(70, 120))
    canvas.polygon([(0, kerb), (width, kerb), (width, height), (0, height)], (tone, tone, tone + 5))
    dash, line = width * rng.uniform(0.1, 0.2), horizon + rng.uniform(0.4, 0.7) * (height - horizon)
    for left in np.arange(-rng.uniform(0, 2) * dash, width, 2 * dash).tolist():
        canvas.line([(left, line), (left + dash, line)], 1.2, (225, 225, 215))


def _photograph(drawing: Image.Image, look: Look, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Scale down and add texture, exposure, colour cast, blur and noise."""
    small = drawing.reduce(SUPERSAMPLING)
    sigma = rng.uniform(*look.blur)
    if sigma > 0:
        small = small.filter(ImageFilter.GaussianBlur(sigma))
    pixels = np.asarray(small, dtype=np.float32)
    height, width = pixels.shape[:2]
    coarse = rng.normal(0, 127 / 3, (max(2, height // 8), max(2, width // 8))).clip(-127, 127)
    patches = Image.fromarray((coarse + 128).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = pixels + look.texture / 40 * (np.asarray(patches, dtype=np.float32) - 128)[:, :, None]
    tint = rng.normal(1, look.cast, 3).astype(np.float32)
    pixels = pixels * (rng.uniform(*look.gain) * tint)
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(*look.noise))
    return np.round(pixels.clip(0, 255)).astype(np.uint8)


def _paints(look: Look, rng: np.random.Generator) -> Paints:
    return Paints(
        random_colour(rng, (0.0, 1.0), look.saturation, look.value),
        random_colour(rng, (0.0, 1.0), look.saturation, look.value),
        random_colour(rng, (0.0, 1.0), (0.0, 0.3), (0.08, 0.2)),
        random_colour(rng, (0.0, 1.0), (0.05, 0.4), (0.6, 0.95)),
    )
