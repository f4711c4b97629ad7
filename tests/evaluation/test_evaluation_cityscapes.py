"""Cityscapes' own AP on predictions whose AP is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official  # noqa: N813
from PIL import Image

from cast.data.cityscapes import cityscapes_splits
from cast.data.coco import CocoData, decode, new_annotation
from cast.data.official import read_splits
from cast.evaluation.cityscapes import evaluate_cityscapes, write_predictions
from cast.stages import evaluate, prepare

HEIGHT, WIDTH = 80, 160
CARS = [(5, 5), (40, 5), (75, 5)]  # corners of squares of SIDE pixels
SIDE = 20


def square(x: int, y: int) -> list[list[int]]:
    return [[x, y], [x + SIDE - 1, y], [x + SIDE - 1, y + SIDE - 1], [x, y + SIDE - 1]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images of three cars, a group of cars, and a person in the second; polygons only."""
    for part in ("leftImg8bit", "gtFine"):
        (tmp_path / part / "val" / "ulm").mkdir(parents=True)
    for frame in (1, 2):
        stem = f"ulm_{frame:06d}_000019"
        objects = [{"label": "car", "polygon": square(*corner)} for corner in CARS]
        objects.append({"label": "cargroup", "polygon": square(110, 40)})
        if frame == 2:
            objects.append({"label": "person", "polygon": square(10, 50)})
        content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
        (tmp_path / f"gtFine/val/ulm/{stem}_gtFine_polygons.json").write_text(json.dumps(content))
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"leftImg8bit/val/ulm/{stem}_leftImg8bit.png")
    return tmp_path


@pytest.fixture
def truth(root: Path) -> CocoData:
    (data,) = read_splits(cityscapes_splits(root, ["val"]))
    return data


def perfect(truth: CocoData, score: float = 0.9):
    return [replace(item, score=score) for item in truth.annotations if not item.is_crowd]


def shifted(item, pixels: int):
    mask = np.roll(decode(item.rle), pixels, axis=1)
    return new_annotation(item.id, item.image_id, item.label, mask, item.score)


def test_perfect_predictions_score_100(root, truth):
    metrics = evaluate_cityscapes(truth, root, "val", perfect(truth))
    assert metrics["mask_ap"] == metrics["mask_ap50"] == pytest.approx(100.0)
    assert metrics["per_class"]["person"]["mask_ap"] == pytest.approx(100.0)
    assert metrics["per_class"]["truck"]["mask_ap"] is None


