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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation as Polygons
from cityscapesscripts.helpers.labels import labels as all_labels
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cast.data import rle as run_length
from cast.data.coco import CocoData
from cast.data.official import Instance, check_label_size, read_images, refuse
from cast.errors import CastError

IMAGES, TRUTH = "leftImg8bit", "gtFine"
IMAGE_END, IDS_END, POLYGONS_END = "_leftImg8bit.png", "_gtFine_instanceIds.png", "_gtFine_polygons.json"
# Person, rider, car, truck, bus, train, motorcycle, bicycle: label ids 24 … 33 without caravan and trailer.
CLASSES = [label for label in all_labels if label.hasInstances and not label.ignoreInEval]
CATEGORIES: list[dict[str, Any]] = [{"id": label.id, "name": label.name} for label in CLASSES]
INSTANCES_PER_CLASS = 1000  # id of an instance: label id · 1000 + its number; of a group: the label id


def read_cityscapes(root: Path, split: str) -> CocoData:
    """All images of a split with their instances.

    Args:
        root: folder that holds leftImg8bit/ and gtFine/.
        split: "train" or "val".

    Returns:
        Images by name; `file_name` is `<city>/<city>_<sequence>_<frame>_leftImg8bit.png` below
        `root`/leftImg8bit/`split`. Category ids are Cityscapes' label ids.

    Raises:
        CastError: names the files that are missing, unreadable or of the wrong size (up to ten).
    """
    folder = root / IMAGES / split
    refuse(tree_problems(root, split))

    def instances(path: Path, size: tuple[int, int]) -> Iterator[Instance]:
        truth = truth_file(root, split, path)
        ids = instance_ids(truth)
        check_label_size(truth, ids.shape, size)
        return regions(ids)

    images, by_image = read_images(image_files(root, split), folder, instances)
    info = {"description": f"Cityscapes {split}, fine annotations, thing classes"}
    return CocoData(images, CATEGORIES, folder, by_image, info, root / TRUTH / split)


def tree_problems(root: Path, split: str) -> list[str]:
    """What is wrong with the folders of a split, one line for each file; images are not opened."""
    for part in (IMAGES, TRUTH):
        if not (root / part / split).is_dir():
            return [f"{root / part / split}: is missing; unpack {part}_trainvaltest.zip into {root}"]
    paths = image_files(root, split)
    if not paths:
        return [f"{root / IMAGES / split}: holds no image (<city>/*{IMAGE_END}); unpack it again"]
    cities = {path.parent.name for path in paths}
    annotated = {path.name for path in (root / TRUTH / split).iterdir() if path.is_dir()}
    lost = [
        f"{root / IMAGES / split / city}: is missing, yet {TRUTH} has that city"
        for city in sorted(annotated - cities)
    ]
    return lost + [
        f"{truth_file(root, split, path)}: is missing, its polygons too; unpack {TRUTH}_trainvaltest.zip"
        for path in paths
        if not truth_file(root, split, path).exists()
    ]


def image_files(root: Path, split: str) -> list[Path]:
    """The images of a split by name."""
    return sorted((root / IMAGES / split).glob(f"*/*{IMAGE_END}"))


def truth_file(root: Path, split: str, image: Path) -> Path:
    """The instance ids of an image, or its polygons where there is no such file."""
    stem = root / TRUTH / split / image.parent.name / image.name.removesuffix(IMAGE_END)
    ids, polygons = (stem.with_name(stem.name + end) for end in (IDS_END, POLYGONS_END))
    return polygons if polygons.exists() and not ids.exists() else ids


def instance_ids(truth: Path) -> NDArray[np.int32]:
    """Instance ids of every pixel, int32 (H, W), from a file of ids or of polygons.

    Raises:
        CastError: the file cannot be read, or holds a label that Cityscapes does not know.
    """
    try:
        if truth.name.endswith(IDS_END):
            with Image.open(truth) as image:
                return np.asarray(image).astype(np.int32)
        polygons = Polygons()
        # cityscapesscripts prints its usage and exits where it meets a label that it does not know.
        with contextlib.redirect_stdout(io.StringIO()):
            polygons.fromJsonFile(str(truth))
            return np.asarray(createInstanceImage(polygons, "ids")).astype(np.int32)
    except (OSError, UnidentifiedImageError, ValueError, KeyError, TypeError, SystemExit) as error:
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
