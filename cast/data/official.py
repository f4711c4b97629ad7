"""What data sets in their official folders share: image by image, all problems named at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cast.data import rle as run_length
from cast.data.coco import Annotation, ImageRecord
from cast.data.rle import Rle
from cast.errors import CastError

NAMED = 10  # problems listed in one message
Instance = tuple[int, Rle, bool]  # class index, mask, is it a crowd region


def read_images(
    paths: Sequence[Path], folder: Path, instances: Callable[[Path, tuple[int, int]], Iterable[Instance]]
) -> tuple[list[ImageRecord], dict[int, list[Annotation]]]:
    """Records and annotations of images, numbered from 1 in the order of `paths`.

    Args:
        paths: image files below `folder`.
        folder: what file names are relative to.
        instances: from an image's path and (height, width) to its instances; raises CastError for bad labels.

    Raises:
        CastError: names the files that are missing, unreadable or of the wrong size (up to ten).
    """
    images: list[ImageRecord] = []
    by_image: dict[int, list[Annotation]] = {}
    problems: list[str] = []
    numbers = count(1)
    for image_id, path in enumerate(paths, start=1):
        try:
            with Image.open(path) as image:
                width, height = image.size
            found = list(instances(path, (height, width)))
        except CastError as error:
            problems.append(str(error))
            continue
        except (OSError, UnidentifiedImageError) as error:
            problems.append(f"{path}: cannot be read ({error})")
            continue
        images.append(ImageRecord(image_id, path.relative_to(folder).as_posix(), width, height))
        by_image[image_id] = [
            Annotation(
                next(numbers), image_id, label, rle, run_length.area(rle), run_length.box(rle), is_crowd
            )
            for label, rle, is_crowd in found
        ]
    refuse(problems)
    return images, by_image


def check_label_size(path: Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Labels must have their image's (height, width).

    Raises:
        CastError: they have another.
    """
    if shape[:2] != size:
        raise CastError(f"{path}: is of {shape[1]} × {shape[0]} pixels, its image of {size[1]} × {size[0]}")


def refuse(problems: Sequence[str]) -> None:
    """Raise one error for all problems, if there are any.

    Args:
        problems: a line each, which names the file.

    Raises:
        CastError: there are problems; the first ten are listed.
    """
    if problems:
        more = f"\n… and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise CastError("\n".join(problems[:NAMED]) + more)
