"""Instances that touch another one: where segmenters merge or lose them, and where margins should pay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cast.data.coco import Annotation, CocoData
from cast.data.rle import decode

GAP = 1  # background pixels that annotators leave between instances that touch


def touching(truth: CocoData) -> list[bool]:
    """For each annotation of `truth`, in its order: does it touch another instance of its image?

    Two instances touch when at most `GAP` pixels lie between them, in any of the eight directions. Crowd
    regions neither touch nor are touched.
    """
    found: list[bool] = []
    for image in truth.images:
        items = truth.annotations_of(image.id)
        instances = [place for place, item in enumerate(items) if not item.is_crowd]
        touched = {instances[i] for i in _touching([items[place] for place in instances])}
        found += [place in touched for place in range(len(items))]
    return found


def _touching(instances: Sequence[Annotation]) -> set[int]:
    """Indices of those that overlap another one or have a pixel of one within GAP + 1 pixels."""
    if not instances:
        return set()
    height, width = instances[0].rle["size"]
    owner = np.full((height, width), -1, dtype=np.int64)
    found: set[int] = set()
    for index, instance in enumerate(instances):
        mask = decode(instance.rle)
        overlapped = set(owner[mask].tolist()) - {-1}
        found |= {index, *overlapped} if overlapped else set()
        owner[mask] = index
    reach = GAP + 1
    for down in range(reach + 1):
        for right in range(-reach, reach + 1):
            here = owner[: height - down, max(0, -right) : width - max(0, right)]
            there = owner[down:, max(0, right) : width - max(0, -right)]
            meet = (here != there) & (here >= 0) & (there >= 0)
            found |= set(here[meet].tolist()) | set(there[meet].tolist())
    return found