def test_the_stage_reports_the_benchmarks_figures(root, tmp_path, monkeypatch):
    """A stage whose model sees all but groups and, of each car, 16 of 20 columns."""
    (root / "leftImg8bit" / "train").symlink_to(root / "leftImg8bit" / "val")
    (root / "gtFine" / "train").symlink_to(root / "gtFine" / "val")
    prepare.run({"format": "cityscapes"}, root, tmp_path / "data")
    monkeypatch.setattr(evaluate, "load_model", lambda *_: None)
    monkeypatch.setattr(
        evaluate, "predict", lambda _, truth, *__: [shifted(item, 4) for item in perfect(truth)]
    )
    settings = {"role": "student", "inference": {}, "max_detections": [100], "reading": {}}
    data = tmp_path / "data" / "validation.json"
    evaluate.run({**settings, "benchmark": "cityscapes"}, tmp_path, data, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["mask_ap"] == pytest.approx(40.0)
    assert metrics["per_class"]["truck"]["mask_ap"] is None
    assert metrics["coco"]["100"]["mask_ap"] == pytest.approx(40.0)
    assert metrics["recall50_apart"] == 100.0


def test_no_predictions_score_0(root, truth):
    assert evaluate_cityscapes(truth, root, "val", [])["mask_ap"] == 0.0


def test_shifted_predictions_count_up_to_their_overlap(root, truth):
    moved = [shifted(item, 4) for item in perfect(truth)]
    metrics = evaluate_cityscapes(truth, root, "val", moved)
    # 16 of 20 columns in common: IoU 16 / 24 = 0.667, above 0.50, 0.55, 0.60 and 0.65 of ten thresholds.
    assert metrics["mask_ap50"] == pytest.approx(100.0)
    assert metrics["mask_ap"] == pytest.approx(40.0)


def test_missing_predictions_cost_recall(root, truth):
    cars = [item for item in perfect(truth) if truth.class_names[item.label] == "car"]
    assert evaluate_cityscapes(truth, root, "val", cars[:3])["per_class"]["car"]["mask_ap"] == pytest.approx(
        50.0
    )


def test_duplicates_are_false_positives(root, truth):
    cars = [item for item in perfect(truth, 0.5) if truth.class_names[item.label] == "car"]
    sure = [replace(cars[0], score=0.95), replace(cars[0], score=0.94)]
    found = evaluate_cityscapes(truth, root, "val", [*cars[1:], *sure])["per_class"]["car"]["mask_ap"]
    # Precision 6/7, 1/2 and 1 at recalls 1, 1/6 and 1/6, weighted by half the recall between the neighbours.
    assert found == pytest.approx(100 * (6 / 7 * 5 / 12 + 1 / 2 * 5 / 12 + 1 / 6))
    after = evaluate_cityscapes(truth, root, "val", [*cars, replace(cars[0], score=0.1)])
    assert after["per_class"]["car"]["mask_ap"] == pytest.approx(100.0)


def test_hits_on_groups_are_neither_right_nor_wrong(root, truth):
    group = [replace(item, is_crowd=False, score=0.99) for item in truth.annotations if item.is_crowd]
    assert len(group) == 2
    with_group = evaluate_cityscapes(truth, root, "val", [*perfect(truth), *group])
    assert with_group["mask_ap"] == pytest.approx(100.0)
    elsewhere = [shifted(item, 20) for item in group]  # on nothing: unlabelled pixels are ignored as well
    assert evaluate_cityscapes(truth, root, "val", [*perfect(truth), *elsewhere])["mask_ap"] == pytest.approx(
        100.0
    )
    on_person = [
        replace(item, label=truth.class_names.index("car")) for item in perfect(truth) if item.label == 0
    ]
    assert evaluate_cityscapes(truth, root, "val", [*perfect(truth, 0.5), *on_person])["mask_ap"] < 100.0


def test_equals_the_evaluator_run_on_whole_lists(root, truth, tmp_path):
    """The way the evaluator itself goes, over all files at once."""
    predictions = [shifted(item, 3 * (item.id % 4)) for item in perfect(truth)]
    folder = tmp_path / "predictions"
    folder.mkdir()
    listed, ids = [], []
    for image in truth.images:
        own = [item for item in predictions if item.image_id == image.id]
        listed.append(str(write_predictions(own, truth.category_ids, image, folder)))
        made = folder / f"{Path(image.file_name).stem}_gtFine_instanceIds.png"
        pixels = np.full((HEIGHT, WIDTH), 0, dtype=np.uint16)
        for number, item in enumerate(truth.annotations_of(image.id)):
            category = truth.category_ids[item.label]
            pixels[decode(item.rle)] = category if item.is_crowd else 1000 * category + number
        Image.fromarray(pixels).save(made)
        ids.append(str(made))
    arguments = official.CArgs()
    arguments.__dict__ |= official.args.__dict__ | {
        "quiet": True,
        "predictionPath": str(folder),
        "gtInstancesFile": str(folder / "gt.json"),
    }
    official.setInstanceLabels(arguments)
    instances = official.getGtInstances(ids, arguments)
    matches = official.matchGtWithPreds(listed, ids, instances, arguments)
    expected = official.computeAverages(official.evaluateMatches(matches, arguments), arguments)
    found = evaluate_cityscapes(truth, root, "val", predictions)
    assert found["mask_ap"] == pytest.approx(100 * expected["allAp"], abs=1e-9)
    assert 0 < found["mask_ap"] < found["mask_ap50"]
