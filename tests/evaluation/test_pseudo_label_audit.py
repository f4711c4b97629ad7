"""The audit of pseudo-labels on scenes whose answer is known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cast.data.coco import Annotation, CocoData, ImageRecord, new_annotation
from cast.evaluation.pseudo_label_audit import audit, audit_table

SIZE = 64
CATEGORIES = [{"id": 9, "name": "car"}, {"id": 4, "name": "person"}]


def square(x: int, y: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def dataset(annotations: list[Annotation], images: int = 4) -> CocoData:
    records = [ImageRecord(number, f"{number}.png", SIZE, SIZE) for number in range(1, images + 1)]
    by_image = {record.id: [a for a in annotations if a.image_id == record.id] for record in records}
    return CocoData(records, CATEGORIES, Path(), by_image)


@pytest.fixture
def truth() -> CocoData:
    return dataset(
        [
            new_annotation(1, 1, 0, square(0, 0)),
            new_annotation(2, 1, 0, square(30, 0)),
            new_annotation(3, 2, 1, square(0, 30)),
            new_annotation(4, 3, 1, square(30, 30)),
        ]
    )


@pytest.fixture
def pseudo() -> list[Annotation]:
    return [
        new_annotation(1, 1, 0, square(1, 0), 0.9),  # right, IoU 90/110
        new_annotation(2, 1, 0, square(0, 0), 0.6),  # a duplicate: the better score has claimed the car
        new_annotation(3, 2, 0, square(0, 30), 0.8),  # a person taken for a car
        new_annotation(4, 3, 1, square(30, 30), 0.7),  # right, IoU 1
    ]


def test_counts_by_hand(truth: CocoData, pseudo: list[Annotation]) -> None:
    result = audit(pseudo, truth)
    assert result["precision"] == pytest.approx(2 / 4)
    assert result["recall"] == pytest.approx(2 / 4)
    assert result["mean_iou"] == pytest.approx((90 / 110 + 1) / 2)
    assert (result["images"], result["images_without"]) == (4, 1)
    assert result["pseudo_labels_per_image"] == result["instances_per_image"] == pytest.approx(1.0)
    car, person = result["per_class"]["car"], result["per_class"]["person"]
    assert (car["precision"], car["recall"]) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert (person["precision"], person["recall"]) == (pytest.approx(1.0), pytest.approx(1 / 2))


def test_curve_follows_the_threshold(truth: CocoData, pseudo: list[Annotation]) -> None:
    curve = {point["threshold"]: point for point in audit(pseudo, truth)["curve"]}
    assert sorted(curve) == [0.6, 0.7, 0.8, 0.9]
    assert [curve[t]["precision"] for t in (0.6, 0.7, 0.8, 0.9)] == pytest.approx([1 / 2, 2 / 3, 1 / 2, 1])
    assert [curve[t]["recall"] for t in (0.6, 0.7, 0.8, 0.9)] == pytest.approx([1 / 2, 1 / 2, 1 / 4, 1 / 4])
    assert [curve[t]["images_without"] for t in (0.6, 0.7, 0.8, 0.9)] == [1, 1, 2, 3]


def test_curve_of_candidates_reaches_below_the_selection(truth: CocoData, pseudo: list[Annotation]) -> None:
    selected = [item for item in pseudo if item.score > 0.75]
    result = audit(selected, truth, pseudo)
    assert result["pseudo_labels"] == 2
    assert min(point["threshold"] for point in result["curve"]) == 0.6


def test_mask_iou_is_read_for_the_partner_whatever_the_order() -> None:
    # A crowd first in the file: pycocotools moves it behind the instances when matching.
    region = new_annotation(1, 1, 0, square(40, 40, 20))
    crowd = Annotation(1, 1, 0, region.rle, region.area, region.box, is_crowd=True)
    truth = dataset([crowd, new_annotation(2, 1, 0, square(0, 0)), new_annotation(3, 1, 0, square(20, 0))])
    pseudo = [
        new_annotation(1, 1, 0, square(42, 42), 0.3),
        new_annotation(2, 1, 0, square(0, 2), 0.5),
        new_annotation(3, 1, 0, square(20, 1), 0.9),
    ]
    result = audit(pseudo, truth)
    assert result["mean_iou"] == pytest.approx((80 / 120 + 90 / 110) / 2)
    assert result["precision"] == pytest.approx(1.0)  # the one on the crowd is not judged
    assert result["recall"] == pytest.approx(1.0)
    assert result["pseudo_labels"] == 3


def test_nothing_to_measure_is_none(truth: CocoData) -> None:
    result = audit([], truth)
    assert result["precision"] is None
    assert result["recall"] == 0.0
    assert result["images_without"] == 4
    assert result["curve"] == []
    assert audit([], dataset([]))["recall"] is None


def test_table_and_json(truth: CocoData, pseudo: list[Annotation]) -> None:
    result = audit(pseudo, truth)
    json.dumps(result, allow_nan=False)
    table = audit_table(result)
    assert table["class"].tolist() == ["all", "car", "person"]
    assert table["pseudo_labels"].tolist() == [4, 3, 1]
    assert table["recall"].tolist() == pytest.approx([0.5, 0.5, 0.5])
