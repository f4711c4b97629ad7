"""The shapes of the drawn streets: five classes and clutter; sizes are in pixels of a 96-pixel-high scene."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cast.data.drawing import Canvas, Paints, Place

# --- the five classes ---------------------------------------------------------------------------------------


def _person(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    stride, swing = rng.uniform(0.12, 0.42), rng.uniform(0.3, 0.5)
    limb = 0.24 * place.width
    canvas.line(place.points((0.05, 0.48), (stride, 0.02)), limb, paints.second)
    canvas.line(place.points((-0.05, 0.48), (-stride, 0.02)), limb, paints.second)
    canvas.line(place.points((0.12, 0.76), (swing, 0.46)), 0.8 * limb, paints.body)
    canvas.line(place.points((-0.12, 0.76), (-swing, 0.46)), 0.8 * limb, paints.body)
    canvas.polygon(place.points((-0.28, 0.8), (0.28, 0.8), (0.2, 0.42), (-0.2, 0.42)), paints.body)
    head = 0.1 * place.height
    canvas.ellipse(place.at(0, 0.9), (head, head), paints.glass)


def _car(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    roof, nose = rng.uniform(0.9, 1.0), rng.uniform(0.5, 0.6)
    canvas.polygon(place.points((-0.36, 0.55), (-0.2, roof), (0.14, roof), (0.3, 0.55)), paints.body)
    canvas.polygon(
        place.points((-0.27, 0.58), (-0.16, roof - 0.1), (-0.04, roof - 0.1), (-0.04, 0.58)), paints.glass
    )
    canvas.polygon(
        place.points((0.0, 0.58), (0.0, roof - 0.1), (0.11, roof - 0.1), (0.21, 0.58)), paints.glass
    )
    outline = ((-0.5, 0.16), (-0.48, 0.58), (0.32, 0.6), (0.47, nose), (0.5, 0.16))
    canvas.polygon(place.points(*outline), paints.body)
    wheel = 0.24 * place.height
    for u in (-0.29, 0.29):
        canvas.ellipse(place.at(u, 0.24), (wheel, wheel), paints.dark)
        canvas.ellipse(place.at(u, 0.24), (0.4 * wheel, 0.4 * wheel), paints.second)


def _bicycle(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    wheel, rim = 0.24 * place.width, 0.15 * place.width
    axle = wheel / place.height
    for u in (-0.26, 0.26):
        canvas.ellipse(place.at(u, axle), (wheel, wheel), paints.dark)
        canvas.ellipse(place.at(u, axle), (rim, rim), paints.second)
    saddle, bars = rng.uniform(0.82, 0.92), rng.uniform(0.9, 1.0)
    tube = 0.08 * place.width
    canvas.line(
        place.points((-0.26, axle), (-0.02, axle), (0.16, 0.75), (-0.1, 0.75), (-0.26, axle)),
        tube,
        paints.body,
    )
    canvas.line(place.points((-0.02, axle), (-0.12, saddle)), tube, paints.body)
    canvas.line(place.points((0.26, axle), (0.14, bars)), tube, paints.body)
    canvas.line(place.points((-0.22, saddle), (-0.03, saddle)), tube, paints.dark)
    canvas.line(place.points((0.05, bars - 0.02), (0.22, bars)), tube, paints.dark)


def _bus(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    outline = ((-0.5, 0.1), (-0.5, 0.94), (-0.46, 1.0), (0.45, 1.0), (0.5, 0.92), (0.5, 0.1))
    canvas.polygon(place.points(*outline), paints.body)
    windows = int(rng.integers(3, 6))
    edges = np.linspace(-0.44, 0.46, windows + 1)
    for left, right in zip(edges[:-1], edges[1:] - 0.04, strict=True):
        canvas.polygon(place.points((left, 0.58), (left, 0.86), (right, 0.86), (right, 0.58)), paints.glass)
    canvas.polygon(place.points((-0.5, 0.32), (-0.5, 0.42), (0.5, 0.42), (0.5, 0.32)), paints.second)
    wheel = 0.13 * place.height
    for u in (-0.3, 0.3):
        canvas.ellipse(place.at(u, 0.13), (wheel, wheel), paints.dark)


def _sign(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    canvas.line(place.points((0, 0.0), (0, 0.7)), 0.22 * place.width, paints.dark)
    radius, middle = 0.5 * place.width, 1 - 0.5 * place.width / place.height
    corners = int(rng.choice([3, 4, 8, 24]))
    for share, colour in ((1.0, paints.body), (0.62, paints.second)):
        angles = np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
        x, y = place.at(0, middle)
        canvas.polygon(
            [(x + share * radius * np.cos(a), y - share * radius * np.sin(a)) for a in angles], colour
        )


Painter = Callable[[Canvas, Place, Paints, np.random.Generator], None]
# Class: how to draw it, width, height, and how often it appears.
THINGS: tuple[tuple[Painter, float, float, float], ...] = (
    (_person, 14, 34, 0.26),
    (_car, 40, 20, 0.24),
    (_bicycle, 34, 23, 0.2),
    (_bus, 52, 32, 0.12),
    (_sign, 18, 36, 0.18),
)


# --- what belongs to no class -------------------------------------------------------------------------------


def _tree(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    canvas.line(place.points((0, 0), (0, 0.6)), 0.16 * place.width, paints.dark)
    for u, v in ((-0.25, 0.6), (0.25, 0.62), (0, 0.8), (-0.1, 0.5)):
        radius = rng.uniform(0.24, 0.34) * place.width
        canvas.ellipse(place.at(u, v), (radius, radius), paints.body)


def _bush(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    for u in (-0.3, 0.0, 0.3):
        radii = (rng.uniform(0.2, 0.3) * place.width, rng.uniform(0.5, 0.9) * place.height)
        canvas.ellipse(place.at(u, 0.2), radii, paints.body)


def _crate(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    top = rng.uniform(0.5, 1.0)
    canvas.polygon(place.points((-0.5, 0), (-0.5, top), (0.5, top), (0.5, 0)), paints.body)
    canvas.line(place.points((-0.5, 0), (0.5, top)), 1.2, paints.second)


def _post(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    lean = rng.uniform(-0.2, 0.2)
    canvas.line(place.points((0, 0), (lean, 1)), 0.2 * place.width, paints.dark)


def _cone(canvas: Canvas, place: Place, paints: Paints, rng: np.random.Generator) -> None:
    canvas.polygon(place.points((-0.5, 0), (0, 1), (0.5, 0)), paints.body)
    level = rng.uniform(0.25, 0.45)
    canvas.line(place.points((-0.3, level), (0.3, level)), 1.5, paints.second)


CLUTTER: tuple[tuple[Painter, float, float], ...] = (
    (_tree, 26, 46),
    (_bush, 24, 9),
    (_crate, 13, 12),
    (_post, 7, 34),
    (_cone, 9, 12),
)
