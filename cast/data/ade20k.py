"""ADE20K's instance segmentation from its official folders to COCO: 100 thing classes.

The folders are those of the scene-parsing benchmark (ADEChallengeData2016) with annotations_instance beside
images: PNGs whose red channel holds the class, 1 … 100, and whose green channel the instance, from 1, unique
in its image; 0 is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cast.data import rle as run_length
from cast.data.images import UNREADABLE
from cast.data.official import Instance, OfficialSplit, Size, check_label_size, pairing_problems
from cast.errors import CastError

IMAGES, TRUTH = "images", "annotations_instance"
PUBLISHED = {"training": 20210, "validation": 2000}  # images of each split (arXiv 1608.05442)
TYPICAL_SIZE = (512, 683)  # height and width of most


@cache
def categories() -> list[dict[str, Any]]:
    """The 100 classes with the category ids in public use, in the order of the red channel."""
    text = Path(__file__).with_name("ade20k_classes.txt").read_text(encoding="utf-8")
    entries = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return [{"id": int(number), "name": name} for number, name in entries]


def ade20k_splits(root: Path, names: Sequence[str] = tuple(PUBLISHED)) -> list[OfficialSplit]:
    """The files of the splits and what is wrong with their folders, for `cast.data.official.read_splits`.

    Args:
        root: folder that holds images/ and annotations_instance/.
        names: of "training" and "validation".

    Returns:
        Images by name, relative to `root`/images/`name`.
    """
    return [_find(root, name) for name in names]


def _find(root: Path, name: str) -> OfficialSplit:
    folder, truth = root / IMAGES / name, root / TRUTH / name
    images = {path.stem: path for path in sorted(folder.glob("*.jpg"))}
    found = {path.stem: path for path in sorted(truth.glob("*.png"))}
    problems = [
        f"{root / part / name}: is missing; unpack ADE20K's {part} into {root}"
        for part in (IMAGES, TRUTH)
        if not (root / part / name).is_dir()
    ]
    if not problems and not images:
        problems = [f"{folder}: holds no image (*.jpg); unpack it again"]
    elif not problems:
        problems = pairing_problems(images, found)
    return OfficialSplit(
        folder=folder,
        truth=truth,
        labels={path: found.get(stem) for stem, path in images.items()},
        published=PUBLISHED[name],
        instances=instances,
        categories=categories(),
        description=f"ADE20K instance segmentation, {name}",
        problems=problems,
    )


def instances(path: Path, size: Size | None) -> list[Instance]:
    """The instances of one label file.

    Args:
        path: PNG of annotations_instance.
        size: height and width of its image, where they are known.

    Raises:
        CastError: the file is unreadable, of another size, or not as ADE20K's are.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except UNREADABLE as error:
        raise CastError(f"{path}: cannot be read ({error}); unpack ADE20K's {TRUTH} again") from None
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise CastError(f"{path}: is no RGB image; take {TRUTH}, not the scene parsing's annotations")
    check_label_size(path, pixels.shape, size)
    classes, numbers = pixels[..., 0], np.asfortranarray(pixels[..., 1])
    last = len(categories())
    found: list[Instance] = []
    for number in np.unique(numbers[numbers > 0]).tolist():
        mask = numbers == number
        label = np.unique(classes[mask])
        if len(label) != 1 or not 1 <= label[0] <= last:
            raise CastError(
                f"{path}: instance {number} has the classes {label.tolist()}, not one of 1 … {last}"
            )
        found.append((int(label[0]) - 1, run_length.encode(mask), False))
    return found
