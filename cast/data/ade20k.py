"""ADE20K's instance segmentation from its official folders to COCO: 100 thing classes.

The folders are those of the scene-parsing benchmark (ADEChallengeData2016) with annotations_instance beside
images: PNGs whose red channel holds the class, 1 … 100, and whose green channel the instance, from 1, unique
in its image; 0 is background.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from cast.data import rle as run_length
from cast.data.coco import CocoData
from cast.data.official import Instance, check_label_size, read_images
from cast.errors import CastError

IMAGES, TRUTH = "images", "annotations_instance"


@cache
def categories() -> list[dict[str, Any]]:
    """The 100 classes with the category ids in public use, in the order of the red channel."""
    text = Path(__file__).with_name("ade20k_classes.txt").read_text(encoding="utf-8")
    entries = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return [{"id": int(number), "name": name} for number, name in entries]


def read_ade20k(root: Path, split: str) -> CocoData:
    """All images of a split with their instances.

    Args:
        root: folder that holds images/ and annotations_instance/.
        split: "training" or "validation".

    Returns:
        Images by name, relative to `root`/images/`split`.

    Raises:
        CastError: names the files that are missing, unreadable or wrong (up to ten).
    """
    folder, truth = root / IMAGES / split, root / TRUTH / split
    for needed in (folder, truth):
        if not needed.is_dir():
            raise CastError(f"{needed}: is missing; unpack ADE20K's {needed.parent.name} into {root}")
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise CastError(f"{folder}: holds no image (*.jpg); unpack it again")
    images, by_image = read_images(
        paths, folder, lambda path, size: instances(truth / f"{path.stem}.png", size)
    )
    info = {"description": f"ADE20K instance segmentation, {split}"}
    return CocoData(images, categories(), folder, by_image, info, truth)


def instances(path: Path, size: tuple[int, int]) -> list[Instance]:
    """The instances of one label file.

    Args:
        path: PNG of annotations_instance.
        size: height and width of its image.

    Raises:
        CastError: the file is missing, unreadable, of another size, or not as ADE20K's are.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise CastError(f"{path}: {reason}; unpack ADE20K's {TRUTH} again") from None
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
