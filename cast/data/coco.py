"""COCO instance files: the one format of annotations, splits, pseudo-labels and predictions.

Category and image ids survive from the user's file to the last prediction; class indices 0 … C-1 exist
only in memory, in the order of the file's categories.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

from cast.data import rle as run_length
from cast.data.images import check_size, load_image, read_image
from cast.data.rle import Rle, decode, encode
from cast.errors import CastError

__all__ = [
    "Annotation",
    "CocoData",
    "ImageRecord",
    "check_images",
    "decode",
    "encode",
    "load_image",
    "new_annotation",
    "read_coco",
    "read_image",
    "write_coco",
]

NAMED_PROBLEMS = 5  # missing files listed in one message


@dataclass(frozen=True)
class ImageRecord:
    """One image: `file_name` is relative to the image root, sizes in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class Annotation:
    """One instance.

    Attributes:
        id: COCO id, unique in the file.
        image_id: COCO id of its image.
        label: class index 0 … C-1 (not the category id).
        rle: compressed RLE of the image's size.
        area: pixels (the file's own figure where it gives one: COCO's size ranges use it).
        box: tight box x, y, width, height in pixels.
        is_crowd: a region of many objects, which is no instance.
        score: confidence 0 … 1 of predictions and pseudo-labels.
    """

    id: int
    image_id: int
    label: int
    rle: Rle
    area: float
    box: tuple[float, float, float, float]
    is_crowd: bool = False
    score: float | None = None


@dataclass(frozen=True)
class CocoData:
    """A parsed COCO file."""

    images: list[ImageRecord]
    categories: list[dict[str, Any]]
    image_root: Path
    by_image: Mapping[int, list[Annotation]]
    info: dict[str, Any] = field(default_factory=dict)
    path: Path = Path("annotations")

    @property
    def class_names(self) -> list[str]:
        """Names by class index."""
        return [str(category["name"]) for category in self.categories]

    @property
    def category_ids(self) -> list[int]:
        """Original category ids by class index."""
        return [int(category["id"]) for category in self.categories]

    @property
    def annotations(self) -> list[Annotation]:
        """All annotations, image by image."""
        return [annotation for image in self.images for annotation in self.annotations_of(image.id)]

    def annotations_of(self, image_id: int) -> list[Annotation]:
        """The annotations of one image, crowds included; an empty list where it has none."""
        return self.by_image.get(image_id, [])

    def subset(self, image_ids: Iterable[int]) -> CocoData:
        """The same file restricted to some images, in this file's order."""
        wanted = set(image_ids)
        return CocoData(
            [image for image in self.images if image.id in wanted],
            self.categories,
            self.image_root,
            {key: found for key, found in self.by_image.items() if key in wanted},
            self.info,
            self.path,
        )


def new_annotation(
    annotation_id: int, image_id: int, label: int, mask: Any, score: float | None = None
) -> Annotation:
    """An annotation from a bool (H, W) mask, with its area and box."""
    rle = encode(mask)
    return Annotation(
        annotation_id, image_id, label, rle, float(run_length.area(rle)), run_length.box(rle), score=score
    )


# --- reading ------------------------------------------------------------------------------------------------


def read_coco(path: str | Path, image_root: str | Path | None = None) -> CocoData:
    """Read and check a COCO instance file.

    Args:
        path: the JSON file.
        image_root: folder of the images; when unset, the file's info.image_root (relative to the file's
            folder unless absolute), or else the file's folder.

    Raises:
        CastError: says which entry is wrong. Image files are not looked at: see `check_images`.
    """
    path = Path(path)
    content = _read_json(path)
    images = [_image(path, entry) for entry in content["images"]]
    categories = [_category(path, entry) for entry in content["categories"]]
    if not categories:
        _fail(path, "lists no categories; at least one is needed")
    _check_unique(path, "images", [image.id for image in images])
    _check_unique(path, "categories", [category["id"] for category in categories])
    records = {image.id: image for image in images}
    labels = {category["id"]: label for label, category in enumerate(categories)}
    by_image: dict[int, list[Annotation]] = {}
    seen = []
    for entry in content["annotations"]:
        annotation = _annotation(path, entry, records, labels)
        by_image.setdefault(annotation.image_id, []).append(annotation)
        seen.append(annotation.id)
    _check_unique(path, "annotations", seen)
    info = content.get("info")
    info = info if isinstance(info, dict) else {}
    root = path.parent / str(info.get("image_root", "")) if image_root is None else Path(image_root)
    return CocoData(images, categories, root, by_image, info, path)


