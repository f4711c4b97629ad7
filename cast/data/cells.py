"""Drawn micrographs with exact nucleus masks: a source domain for nucleus segmentation.

Bright, mottled, more or less round nuclei on a dark, unevenly lit background, alone or touching, beside
debris that is no nucleus. Some images have the colours of a histological stain. All have a dark background;
`reading.invert_bright` gives photographs one. Lengths are in pixels, whatever the scene's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

CLASS_NAMES = ("nucleus",)

MIN_VISIBLE = 10  # pixels; what shows less at the border is no instance
REFERENCE_AREA = 128 * 128  # pixels for which `most` counts
RIM = 1.35  # how far beyond its outline a nucleus is computed, in radii
PLACING_TRIES = 8
HALO_WIDTH = 13
# Negatives of (background, nucleus): haematoxylin on lilac and on white, and with eosin.
STAINS = (((72, 90, 48), (172, 218, 50)), ((28, 32, 40), (110, 205, 125)), ((24, 95, 62), (95, 190, 110)))

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """Statistics of a domain."""

    stained: float  # share of images in stain colours
    coverage: tuple[float, float]  # share of the image that nuclei cover
    most: int  # nuclei per 128 × 128 pixels
    radius: tuple[float, float]  # of an image's nuclei, drawn log-uniformly
    crowding: tuple[float, float]  # share of nuclei set against another one
    peak: tuple[float, float]  # brightness of nuclei, 0 … 1, drawn log-uniformly
    noise: tuple[float, float]  # standard deviation, 8-bit levels
    debris: int  # most pieces per 128 × 128 pixels


LOOKS = {
    "source": Look(0.15, (0.03, 0.3), 40, (4.5, 19.0), (0.0, 0.6), (0.12, 0.9), (0.5, 2.5), 3),
    "target": Look(0.3, (0.03, 0.35), 40, (4.0, 19.0), (0.2, 0.8), (0.08, 0.8), (1.0, 4.0), 6),
}


@dataclass(frozen=True)
class Nucleus:
    """A lobed ellipse."""

    x: float
    y: float
    radius: float  # geometric mean of the half axes
    elongation: float  # ratio of the half axes
    angle: float
    lobes: tuple[float, float, float]  # amplitudes of the outline's 2nd, 3rd and 5th harmonic
    phases: tuple[float, float, float]
    brightness: float

    @property
    def reach(self) -> float:
        """Radius of a circle around all of it, rim included."""
        return RIM * self.radius * (1 + sum(self.lobes)) * float(np.sqrt(self.elongation))

    def distance(self, x: Field, y: Field) -> Field:
        """Distance from the centre as a share of the distance to the outline: below 1 inside."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along = ((x - self.x) * cos + (y - self.y) * sin) / self.elongation**0.5
        across = ((y - self.y) * cos - (x - self.x) * sin) * self.elongation**0.5
        theta = np.arctan2(across, along)
        outline = np.ones_like(theta)
        for harmonic, amplitude, phase in zip((2, 3, 5), self.lobes, self.phases, strict=True):
            outline += amplitude * np.cos(harmonic * theta + phase)
        return np.asarray(np.hypot(along, across) / (self.radius * outline), dtype=np.float32)


def draw_scene(
    rng: np.random.Generator, domain: str, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[int]]:
    """Draw one micrograph.

    Args:
        rng: everything random comes from it.
        domain: `source` or `target` (more stains, crowding, debris and noise, dimmer).
        size: (H, W) in pixels.

    Returns:
        RGB uint8 (H, W, 3); bool (N, H, W), disjoint, none empty; N class indices, all 0.
    """
    look = LOOKS[domain]
    stained = bool(rng.random() < look.stained)
    nuclei = _scatter(look, size, stained, rng)
    light, owners = _render(nuclei, size, stained, rng)
    masks = [owners == number for number in range(1, len(nuclei) + 1)]
    masks = [mask for mask in masks if mask.sum() >= MIN_VISIBLE]
    light = np.maximum(light, _debris(look, size, rng))
    light = _defocus(light, rng)
    pixels = _stain(light, rng) if stained else _fluorescence(light, look, rng)
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(*look.noise))
    image = np.round(pixels.clip(0, 255)).astype(np.uint8)
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return image, np.stack(masks) if masks else np.zeros((0, *size), dtype=bool), [0] * len(masks)


