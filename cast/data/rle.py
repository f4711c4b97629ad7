"""Run-length encoded masks, the one form in which masks lie on disk.

pycocotools trusts its input: runs that do not fill the image decode to uninitialised memory and a
polygon with a NaN vertex allocates without end. Everything from outside is therefore checked here first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Rle = dict[str, Any]  # {"size": [H, W], "counts": str}


def encode(mask: NDArray[Any]) -> Rle:
    """Compress a mask.

    Args:
        mask: bool (H, W).

    Returns:
        COCO's compressed RLE with its counts as text, ready for JSON.
    """
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rle: Rle) -> NDArray[np.bool_]:
    """The mask of a compressed RLE, bool (H, W)."""
    mask: NDArray[np.bool_] = coco_mask.decode(rle).astype(bool)
    return mask


def area(rle: Rle) -> int:
    """Pixels of a compressed RLE."""
    return int(coco_mask.area(rle))


def box(rle: Rle) -> tuple[float, float, float, float]:
    """Tight box (x, y, width, height) of a compressed RLE, in pixels."""
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return x, y, width, height


def overlaps(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """IoU (N, M) of N and M compressed RLEs of one size."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(list(first), list(second), [0] * len(second)), dtype=np.float64)


def from_segmentation(segmentation: Any, height: int, width: int) -> Rle:
    """Compressed RLE of any of COCO's forms: polygons, uncompressed RLE, compressed RLE.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, …] in pixels, or {"size": [H, W], "counts": …}.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: says what is wrong with the segmentation.
    """
    if isinstance(segmentation, list):
        polygons = [_polygon(polygon, height, width) for polygon in segmentation]
        if not polygons:
            raise ValueError("its segmentation is an empty list")
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        size, counts = segmentation["size"], segmentation["counts"]
        if not isinstance(size, list | tuple) or list(size) != [height, width]:
            raise ValueError(f"its RLE has size {size} but the image is [{height}, {width}] (height, width)")
        if isinstance(counts, str):
            _check_runs(_runs_of_text(counts), height, width)
            return {"size": [height, width], "counts": counts}
        runs = _numbers(counts, "its RLE counts")
        _check_runs(runs, height, width)
        plain = {"size": [height, width], "counts": [int(run) for run in runs]}
        rle = coco_mask.frPyObjects(plain, height, width)
    else:
        raise ValueError("its segmentation is neither a list of polygons nor an RLE with size and counts")
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _polygon(polygon: Any, height: int, width: int) -> list[float]:
    points = _numbers(polygon, "a polygon")
    if len(points) < 6 or len(points) % 2:
        raise ValueError(f"a polygon has {len(points)} numbers; at least three x, y pairs are needed")
    x, y = points[0::2], points[1::2]
    # Far-away vertices cost pycocotools memory in proportion to the distance.
    if min(x) < -width or max(x) > 2 * width or min(y) < -height or max(y) > 2 * height:
        raise ValueError(f"a polygon lies far outside the image of {width} × {height} pixels")
    return [float(value) for value in points]


def _numbers(values: Any, what: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} holds something other than numbers") from None
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{what} is not a flat list of finite numbers")
    return numbers


def _check_runs(runs: NDArray[Any], height: int, width: int) -> None:
    if (runs < 0).any() or (runs != np.floor(runs)).any() or runs.sum() != height * width:
        raise ValueError(f"its RLE counts are damaged: they do not fill {height} × {width} pixels")


def _runs_of_text(text: str) -> NDArray[np.int64]:
    """Run lengths of COCO's compressed counts (cocoapi, maskApi.c, rleFrString)."""
    characters = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64) - 48
    last = (characters & 0x20) == 0  # bit 6 says that the number goes on
    if not len(characters) or characters.min() < 0 or characters.max() > 0x3F or not last[-1]:
        raise ValueError("its RLE counts are damaged: not COCO's compressed text")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits: more than any image
        raise ValueError("its RLE counts are damaged: a run is longer than any image")
    position = np.arange(len(characters)) - np.repeat(starts, lengths)
    values = np.add.reduceat((characters & 0x1F) << (5 * position), starts)
    negative = (characters[ends] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * lengths), 0)
    # From the fourth run on, each is stored as the difference to the one before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
