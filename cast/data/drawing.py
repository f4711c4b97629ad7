"""Drawing with masks: an enlarged image whose every pixel knows which object it shows."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 3  # drawn this much larger, for soft edges

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """An enlarged image and, beside it, the number of the object that each pixel shows."""

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = (side * SUPERSAMPLING for side in size)
        self.image = Image.new("RGB", (width, height))
        self.owners = Image.new("L", (width, height))
        self._colour = ImageDraw.Draw(self.image)
        self._owner = ImageDraw.Draw(self.owners)
        self.owner = 0  # whom the next strokes belong to; 0: background

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon given in scene pixels."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        self._colour.polygon(scaled, fill=colour)
        self._owner.polygon(scaled, fill=self.owner)

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        """Fill an upright ellipse."""
        (x, y), (rx, ry) = centre, radii
        box = [value * SUPERSAMPLING for value in (x - rx, y - ry, x + rx, y + ry)]
        self._colour.ellipse(box, fill=colour)
        self._owner.ellipse(box, fill=self.owner)

    def line(self, points: Sequence[Point], thickness: float, colour: Colour) -> None:
        """Draw a thick open line."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        pixels = max(1, round(thickness * SUPERSAMPLING))
        self._colour.line(scaled, fill=colour, width=pixels, joint="curve")
        self._owner.line(scaled, fill=self.owner, width=pixels, joint="curve")


@dataclass(frozen=True)
class Place:
    """Where an object stands: x, y is its foot's middle; u in -0.5 … 0.5, v in 0 … 1 run over its box."""

    x: float
    y: float
    width: float
    height: float
    mirrored: bool

    def at(self, u: float, v: float) -> Point:
        """Scene pixels of a point of the object's box; v = 0 is the ground."""
        return self.x + (-u if self.mirrored else u) * self.width, self.y - v * self.height

    def points(self, *pairs: Point) -> list[Point]:
        """Several points."""
        return [self.at(u, v) for u, v in pairs]


@dataclass(frozen=True)
class Paints:
    """Colours of one object."""

    body: Colour
    second: Colour
    dark: Colour
    glass: Colour


def random_colour(
    rng: np.random.Generator,
    hue: tuple[float, float],
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Colour:
    """A random colour, 8 bits, of hue, saturation and value in 0 … 1."""
    ranges = zip((hue, saturation, value), rng.random(3).tolist(), strict=True)
    h, s, v = (low + (high - low) * share for (low, high), share in ranges)
    red, green, blue = (int(255 * channel) for channel in hsv_to_rgb(h, s, v))
    return red, green, blue