def _scatter(look: Look, size: tuple[int, int], stained: bool, rng: np.random.Generator) -> list[Nucleus]:
    """Nuclei of one kind: their radii, brightness and shapes vary about the image's own."""
    height, width = size
    typical = _log_uniform(rng, *look.radius) * (1.15 if stained else 1.0)
    slender = rng.uniform(1.3, 2.2) if rng.random() < 0.25 or stained else rng.uniform(1.05, 1.3)
    irregular = rng.uniform(0.0, 0.08) * (1.6 if stained else 1.0)
    spread, uneven = rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.45)
    crowding = rng.uniform(*look.crowding)
    expected = rng.uniform(*look.coverage) * height * width / (np.pi * typical**2)
    count = min(int(rng.poisson(expected)), round(look.most * height * width / REFERENCE_AREA))
    nuclei: list[Nucleus] = []
    for _ in range(count):
        radius = float(np.clip(typical * rng.lognormal(0, spread), 3, 22))
        centre = _free_centre(nuclei, radius, crowding, size, rng)
        if centre is None:
            continue
        lobes = np.abs(rng.normal(0, irregular, 3)) * (1.0, 0.8, 0.4)
        nuclei.append(
            Nucleus(
                *centre,
                radius,
                1 + (slender - 1) * rng.uniform(0.5, 1.5),
                rng.uniform(0, np.pi),
                tuple(lobes.clip(0, 0.25)),
                tuple(rng.uniform(0, 2 * np.pi, 3)),
                float(np.clip(rng.lognormal(0, uneven), 0.35, 2.5)),
            )
        )
    return nuclei


def _free_centre(
    nuclei: list[Nucleus], radius: float, crowding: float, size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float] | None:
    """A place for the next nucleus: against another one or anywhere, None when no try finds room."""
    height, width = size
    for _ in range(PLACING_TRIES):
        if nuclei and rng.random() < crowding:
            partner = nuclei[int(rng.integers(len(nuclei)))]
            angle = rng.uniform(0, 2 * np.pi)
            apart = rng.uniform(0.85, 1.1) * (partner.radius + radius)
            x, y = partner.x + apart * np.cos(angle), partner.y + apart * np.sin(angle)
            room = 0.8  # neighbours may press against each other
        else:
            x, y = rng.uniform(-radius / 2, width + radius / 2), rng.uniform(-radius / 2, height + radius / 2)
            room = 1.15
        inside = -radius / 2 <= x <= width + radius / 2 and -radius / 2 <= y <= height + radius / 2
        if inside and all(
            np.hypot(x - other.x, y - other.y) > room * (radius + other.radius) for other in nuclei
        ):
            return float(x), float(y)
    return None


def _render(
    nuclei: list[Nucleus], size: tuple[int, int], stained: bool, rng: np.random.Generator
) -> tuple[Field, NDArray[np.int16]]:
    """Light of the nuclei (about 0 … 1) and, per pixel, the number of the nucleus that owns it (0: none).

    A pixel inside two outlines belongs to the one it lies deeper in; along the seam both are darker.
    """
    nearest = np.full(size, np.inf, dtype=np.float32)
    second = np.full(size, np.inf, dtype=np.float32)
    owners = np.zeros(size, dtype=np.int16)
    for number, nucleus in enumerate(nuclei, start=1):
        window = _window(nucleus.x, nucleus.y, nucleus.reach, size)
        y, x = np.mgrid[window].astype(np.float32) + 0.5
        distance = nucleus.distance(x, y)
        closer = distance < nearest[window]
        second[window] = np.where(closer, nearest[window], np.minimum(second[window], distance))
        nearest[window] = np.where(closer, distance, nearest[window])
        owners[window] = np.where(closer, number, owners[window])
    brightness = np.array([0.0, *(nucleus.brightness for nucleus in nuclei)], dtype=np.float32)
    radius = np.array([1.0, *(nucleus.radius for nucleus in nuclei)], dtype=np.float32)
    depth = (1 - np.minimum(nearest, RIM)) * radius[owners]  # pixels inside the outline
    light = brightness[owners] / (1 + np.exp(-depth / rng.uniform(0.25, 0.6)))
    dome = rng.uniform(0, 0.35)
    light *= 1 - dome * np.minimum(nearest, 1) ** 2
    seam = (np.minimum(second, 9) - np.minimum(nearest, 9)) * radius[owners]
    light *= 1 - rng.uniform(0.2, 0.55) * np.exp(-((seam / 1.5) ** 2)) * (nearest < RIM)
    mottle = rng.uniform(0.03, 0.22) * (1.4 if stained else 1.0)
    light *= 1 + mottle * _smooth_noise(size, max(2.0, float(np.median(radius)) / 3), rng)
    return light.clip(0, None), np.where(nearest < 1, owners, 0).astype(np.int16)


