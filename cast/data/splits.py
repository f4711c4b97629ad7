"""Seeded, stratified choice of images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cast.data.coco import ImageRecord, load_image
from cast.errors import CastError

BRIGHT = 0.5  # of full brightness: a bright background fills most of a micrograph
COLOURFUL = 0.03  # mean saturation; grey images have none but for compression


def split_labelled(
    image_ids: Sequence[int], fraction: float, seed: int, groups: Mapping[int, Hashable] | None = None
) -> tuple[list[int], list[int]]:
    """Choose which images keep their labels.

    The same ids, fraction, seed and groups give the same split, whatever the order of the ids.

    Args:
        image_ids: COCO ids, unique.
        fraction: share of labelled images, above 0 and at most 1; rounded to whole images.
        seed: of the choice.
        groups: group of each image; every group is split in proportion (largest remainders), and has
            at least one labelled image where the count allows.

    Returns:
        Labelled and unlabelled ids, both sorted.

    Raises:
        CastError: no image would be labelled.
    """
    count = round(fraction * len(image_ids))
    if count < 1:
        raise CastError(
            f"split.labelled_fraction: {fraction} of {len(image_ids)} images leaves no labelled image; "
            "raise it or add images"
        )
    chosen = choose(image_ids, count, seed, groups)
    return sorted(chosen), sorted(set(image_ids) - chosen)


def split_listed(images: Sequence[ImageRecord], path: Path) -> tuple[list[int], list[int]]:
    """The images that a text file names keep their labels.

    Args:
        images: of the dataset.
        path: one name a line: a file name without folder and extension, or its beginning up to an underscore
            (`aachen_000002_000019` for `aachen/aachen_000002_000019_leftImg8bit.png`).

    Returns:
        Labelled and unlabelled ids, both sorted.

    Raises:
        CastError: the file names no image, or one that is not there, or one that is not alone to fit.
    """
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    ids: dict[str, list[int]] = {}
    for image in images:
        parts = Path(image.file_name).stem.split("_")
        for end in range(1, len(parts) + 1):
            ids.setdefault("_".join(parts[:end]), []).append(image.id)
    problems = [name for name in names if len(ids.get(name, [])) != 1]
    if problems or not names:
        found = (
            f"{len(problems)} of {len(names)} names fit no image, or several" if names else "names no image"
        )
        shown = f" ({', '.join(problems[:5])})" if problems else ""
        raise CastError(f"{path}: {found}{shown}; is it the list of this dataset, and is the dataset whole?")
    labelled = {ids[name][0] for name in names}
    return sorted(labelled), sorted({image.id for image in images} - labelled)


def choose(
    image_ids: Sequence[int], count: int, seed: int, groups: Mapping[int, Hashable] | None = None
) -> set[int]:
    """Draw `count` ids at random, every group in proportion.

    Args:
        image_ids: at least `count` unique ids.
        count: ids to draw.
        seed: of the draw.
        groups: group of each id; one group when unset.
    """
    assert 0 <= count <= len(image_ids)
    members: dict[Hashable, list[int]] = {}
    for image_id in sorted(image_ids):
        members.setdefault(groups[image_id] if groups is not None else None, []).append(image_id)
    names = sorted(members, key=str)
    generator = np.random.default_rng(seed)
    chosen: set[int] = set()
    for name, quota in zip(names, _quotas([len(members[name]) for name in names], count), strict=True):
        order = generator.permutation(len(members[name]))
        chosen.update(members[name][index] for index in order[:quota])
    return chosen


def appearance_groups(images: Sequence[ImageRecord], image_root: Path) -> dict[int, str]:
    """Group images by how they look, since microscopy folders mix kinds of very different frequency.

    Args:
        images: the records.
        image_root: their folder.

    Returns:
        By image id: `dark`, `bright colour` or `bright grey`.

    Raises:
        CastError: an image cannot be read.
    """
    return {image.id: appearance(load_image(image_root, image)) for image in images}


def appearance(pixels: NDArray[np.uint8]) -> str:
    """`dark`, `bright colour` or `bright grey` by mean brightness and saturation.

    Args:
        pixels: RGB, uint8 (H, W, 3).
    """
    high, low = pixels.max(2) / 255.0, pixels.min(2) / 255.0
    if high.mean() < BRIGHT:
        return "dark"
    saturation = (high - low) / np.maximum(high, 1 / 255)  # HSV
    return "bright colour" if saturation.mean() > COLOURFUL else "bright grey"


def _quotas(sizes: Sequence[int], count: int) -> list[int]:
    """Whole shares of `count` in proportion to `sizes`, by largest remainders (Hamilton's method).

    Groups that would go without get one from the largest share, where the count allows.
    """
    total = sum(sizes)
    if total == 0:
        return [0] * len(sizes)
    exact = [size * count / total for size in sizes]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: (quotas[index] - exact[index], index))
    for index in by_remainder[: count - sum(quotas)]:
        quotas[index] += 1
    if count >= len(sizes):
        for index in (index for index, quota in enumerate(quotas) if quota == 0):
            quotas[quotas.index(max(quotas))] -= 1
            quotas[index] += 1
    return quotas
