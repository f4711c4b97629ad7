"""Greedy non-maximum suppression on masks, compared within their boxes only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cast.data.batch import Instances, mask_boxes, not_empty


def mask_nms(instances: Instances, iou: float) -> Instances:
    """Drop instances that overlap a better one of their class by more than `iou` (mask IoU).

    Args:
        instances: in any order; empty masks are dropped.
        iou: in 0 … 1; 1 keeps all.

    Returns:
        The instances kept, best first, on the device they came on.
    """
    masks = instances.masks.cpu()
    filled = not_empty(masks)
    boxes = np.array(
        [mask_boxes(masks[index : index + 1])[0].tolist() for index in filled], dtype=np.int64
    ).reshape(-1, 4)
    crops = [
        masks[index, y0:y1, x0:x1].numpy() for index, (x0, y0, x1, y1) in zip(filled, boxes, strict=True)
    ]
    labels = instances.labels.cpu().numpy()[filled]
    scores = instances.scores.detach().float().cpu().numpy()[filled]
    kept = np.array(filled, dtype=np.int64)[suppress(crops, boxes, labels, scores, iou)]
    return instances[torch.from_numpy(kept).to(instances.labels.device)]


def suppress(
    crops: Sequence[NDArray[np.bool_]],
    boxes: NDArray[np.int64],
    labels: NDArray[np.int64],
    scores: NDArray[np.floating],
    iou: float,
) -> NDArray[np.int64]:
    """Greedy suppression on masks held within their boxes (N, 4); indices kept, best first."""
    areas = np.array([np.count_nonzero(crop) for crop in crops], dtype=np.int64)
    waiting = np.argsort(-scores, kind="stable")
    kept = []
    while len(waiting):
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        # No intersection exceeds the boxes' or either mask: only the pairs that this leaves are compared.
        shared = _box_intersection(boxes[best], boxes[waiting])
        shared = np.minimum(shared, np.minimum(areas[waiting], areas[best]))
        near = (labels[waiting] == labels[best]) & (shared > iou * (areas[waiting] + areas[best] - shared))
        drop = np.zeros(len(waiting), dtype=bool)
        for place in np.flatnonzero(near):
            other = waiting[place]
            overlap = _mask_intersection(crops[best], boxes[best], crops[other], boxes[other])
            drop[place] = overlap > iou * (areas[best] + areas[other] - overlap)
        waiting = waiting[~drop]
    return np.array(kept, dtype=np.int64)


def _box_intersection(box: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    areas: NDArray[np.int64] = sides.clip(0).prod(1)
    return areas


def _mask_intersection(
    mask: NDArray[np.bool_], box: NDArray[np.int64], other: NDArray[np.bool_], other_box: NDArray[np.int64]
) -> int:
    """Pixels that two masks share, both held within their boxes."""
    x0, y0 = np.maximum(box[:2], other_box[:2])
    x1, y1 = np.minimum(box[2:], other_box[2:])
    ours = mask[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]]
    theirs = other[y0 - other_box[1] : y1 - other_box[1], x0 - other_box[0] : x1 - other_box[0]]
    return int(np.count_nonzero(ours & theirs))