def _debris(look: Look, size: tuple[int, int], rng: np.random.Generator) -> Field:
    """Specks, out-of-focus blobs and fibres: bright, but no nuclei."""
    field = np.zeros(size, dtype=np.float32)
    most = max(1, round(look.debris * size[0] * size[1] / REFERENCE_AREA))
    for _ in range(int(rng.integers(0, most + 1))):
        x, y = rng.uniform(0, size[1]), rng.uniform(0, size[0])
        angle, kind = rng.uniform(0, np.pi), rng.random()
        if kind < 0.6:  # speck
            long, short, peak = rng.uniform(0.6, 1.5), rng.uniform(0.6, 1.2), rng.uniform(0.4, 1.3)
        elif kind < 0.8:  # blob far out of focus
            long, short, peak = rng.uniform(6, 14), rng.uniform(6, 14), rng.uniform(0.08, 0.25)
        else:  # fibre
            long, short, peak = rng.uniform(6, 18), rng.uniform(0.6, 1.2), rng.uniform(0.08, 0.3)
        window = _window(x, y, 3 * max(long, short), size)
        rows, columns = np.mgrid[window].astype(np.float32) + 0.5
        along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
        across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
        glow = peak * np.exp(-0.5 * ((along / long) ** 2 + (across / short) ** 2))
        field[window] = np.maximum(field[window], glow)
    return field


def _defocus(light: Field, rng: np.random.Generator) -> Field:
    """The microscope's blur and the halo of light from other planes."""
    sharp = ndimage.gaussian_filter(light, _log_uniform(rng, 0.3, 1.5))
    halo = light
    for _ in range(3):  # three boxes make nearly a Gaussian, faster
        halo = ndimage.uniform_filter(halo, HALO_WIDTH)
    return np.asarray(sharp + rng.uniform(0, 0.25) * halo, dtype=np.float32)


def _fluorescence(light: Field, look: Look, rng: np.random.Generator) -> Field:
    """Grey levels (H, W, 1) of a fluorescence image, unevenly lit."""
    height, width = light.shape
    slope = rng.uniform(0, 0.5) if rng.random() < 0.4 else 0.1
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    angle = rng.uniform(0, 2 * np.pi)
    lamp = 1 + slope * (np.cos(angle) * x[None, :] + np.sin(angle) * y[:, None])
    background = _log_uniform(rng, 0.01, 0.08) + (rng.uniform(0, 0.1) if rng.random() < 0.15 else 0.0)
    peak = _log_uniform(rng, *look.peak)
    return np.asarray(255 * lamp * (background + peak * light), dtype=np.float32)[:, :, None]


def _stain(light: Field, rng: np.random.Generator) -> Field:
    """The negative (H, W, 3) of a violet stain on a bright background, with cytoplasm in between."""
    paper, nucleus = STAINS[int(rng.integers(len(STAINS)))]
    jitter = rng.normal(0, 10, 3)
    background = np.asarray(paper, dtype=np.float32) + np.float32(0.5) * jitter.astype(np.float32)
    foreground = np.asarray(nucleus, dtype=np.float32) + jitter.astype(np.float32)
    size = (light.shape[0], light.shape[1])
    tissue = np.clip(_smooth_noise(size, rng.uniform(8, 24), rng), 0, 2) * rng.uniform(0.02, 0.15)
    grain = 0.02 * _smooth_noise(size, 2.5, rng)
    share = np.clip(tissue + grain + rng.uniform(0.6, 0.95) * light, 0, 1.2)[:, :, None]
    return np.asarray(background + share * (foreground - background), dtype=np.float32)


def _smooth_noise(size: tuple[int, int], grain: float, rng: np.random.Generator) -> Field:
    """Noise of about unit variance whose grains are `grain` pixels wide, (H, W)."""
    height, width = size
    coarse = rng.standard_normal((int(height / grain) + 2, int(width / grain) + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _window(x: float, y: float, reach: float, size: tuple[int, int]) -> tuple[slice, slice]:
    """The part of an image within `reach` of a point."""
    rows = slice(max(0, int(y - reach)), max(0, min(size[0], int(y + reach) + 2)))
    columns = slice(max(0, int(x - reach)), max(0, min(size[1], int(x + reach) + 2)))
    return rows, columns


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
