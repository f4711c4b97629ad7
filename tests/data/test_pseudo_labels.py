"""Conversion, selection and calibration of pseudo-labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cast.config import PseudoLabelSettings
from cast.data.batch import Instances
from cast.data.coco import Annotation, CocoData, ImageRecord, decode, new_annotation, read_coco, write_coco
from cast.data.pseudo_labels import calibrate_threshold, instances_to_annotations, select
from cast.errors import CastError

RECORD = ImageRecord(17, "a.png", width=20, height=12)


def predicted(scores: list[float], side: int = 5) -> list[Annotation]:
    mask = np.zeros((12, 20), dtype=bool)
    mask[:side, :side] = True
    return [new_annotation(number, 17, 0, mask, score) for number, score in enumerate(scores)]


def labelled(instances: int, crowds: int = 0) -> CocoData:
    items = predicted([0.0] * (instances + crowds))
    items = [
        Annotation(a.id, a.image_id, a.label, a.rle, a.area, a.box, is_crowd=index >= instances)
        for index, a in enumerate(items)
    ]
    return CocoData([RECORD], [{"id": 3, "name": "car"}], Path(), {17: items})


def test_instances_become_annotations_that_survive_the_file(tmp_path: Path) -> None:
    masks = torch.zeros(3, 12, 20, dtype=torch.bool)
    masks[0, 2:6, 3:10] = True
    masks[2, 0:2, 0:2] = True
    instances = Instances(masks, torch.tensor([1, 0, 0]), torch.tensor([0.75, 0.5, 0.25]))
    annotations = instances_to_annotations(RECORD, instances, first_id=5)
    assert [a.id for a in annotations] == [5, 6]  # the empty mask is left out
    assert annotations[0].area == 28
    assert annotations[0].box == (3, 2, 7, 4)
    categories = [{"id": 30, "name": "car"}, {"id": 10, "name": "person"}]
    write_coco(tmp_path / "p.json", [RECORD], annotations, categories, tmp_path)
    back = read_coco(tmp_path / "p.json").annotations_of(17)
    assert [(a.label, a.score) for a in back] == [(1, 0.75), (0, 0.25)]
    assert np.array_equal(decode(back[0].rle), masks[0].numpy())


def test_no_instances_no_annotations() -> None:
    assert instances_to_annotations(RECORD, Instances.empty(12, 20), first_id=1) == []


def test_masks_of_another_size_are_refused() -> None:
    instances = Instances(torch.ones(1, 6, 10, dtype=torch.bool), torch.tensor([0]), torch.tensor([0.5]))
    with pytest.raises(AssertionError):
        instances_to_annotations(RECORD, instances, first_id=1)


def test_selection_keeps_the_threshold_itself_and_only_larger_areas() -> None:
    assert [a.score for a in select(predicted([0.7, 0.69, 0.9]), 0.7, 5)] == [0.7, 0.9]
    assert select(predicted([0.9], side=2), 0.0, 4) == []
    assert len(select(predicted([0.9], side=2), 0.0, 3)) == 1


def test_auto_threshold_keeps_the_wanted_share_of_the_labelled_count() -> None:
    settings = PseudoLabelSettings(score_threshold="auto", auto_count_ratio=0.7)
    predictions = predicted([index / 40 for index in range(40)])
    threshold = calibrate_threshold(predictions, 1, labelled(instances=10, crowds=30), settings)
    assert len(select(predictions, threshold, settings.min_area)) == 7
    threshold = calibrate_threshold(predictions, 3, labelled(instances=10), settings)
    assert len(select(predictions, threshold, settings.min_area)) == 21


def test_auto_threshold_counts_only_large_enough_predictions() -> None:
    settings = PseudoLabelSettings(score_threshold="auto", auto_count_ratio=1.0)
    predictions = [*predicted([0.9, 0.8], side=2), *predicted([0.3, 0.2])]
    assert calibrate_threshold(predictions, 1, labelled(1), settings) == 0.3


def test_auto_threshold_with_too_few_or_no_predictions() -> None:
    settings = PseudoLabelSettings(score_threshold="auto")
    assert calibrate_threshold(predicted([0.4, 0.2]), 1, labelled(10), settings) == 0.2
    assert calibrate_threshold([], 1, labelled(10), settings) == 1.0
    with pytest.raises(CastError, match="score_threshold"):
        calibrate_threshold(predicted([0.4]), 1, labelled(0, crowds=2), settings)