def check_images(data: CocoData) -> None:
    """Make sure that every image file is there and has its record's size (headers only).

    Raises:
        CastError: names the first missing files, or the first image of another size.
    """
    if not data.image_root.is_dir():
        raise CastError(f"{data.image_root}: image folder is missing; check the image folder of {data.path}")
    names = [image.file_name for image in data.images if not (data.image_root / image.file_name).is_file()]
    if names:
        more = ", …" if len(names) > NAMED_PROBLEMS else ""
        _fail(
            data.path,
            f"{len(names)} of {len(data.images)} images are missing in {data.image_root} "
            f"({', '.join(names[:NAMED_PROBLEMS])}{more}); check the image folder",
        )
    for image in data.images:
        check_size(data.image_root, image)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        _fail(path, f"cannot be read ({error.strerror}); check the path")
    except (ValueError, RecursionError) as error:
        _fail(path, f"not valid JSON ({error}); export it again as COCO JSON")
    if not isinstance(content, dict):
        _fail(path, "not a COCO dataset: must be an object with images, annotations and categories")
    missing = [
        key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)
    ]
    if missing:
        _fail(path, f"not a COCO dataset: no list under {', '.join(missing)}; export instances as COCO JSON")
    return content


def _image(path: Path, entry: Any) -> ImageRecord:
    image_id = _id(path, entry, "id", "an image")
    what = f"image {image_id}"
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        _fail(path, f"{what} has no file_name; add it")
    windows = PureWindowsPath(name)  # splits at both kinds of slashes
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        _fail(path, f"{what}: file_name '{name}' leaves the image folder; make it relative to that folder")
    width, height = entry.get("width"), entry.get("height")
    for value in (width, height):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            _fail(path, f"{what} ({name}): width and height must be whole numbers of pixels above 0")
    return ImageRecord(image_id, name, width, height)


def _category(path: Path, entry: Any) -> dict[str, Any]:
    category_id = _id(path, entry, "id", "a category")
    if not isinstance(entry.get("name"), str) or not entry["name"].strip():
        _fail(path, f"category {category_id} has no name; add it")
    return dict(entry)


def _annotation(
    path: Path, entry: Any, records: Mapping[int, ImageRecord], labels: Mapping[int, int]
) -> Annotation:
    annotation_id = _id(path, entry, "id", "an annotation")
    what = f"annotation {annotation_id}"
    image_id = _id(path, entry, "image_id", what)
    category_id = _id(path, entry, "category_id", what)
    if image_id not in records:
        _fail(
            path, f"{what} belongs to image {image_id}, which is not in the file; remove it or add the image"
        )
    if category_id not in labels:
        _fail(path, f"{what} has category {category_id}, which is not in the file; add the category")
    image = records[image_id]
    what = f"{what} (image {image_id}, {image.file_name})"
    try:
        rle = run_length.from_segmentation(entry.get("segmentation"), image.height, image.width)
    except ValueError as error:
        _fail(path, f"{what}: {error}; correct or remove it")
    pixels = run_length.area(rle)
    if pixels == 0:
        _fail(path, f"{what} covers no pixel; remove it")
    area = _number(path, entry, "area", what)
    return Annotation(
        annotation_id,
        image_id,
        labels[category_id],
        rle,
        area if area is not None and area > 0 else float(pixels),
        run_length.box(rle),
        bool(entry.get("iscrowd", 0)),
        _number(path, entry, "score", what),
    )


def _id(path: Path, entry: Any, key: str, what: str) -> int:
    if not isinstance(entry, dict):
        _fail(path, f"{what} is not an object; export it again as COCO JSON")
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        _fail(path, f"{what} has {key} {value!r}; ids must be whole numbers")
    return value


def _number(path: Path, entry: Mapping[str, Any], key: str, what: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _fail(path, f"{what}: {key} is {value!r}, not a finite number; correct it")
    return float(value)


def _check_unique(path: Path, what: str, ids: Sequence[int]) -> None:
    seen: set[int] = set()
    for value in ids:
        if value in seen:
            _fail(path, f"two {what} have the id {value}; ids must be unique")
        seen.add(value)


def _fail(path: Path, problem: str) -> NoReturn:
    raise CastError(f"{path}: {problem}")


# --- writing ------------------------------------------------------------------------------------------------


def write_coco(
    path: str | Path,
    images: Iterable[ImageRecord],
    annotations: Iterable[Annotation],
    categories: Sequence[Mapping[str, Any]],
    image_root: str | Path,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a COCO instance file; it appears whole or not at all.

    Args:
        path: the JSON file; its folder must exist.
        images: the records.
        annotations: their instances.
        categories: as in `CocoData.categories`, by class index; each has at least id and name.
        image_root: folder of the images. Inside the file's folder it is stored relative to it, so that
            the folder can be moved; elsewhere it is stored absolute.
        info: further entries of the file's `info`.
    """
    path = Path(path)
    folder, root = path.parent.resolve(), Path(image_root).resolve()
    stored = root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root)
    content = {
        "info": {**(info or {}), "image_root": stored},
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in images
        ],
        "annotations": [_entry(annotation, categories) for annotation in annotations],
        "categories": [dict(category) for category in categories],
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _entry(annotation: Annotation, categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    entry = {
        "id": int(annotation.id),
        "image_id": int(annotation.image_id),
        "category_id": int(categories[annotation.label]["id"]),
        "segmentation": {
            "size": [int(side) for side in annotation.rle["size"]],
            "counts": annotation.rle["counts"],
        },
        "area": float(annotation.area),
        "bbox": [float(value) for value in annotation.box],
        "iscrowd": int(annotation.is_crowd),
    }
    if annotation.score is not None:
        entry["score"] = float(annotation.score)
    return entry
