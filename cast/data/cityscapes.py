"""Cityscapes from its official folders (leftImg8bit, gtFine) to COCO: the eight thing classes.

Instances are those of the dataset's own tools: the regions of `*_gtFine_instanceIds.png` whose id is the
class's times 1,000 plus a number, polygons drawn in order, so that later ones hide earlier ones. Where that
image is missing it is made from `*_gtFine_polygons.json` by cityscapesscripts. Groups (`cargroup`) become
crowd regions; classes that the benchmark ignores, the rectification border and what lies out of the region of
interest are background.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation as Polygons
from cityscapesscripts.helpers.labels import labels as all_labels
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from numpy.typing import NDArray
from PIL import Image

from cast.data import rle as run_length
from cast.data.images import UNREADABLE
from cast.data.official import Instance, OfficialSplit, Size, check_label_size, pairing_problems
from cast.errors import CastError

IMAGES, TRUTH = "leftImg8bit", "gtFine"
IMAGE_END, IDS_END, POLYGONS_END = "_leftImg8bit.png", "_gtFine_instanceIds.png", "_gtFine_polygons.json"
# Person, rider, car, truck, bus, train, motorcycle, bicycle: label ids 24 … 33 without caravan and trailer.
CLASSES = [label for label in all_labels if label.hasInstances and not label.ignoreInEval]
CATEGORIES: list[dict[str, Any]] = [{"id": label.id, "name": label.name} for label in CLASSES]
INSTANCES_PER_CLASS = 1000  # id of an instance: label id · 1000 + its number; of a group: the label id
PLAIN_IDS = {label.id for label in all_labels if label.id >= 0}
NUMBERED_IDS = {label.id for label in all_labels if label.hasInstances}
PUBLISHED = {"train": 2975, "val": 500}  # images of each split (cityscapes-dataset.com)
IMAGE_SIZE = (1024, 2048)  # height and width of all of them


def cityscapes_splits(root: Path, names: Sequence[str] = tuple(PUBLISHED)) -> list[OfficialSplit]:
    """The files of the splits and what is wrong with their folders, for `cast.data.official.read_splits`.

    Args:
        root: folder that holds leftImg8bit/ and gtFine/.
        names: of "train" and "val".

    Returns:
        Images by name, so that `file_name` is `<city>/<city>_<sequence>_<frame>_leftImg8bit.png` below
        `root`/leftImg8bit/`name`. Category ids are Cityscapes' label ids.
    """
    return [_find(root, name) for name in names]


def _find(root: Path, name: str) -> OfficialSplit:
    folder, truth = root / IMAGES / name, root / TRUTH / name
    images = {_frame(path, IMAGE_END): path for path in sorted(folder.glob(f"*/*{IMAGE_END}"))}
    found = {
        _frame(path, end): path for end in (POLYGONS_END, IDS_END) for path in sorted(truth.glob(f"*/*{end}"))
    }
    problems = [
        f"{root / part / name}: is missing; unpack {part}_trainvaltest.zip into {root}"
        for part in (IMAGES, TRUTH)
        if not (root / part / name).is_dir()
    ]
    if not problems:
        problems = _pairing_problems(folder, truth, images, found)
    return OfficialSplit(
        folder=folder,
        truth=truth,
        labels={path: found.get(frame) for frame, path in images.items()},
        published=PUBLISHED[name],
        instances=_instances,
        categories=CATEGORIES,
        description=f"Cityscapes {name}, fine annotations, thing classes",
        problems=problems,
    )


def _pairing_problems(
    folder: Path, truth: Path, images: Mapping[str, Path], found: Mapping[str, Path]
) -> list[str]:
    """Cities that only one of the two folders has, a line each; image by image in the others."""
    cities, annotated = ({path.name for path in part.iterdir() if path.is_dir()} for part in (folder, truth))
    if not images:
        return [f"{folder}: holds no image (<city>/*{IMAGE_END}); unpack it again"]
    lost = [f"{folder / city}: is missing, yet {TRUTH} has that city" for city in sorted(annotated - cities)]
    lost += [f"{truth / city}: is missing, yet {IMAGES} has that city" for city in sorted(cities - annotated)]
    common = cities & annotated
    in_both = [
        {frame: path for frame, path in files.items() if path.parent.name in common}
        for files in (images, found)
    ]
    return lost + pairing_problems(*in_both)


def _frame(path: Path, end: str) -> str:
    """What an image and its labels share: `<city>/<city>_<sequence>_<frame>`."""
    return f"{path.parent.name}/{path.name.removesuffix(end)}"


def truth_file(root: Path, split: str, image: Path) -> Path:
    """The instance ids of an image, or its polygons where there is no such file."""
    stem = root / TRUTH / split / image.parent.name / image.name.removesuffix(IMAGE_END)
    ids, polygons = (stem.with_name(stem.name + end) for end in (IDS_END, POLYGONS_END))
    return polygons if polygons.exists() and not ids.exists() else ids


def _instances(path: Path, size: Size | None) -> list[Instance]:
    ids = instance_ids(path)
    check_label_size(path, ids.shape, size)
    unknown = [
        value
        for value in np.unique(ids).tolist()
        if value not in PLAIN_IDS and value // INSTANCES_PER_CLASS not in NUMBERED_IDS
    ]
    if unknown:
        raise CastError(f"{path}: holds the ids {unknown[:5]}, which Cityscapes has not; unpack it again")
    return list(regions(ids))


def instance_ids(truth: Path) -> NDArray[np.int32]:
    """Instance ids of every pixel, int32 (H, W), from a file of ids or of polygons.

    Raises:
        CastError: the file cannot be read, or holds a label that Cityscapes does not know.
    """
    try:
        if truth.name.endswith(IDS_END):
            with Image.open(truth) as image:
                ids = np.asarray(image).astype(np.int32)
            if ids.ndim != 2:
                raise ValueError("it has colours, not ids")
            return ids
        polygons = Polygons()
        # cityscapesscripts prints its usage and exits where it meets a label that it does not know.
        with contextlib.redirect_stdout(io.StringIO()):
            polygons.fromJsonFile(str(truth))
            return np.asarray(createInstanceImage(polygons, "ids")).astype(np.int32)
    except (*UNREADABLE, KeyError, TypeError, SystemExit) as error:
        reason = "unknown label" if isinstance(error, SystemExit) else error
        raise CastError(f"{truth}: cannot be read ({reason}); unpack it again") from None


def regions(ids: NDArray[np.int32]) -> Iterator[Instance]:
    """Instances and groups of the thing classes: class index, mask and whether it is a crowd region.

    Args:
        ids: int32 (H, W), as made by `instance_ids`.
    """
    columns = np.asfortranarray(ids)  # RLE runs down the columns
    index = {label.id: place for place, label in enumerate(CLASSES)}
    for value in np.unique(ids).tolist():
        is_crowd = value < INSTANCES_PER_CLASS
        label = index.get(value if is_crowd else value // INSTANCES_PER_CLASS)
        if label is not None:
            yield label, run_length.encode(columns == value), is_crowd
