"""What a student mends, repeats and makes anew, on scenes whose answer is known by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cast.data.coco import Annotation, CocoData, ImageRecord, new_annotation
from cast.evaluation.bias import MENDED, NEW_MISTAKES, OUTCOMES, compare

SIZE = 64
CAR, PERSON = 0, 1
CATEGORIES = [{"id": 9, "name": "car"}, {"id": 4, "name": "person"}]
Drawn = tuple[int, int, int, int]  # image, class, x, y


def instance(number: int, drawn: Drawn, score: float | None = None, side: int = 10) -> Annotation:
    image, label, x, y = drawn
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return new_annotation(number, image, label, mask, score)


def dataset(annotations: list[Annotation], images: int = 4) -> CocoData:
    records = [ImageRecord(number, f"{number}.png", SIZE, SIZE) for number in range(1, images + 1)]
    by_image = {record.id: [a for a in annotations if a.image_id == record.id] for record in records}
    return CocoData(records, CATEGORIES, Path(), by_image)


def scored(*drawn: Drawn) -> list[Annotation]:
    """Instances of falling score."""
    return [instance(number, place, 0.9 - 0.005 * number) for number, place in enumerate(drawn)]


TRUTH: list[Drawn] = [
    (1, CAR, 0, 0),
    (1, CAR, 30, 0),
    (2, PERSON, 0, 30),
    (3, PERSON, 30, 30),
    (3, CAR, 0, 0),
]
BEFORE: list[Drawn] = [
    (1, CAR, 0, 0),  # right
    (1, CAR, 1, 0),  # false: a second one of the same car
    (2, CAR, 0, 30),  # false: a person
    (3, PERSON, 30, 30),  # right
    (3, CAR, 50, 50),  # false: nothing there
    (4, CAR, 22, 22),  # on the crowd
]
AFTER: list[Drawn] = [
    (1, CAR, 0, 0),  # keeps the car, alone: the second one is corrected
    (2, PERSON, 0, 30),  # finds the person; no car there: that false one is dropped
    (3, CAR, 51, 50),  # repeats the false one
    (3, PERSON, 10, 50),  # new; the real person is lost
    (1, CAR, 30, 0),  # finds the second car
    (4, CAR, 23, 22),  # on the crowd
    (3, CAR, 0, 0),  # right, but surer ones are as many as the pseudo-labels
]


@pytest.fixture
def truth() -> CocoData:
    crowd = replace(instance(9, (4, CAR, 20, 20), side=20), is_crowd=True)
    # First in the file: the others' places must not depend on it.
    return dataset([crowd, *(instance(number, drawn) for number, drawn in enumerate(TRUTH, start=10))])


def outcomes(row) -> dict[str, int]:
    return {name: int(row[name]) for name in OUTCOMES if row[name]}


def test_outcomes_by_hand(truth):
    result = compare(truth, scored(*BEFORE), scored(*AFTER))
    table = result.table.set_index("class")
    assert table.index.tolist() == ["all", "car", "person"]
    assert outcomes(table.loc["all"]) == {
        "false_dropped": 1,
        "false_corrected": 1,
        "false_repeated": 1,
        "missed_found": 2,
        "missed_again": 1,
        "found_kept": 1,
        "found_lost": 1,
        "false_new": 1,
    }
    assert outcomes(table.loc["person"]) == {"missed_found": 1, "found_lost": 1, "false_new": 1}
    assert result.by_image.index.tolist() == [1, 2, 3, 4]
    assert outcomes(result.by_image.loc[1]) == {"false_corrected": 1, "missed_found": 1, "found_kept": 1}
    assert outcomes(result.by_image.loc[2]) == {"false_dropped": 1, "missed_found": 1}
    assert outcomes(result.by_image.loc[4]) == {}  # only the crowd
    assert [item.id for item in result.before.false] == [1, 2, 4]
    assert sorted(item.id for item in result.after.missed) == [13, 14]


def test_measures_by_hand(truth):
    row = compare(truth, scored(*BEFORE), scored(*AFTER)).table.set_index("class")
    assert row.loc["all", ["instances", "before_count", "after_count"]].tolist() == [5, 6, 6]
    assert row.loc["all", ["before_precision", "before_recall"]].tolist() == pytest.approx([2 / 5, 2 / 5])
    assert row.loc["all", ["after_precision", "after_recall"]].tolist() == pytest.approx([3 / 5, 3 / 5])
    assert row.loc["car", ["before_per_instance", "after_per_instance"]].tolist() == [5 / 3, 4 / 3]
    assert row.loc["person", ["before_per_instance", "after_per_instance"]].tolist() == [1 / 2, 1]
    shifted = [instance(0, (1, CAR, 2, 0), 0.9)]
    measured = compare(truth, shifted, shifted).table
    assert measured.loc[0, "after_mean_iou"] == pytest.approx(80 / 120)


def test_the_student_is_held_to_as_many_instances_as_there_are_pseudo_labels(truth):
    sure = scored(*AFTER)[:6]
    doubtful = [replace(item, score=0.01) for item in scored(*TRUTH)]
    result = compare(truth, scored(*BEFORE), [*doubtful, *sure])
    assert result.after.instances == sure
    assert compare(truth, scored(*BEFORE), sure[:2]).after.instances == sure[:2]  # no more to take


def test_overlap_counts_from_half_and_within_the_class_and_image_only(truth):
    false = scored((3, CAR, 40, 50))
    for drawn, outcome in [
        ((3, CAR, 43, 50), "false_repeated"),  # IoU 70/130
        ((3, CAR, 44, 50), "false_dropped"),  # IoU 60/140
        ((3, PERSON, 40, 50), "false_dropped"),
        ((2, CAR, 40, 50), "false_dropped"),
    ]:
        found = compare(truth, false, scored(drawn)).table.loc[0]
        assert found[outcome] == 1
        assert found["false_new"] == (outcome == "false_dropped")


def test_the_same_instances_mend_and_lose_nothing(truth):
    row = compare(truth, scored(*BEFORE), scored(*BEFORE)).table.loc[0]
    assert outcomes(row) == {"false_repeated": 3, "missed_again": 3, "found_kept": 2}
    assert row["before_precision"] == row["after_precision"]


def test_a_perfect_student_mends_everything(truth):
    row = compare(truth, scored(*BEFORE), scored(*TRUTH)).table.loc[0]
    assert outcomes(row) == {"false_dropped": 2, "false_corrected": 1, "missed_found": 3, "found_kept": 2}
    assert row["after_precision"] == row["after_recall"] == row["after_mean_iou"] == 1


def test_a_perfect_teacher_leaves_nothing_to_mend(truth):
    row = compare(truth, scored(*TRUTH), scored(*BEFORE)).table.loc[0]
    assert row[list(MENDED)].sum() == 0
    assert row["found_lost"] == 3
    assert row["false_new"] == 3


def random_drawn(generator: np.random.Generator, count: int) -> list[Drawn]:
    """Squares on a coarse grid, so that many overlap."""
    drawn = generator.integers((1, 0, 0, 0), (5, 2, 9, 9), (count, 4)).tolist()
    return [(image, label, 3 * x, 3 * y) for image, label, x, y in drawn]


@pytest.mark.parametrize("seed", range(5))
def test_every_mistake_is_counted_once(seed):
    generator = np.random.default_rng(seed)
    truth = dataset([instance(number, drawn) for number, drawn in enumerate(random_drawn(generator, 60))])
    before, after = scored(*random_drawn(generator, 80)), scored(*random_drawn(generator, 100))
    result = compare(truth, before, after)
    total = result.table.loc[0]
    assert total[["false_dropped", "false_corrected", "false_repeated"]].sum() == len(result.before.false)
    assert total[["missed_found", "missed_again"]].sum() == len(result.before.missed)
    assert total[["missed_again", "found_lost"]].sum() == len(result.after.missed)
    assert total[["missed_found", "missed_again", "found_kept", "found_lost"]].sum() == 60
    assert total["before_recall"] == pytest.approx(len(result.before.right) / 60)
    assert total["after_precision"] == pytest.approx(len(result.after.right) / 80)
    for rows in (result.table.loc[1:], result.by_image):
        assert rows[list(OUTCOMES)].sum().tolist() == total[list(OUTCOMES)].tolist()
    assert all(total[name] > 0 for name in (*MENDED, *NEW_MISTAKES)), "the scenes try every outcome"


def test_nothing_to_measure_is_nan(truth):
    result = compare(truth, [], scored(*AFTER))
    assert result.after.instances == []
    row = result.table.loc[0]
    assert np.isnan(row["before_precision"]) and row["before_recall"] == 0
    assert outcomes(row) == {"missed_again": 5}
    empty = compare(dataset([]), [], []).table.loc[0]
    assert np.isnan(empty["before_recall"]) and np.isnan(empty["before_per_instance"])
    assert outcomes(empty) == {}
