"""What data sets in their official folders share: all is read and checked, all problems are named at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cast.data import rle as run_length
from cast.data.coco import Annotation, CocoData, ImageRecord
from cast.data.images import decoded_size
from cast.data.rle import Rle
from cast.errors import CastError
from cast.progress import Progress

NAMED = 10  # problems listed in one message
SECONDS = 10.0  # between lines of progress
Instance = tuple[int, Rle, bool]  # class index, mask, is it a crowd region
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class OfficialSplit:
    """The files of one split; none has been opened yet.

    Attributes:
        folder: folder of the images.
        truth: folder of the labels.
        labels: by image file, in order, its label file; None where there is none, which `problems` names.
        published: images that the split has as it was published.
        instances: from a label file and its image's size (None: not known) to the instances; raises
            CastError for labels that are unreadable, of another size, or unknown.
        categories: as in `CocoData`.
        description: for the written file's info.
        problems: what is wrong with the folders, a line for each file.
    """

    folder: Path
    truth: Path
    labels: Mapping[Path, Path | None]
    published: int
    instances: Callable[[Path, Size | None], Iterable[Instance]]
    categories: list[dict[str, Any]]
    description: str
    problems: Sequence[str]


def read_splits(splits: Sequence[OfficialSplit]) -> list[CocoData]:
    """Read all splits; every image is decoded, so that nothing fails for the first time in training.

    Args:
        splits: what belongs together; problems of one do not hide those of another.

    Returns:
        One for each split; images are numbered from 1 in the order of `labels`, and so are annotations.

    Raises:
        CastError: says how many problems there are and names the first ten: files that are missing, truncated
            or unreadable, of the wrong size, or with unknown labels.
    """
    problems = [problem for split in splits for problem in split.problems]
    progress = Progress("check", sum(len(split.labels) for split in splits), SECONDS, "image")
    numbers = count(1)

    def one_done() -> None:
        done = next(numbers)
        if progress.due(done):
            progress.report(done)

    parts = [_read_split(split, problems, one_done) for split in splits]
    _refuse(problems)
    return parts


def _read_split(split: OfficialSplit, problems: list[str], one_done: Callable[[], None]) -> CocoData:
    """One split; what is wrong with it is added to `problems`, and `one_done` is called after each image."""
    images: list[ImageRecord] = []
    by_image: dict[int, list[Annotation]] = {}
    numbers = count(1)
    for image_id, (path, label_file) in enumerate(split.labels.items(), start=1):
        size, found = None, []
        try:
            size = decoded_size(path)
        except CastError as error:
            problems.append(str(error))
        try:
            found = list(split.instances(label_file, size)) if label_file is not None else []
        except CastError as error:
            problems.append(str(error))
        one_done()
        if size is not None:
            images.append(ImageRecord(image_id, path.relative_to(split.folder).as_posix(), size[1], size[0]))
        by_image[image_id] = [
            Annotation(
                next(numbers), image_id, label, rle, run_length.area(rle), run_length.box(rle), is_crowd
            )
            for label, rle, is_crowd in found
        ]
    return CocoData(
        images, split.categories, split.folder, by_image, {"description": split.description}, split.truth
    )


def pairing_problems(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[str]:
    """A line for every image without label file and every label file without image.

    Args:
        images: image files by the name that both share.
        labels: label files likewise.
    """
    bare = [
        f"{path}: has no label file; unpack the labels again"
        for name, path in images.items()
        if name not in labels
    ]
    lone = [
        f"{path}: has no image; unpack the images again"
        for name, path in labels.items()
        if name not in images
    ]
    return bare + lone


def check_label_size(path: Path, shape: tuple[int, ...], size: Size | None) -> None:
    """Labels must have their image's (height, width), where that is known.

    Raises:
        CastError: they have another.
    """
    if size is not None and shape[:2] != size:
        raise CastError(
            f"{path}: is of {shape[1]} × {shape[0]} pixels, its image of {size[1]} × {size[0]}; "
            "unpack both again"
        )


def _refuse(problems: Sequence[str]) -> None:
    """One error for all problems, if there are any: their number and the first ten."""
    if not problems:
        return
    total = len(problems)
    more = [f"… and {total - NAMED} more"] if total > NAMED else []
    head = f"{total} problem{'s' if total > 1 else ''} in the data set; mend them all, then start again"
    raise CastError("\n".join([head, *problems[:NAMED], *more]))
