"""Mask AP against values known by hand and against pycocotools' own summary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cast.data.coco import Annotation, CocoData, ImageRecord, decode, new_annotation, write_coco
from cast.errors import CastError
from cast.evaluation.coco import evaluate_masks

SIZE = 64
CATEGORIES = [{"id": 7, "name": "car"}, {"id": 3, "name": "person"}, {"id": 5, "name": "bus"}]


def square(x: int, y: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def dataset(annotations: list[Annotation], images: int = 2, size: int = SIZE) -> CocoData:
    records = [ImageRecord(number, f"{number}.png", size, size) for number in range(images)]
    by_image = {record.id: [a for a in annotations if a.image_id == record.id] for record in records}
    return CocoData(records, CATEGORIES, Path(), by_image)


def crowd(number: int, image_id: int, label: int, mask: np.ndarray) -> Annotation:
    plain = new_annotation(number, image_id, label, mask)
    return Annotation(plain.id, image_id, label, plain.rle, plain.area, plain.box, is_crowd=True)


def scored(annotations: list[Annotation], scores: list[float] | None = None) -> list[Annotation]:
    scores = scores or [0.9] * len(annotations)
    return [
        Annotation(a.id, a.image_id, a.label, a.rle, a.area, a.box, score=score)
        for a, score in zip(annotations, scores, strict=True)
    ]


@pytest.fixture
def truth() -> CocoData:
    # The first annotation has id 0: pycocotools would take a match with it for no match.
    return dataset(
        [
            new_annotation(0, 0, 0, square(2, 2)),
            new_annotation(1, 0, 1, square(30, 30)),
            new_annotation(2, 1, 0, square(10, 40)),
        ]
    )


def test_perfect_predictions_score_100(truth: CocoData) -> None:
    metrics = evaluate_masks(truth, scored(truth.annotations), (100,))
    assert metrics["mask_ap"] == metrics["mask_ap50"] == metrics["mask_ap75"] == pytest.approx(100.0)
    assert (metrics["images"], metrics["instances"], metrics["predictions"]) == (2, 3, 3)


def test_classes_and_sizes_absent_from_the_truth_are_none(truth: CocoData) -> None:
    metrics = evaluate_masks(truth, scored(truth.annotations), (100,))
    assert metrics["per_class"]["bus"] == {
        "mask_ap": None, "mask_ap50": None, "mask_ap75": None, "instances": 0,
    }  # fmt: skip
    assert metrics["mask_ap_small"] == pytest.approx(100.0)
    assert metrics["mask_ap_large"] is None


def test_shifted_predictions_count_up_to_their_overlap(truth: CocoData) -> None:
    # Shift by 1 of 10 pixels: IoU 90/110 = 0.818, right at 7 of COCO's 10 thresholds.
    shifted = [
        new_annotation(9, a.image_id, a.label, np.roll(decode(a.rle), 1, 1), 0.9) for a in truth.annotations
    ]
    metrics = evaluate_masks(truth, shifted, (100,))
    assert metrics["mask_ap"] == pytest.approx(70.0)
    assert metrics["mask_ap75"] == pytest.approx(100.0)


def test_duplicates_lower_precision_only_above_the_originals(truth: CocoData) -> None:
    originals = scored(truth.annotations, [0.9, 0.9, 0.9])
    below = scored(truth.annotations, [0.5, 0.5, 0.5])
    assert evaluate_masks(truth, originals + below, (100,))["mask_ap"] == pytest.approx(100.0)
    # In the other order the second car of the ranking is a duplicate: precision 2/3 beyond half the recall.
    mixed = scored(truth.annotations, [0.9, 0.9, 0.3]) + scored(truth.annotations[:1], [0.8])
    metrics = evaluate_masks(truth, mixed, (100,))
    assert metrics["per_class"]["car"]["mask_ap"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101, abs=0.01)


def test_missing_predictions_cost_recall(truth: CocoData) -> None:
    metrics = evaluate_masks(truth, scored(truth.annotations[:2]), (100,))
    assert metrics["per_class"]["car"]["mask_ap"] == pytest.approx(100 * 51 / 101, abs=0.01)
    assert metrics["per_class"]["person"]["mask_ap"] == pytest.approx(100.0)


def test_class_confusion_is_wrong_even_with_a_perfect_mask(truth: CocoData) -> None:
    wrong = [new_annotation(9, 0, 1, square(2, 2), 0.99)]
    metrics = evaluate_masks(truth, scored(truth.annotations) + wrong, (100,))
    assert metrics["per_class"]["person"]["mask_ap"] == pytest.approx(50.0)
    assert metrics["per_class"]["car"]["mask_ap"] == pytest.approx(100.0)


def test_no_predictions_score_0_and_no_truth_none(truth: CocoData) -> None:
    assert evaluate_masks(truth, [], (100,))["mask_ap"] == 0.0
    empty = dataset([])
    assert evaluate_masks(empty, scored(truth.annotations), (100,))["mask_ap"] is None


def test_hits_on_crowd_regions_are_neither_right_nor_wrong(truth: CocoData) -> None:
    region = square(40, 2, 20)
    hit = new_annotation(9, 0, 0, square(45, 5), 0.99)
    with_crowd = dataset([*truth.annotations, crowd(50, 0, 0, region)])
    predictions = [*scored(truth.annotations), hit]
    assert evaluate_masks(with_crowd, predictions, (100,))["mask_ap"] == pytest.approx(100.0)
    assert evaluate_masks(with_crowd, predictions, (100,))["instances"] == 3
    assert evaluate_masks(truth, predictions, (100,))["mask_ap"] < 95.0


def test_cap_of_500_counts_instances_beyond_the_first_100() -> None:
    places = [(x, y) for x in range(0, 60, 4) for y in range(0, 60, 4)][:150]
    truth = dataset([new_annotation(n, 0, 0, square(x, y, 3)) for n, (x, y) in enumerate(places)], images=1)
    metrics = evaluate_masks(truth, scored(truth.annotations), (500, 100))
    assert metrics["mask_ap"] == pytest.approx(100.0)  # the first cap given fills the top level
    assert metrics["by_max_detections"]["500"]["mask_ap"] == pytest.approx(100.0)
    assert metrics["by_max_detections"]["100"]["mask_ap"] == pytest.approx(100 * 67 / 101, abs=0.01)


def test_caps_without_100_are_measured(truth: CocoData) -> None:
    assert evaluate_masks(truth, scored(truth.annotations), (1, 500))["mask_ap"] == pytest.approx(100.0)


def random_case() -> tuple[CocoData, list[Annotation]]:
    random = np.random.default_rng(0)
    annotations, predictions = [], []
    for image in range(20):
        for _ in range(6):
            x, y, side, label = (*random.integers(0, 40, 2), random.integers(4, 40), random.integers(0, 3))
            annotations.append(new_annotation(len(annotations) + 1, image, int(label), square(x, y, side)))
            shift = random.integers(-3, 4, 2)
            mask = square(max(x + shift[0], 0), max(y + shift[1], 0), side)
            score = float(random.random())
            predictions.append(
                new_annotation(len(predictions), image, int(random.integers(0, 3)), mask, score)
            )
            predictions.append(new_annotation(len(predictions), image, int(label), mask, score))
    return dataset(annotations, images=20), predictions


def as_results(truth: CocoData, predictions: list[Annotation]) -> list[dict]:
    return [
        {
            "image_id": a.image_id,
            "category_id": truth.category_ids[a.label],
            "segmentation": a.rle,
            "score": a.score,
        }
        for a in predictions
    ]


def test_equals_the_summary_of_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, predictions = random_case()
    metrics = evaluate_masks(truth, predictions, (1, 10, 100))["by_max_detections"]["100"]
    assert capsys.readouterr().out == ""
    write_coco(tmp_path / "truth.json", truth.images, truth.annotations, truth.categories, tmp_path)
    index = COCO(tmp_path / "truth.json")
    reference = COCOeval(index, index.loadRes(as_results(truth, predictions)), "segm")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    keys = ("mask_ap", "mask_ap50", "mask_ap75", "mask_ap_small", "mask_ap_medium")
    assert [metrics[key] / 100 for key in keys] == pytest.approx(reference.stats[:5].tolist())
    assert 0.05 < reference.stats[0] < 0.95
    named = metrics["per_class"]  # category ids 7, 3, 5: COCOeval's order is not that of the classes
    assert np.mean([named[name]["mask_ap"] for name in named]) == pytest.approx(metrics["mask_ap"])


def test_results_file_entries_equal_annotations() -> None:
    truth, predictions = random_case()
    assert evaluate_masks(truth, as_results(truth, predictions), (100,)) == evaluate_masks(
        truth, predictions, (100,)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "image 99"),
        ({"category_id": 99}, "category 99"),
        ({"score": None}, "no score"),
        ({"segmentation": new_annotation(1, 0, 0, np.ones((32, 32), bool)).rle}, "size"),
    ],
)
def test_predictions_that_pycocotools_would_drop_silently_are_errors(
    truth: CocoData, change: dict, message: str
) -> None:
    entry = {"image_id": 0, "category_id": 7, "segmentation": truth.annotations[0].rle, "score": 0.5}
    with pytest.raises(CastError, match=message):
        evaluate_masks(truth, [entry | change], (100,))


def test_annotations_of_another_size_are_errors(truth: CocoData) -> None:
    with pytest.raises(CastError, match="size"):
        evaluate_masks(truth, [new_annotation(1, 0, 0, np.ones((32, 32), bool), 0.5)], (100,))
