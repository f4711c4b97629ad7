"""Which instances touch, on drawn squares, and the recall of both kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cast.data.coco import Annotation, CocoData, ImageRecord, new_annotation
from cast.evaluation.coco import evaluate_masks
from cast.evaluation.touching import touching

SIZE = 40


def square(number: int, x: int, y: int, image_id: int = 1, is_crowd: bool = False) -> Annotation:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + 10, x : x + 10] = True
    return replace(new_annotation(number, image_id, number % 2, mask), is_crowd=is_crowd)


def dataset(*annotations: Annotation) -> CocoData:
    records = [ImageRecord(image_id, f"{image_id}.png", SIZE, SIZE) for image_id in (1, 2)]
    by_image = {record.id: [a for a in annotations if a.image_id == record.id] for record in records}
    return CocoData(records, [{"id": 5, "name": "a"}, {"id": 3, "name": "b"}], Path(), by_image)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (10, 0, True),  # edge to edge
        (11, 0, True),  # a line of background between
        (12, 0, False),
        (11, 11, True),  # corner to corner
        (12, 11, False),
        (5, 5, True),  # overlapping
        (0, 0, True),  # one hides the other
        (0, 11, True),
        (0, 12, False),
    ],
)
def test_squares_touch_up_to_one_pixel_apart(x, y, expected):
    for first, second in [((0, 0), (x, y)), ((x, y), (0, 0)), ((20, 0), (20 - x, y))]:
        found = touching(dataset(square(1, *first), square(2, *second), square(3, 30, 30)))
        assert found == [expected, expected, False]


def test_crowd_regions_and_other_images_do_not_touch():
    data = dataset(square(1, 0, 0), square(2, 10, 0, is_crowd=True), square(3, 10, 0, image_id=2))
    assert touching(data) == [False, False, False]


def test_recall_of_touching_and_of_lone_instances():
    data = dataset(square(1, 0, 0), square(2, 10, 0), square(3, 0, 25), square(4, 0, 0, image_id=2))
    predictions = [replace(item, score=0.9) for item in data.annotations if item.id != 2]
    metrics = evaluate_masks(data, predictions, (100,))
    assert metrics["recall50_touching"] == 50.0
    assert metrics["recall50_apart"] == 100.0
    alone = evaluate_masks(dataset(square(1, 0, 0)), [], (100,))
    assert (alone["recall50_touching"], alone["recall50_apart"]) == (None, 0.0)
