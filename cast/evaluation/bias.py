"""Whether a student mends the mistakes of the pseudo-labels that it learnt from (arXiv 2505.21904, figure 5).

The comparison is fair: the student is held to as many instances as there are pseudo-labels, its most certain
ones. Otherwise the one that says more would find more, and the one that says less would be right more often,
whatever either had learnt. Which classes these instances go to is each one's own choice.

What share of the mistakes is mended says little by itself: any model that errs elsewhere "mends" most of
them. It counts only beside the new mistakes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cast.data.coco import Annotation, CocoData
from cast.data.pseudo_labels import select, threshold_for_count
from cast.data.rle import Rle, overlaps
from cast.evaluation.coco import instances_by_class
from cast.evaluation.pseudo_label_audit import MATCH_IOU, Matches, match_by_class, measure

# What becomes of false pseudo-labels, of missed true instances and of found ones; and new false instances.
FALSE = ("false_dropped", "false_corrected", "false_repeated")
MISSED = ("missed_found", "missed_again")
FOUND = ("found_kept", "found_lost")
OUTCOMES = (*FALSE, *MISSED, *FOUND, "false_new")
MENDED = ("false_dropped", "false_corrected", "missed_found")
NEW_MISTAKES = ("found_lost", "false_new")
Event = tuple[int, int, str]  # image id, class index, outcome


@dataclass(frozen=True)
class Judged:
    """Instances and what the truth says of them.

    Attributes:
        instances: all of them.
        right: those matched with a true instance.
        false: those matched with none, without those on crowd regions.
        missed: the true instances that none is matched with.
        table: a row for all classes together, then one per class: ``instances`` (true ones), ``count``,
            ``per_instance`` (count over true instances), ``precision``, ``recall``, ``mean_iou`` (of the
            right), shares in 0 … 1, NaN where nothing can be measured.
    """

    instances: list[Annotation]
    right: list[Annotation]
    false: list[Annotation]
    missed: list[Annotation]
    table: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """Pseudo-labels and a student's instances on the same images, both against the truth.

    Attributes:
        before: the pseudo-labels.
        after: the student's instances, as many as were compared.
        table: a row for all classes together, then one per class: ``class``, ``instances``, the further
            columns of `Judged.table` with ``before_`` and with ``after_``, the number of each of `OUTCOMES`.
        by_image: the number of each of `OUTCOMES`, a row per image of the truth, by image id.
    """

    before: Judged
    after: Judged
    table: pd.DataFrame
    by_image: pd.DataFrame


def compare(truth: CocoData, before: Sequence[Annotation], after: Sequence[Annotation]) -> Comparison:
    """Compare pseudo-labels with what the student that learnt from them finds itself.

    Both are matched with the truth as in the audit of pseudo-labels, at `MATCH_IOU`; those on crowd regions
    are neither right nor false. Of `after` as many instances are kept as there are in `before`, those with
    the best scores (more only where scores tie, fewer only where there are fewer). Then

    - a false pseudo-label is ``false_repeated`` where a false instance of the student, of its class, overlaps
      it at `MATCH_IOU`; ``false_corrected`` where only right ones do (a better outline, or one instance in
      place of two); ``false_dropped`` where none does;
    - a false instance of the student that so overlaps no false pseudo-label is ``false_new``;
    - a true instance without a pseudo-label is ``missed_found`` by the student or ``missed_again``;
    - a true instance with one is ``found_kept`` or ``found_lost``.

    Args:
        truth: what the images really hold.
        before: the pseudo-labels, with scores.
        after: the student's instances on the same images, with scores, also uncertain ones.

    Raises:
        CastError: an instance of an image or category outside `truth`, or of another size.
    """
    kept = select(after, threshold_for_count(after, len(before)), 0) if before else []
    old, new = _judge(truth, before), _judge(truth, kept)
    events = [*_true_instances(truth, old, new), *_false_instances(old, new)]
    outcomes = pd.DataFrame(events, columns=["image", "label", "outcome"])
    by_class = _counts(outcomes, "label", range(len(truth.class_names)))
    table = pd.concat(
        [
            pd.Series(["all", *truth.class_names], name="class"),
            old.table["instances"],
            old.table.drop(columns="instances").add_prefix("before_"),
            new.table.drop(columns="instances").add_prefix("after_"),
            pd.concat([by_class.sum().to_frame().T, by_class], ignore_index=True),
        ],
        axis=1,
    )
    return Comparison(old, new, table, _counts(outcomes, "image", [image.id for image in truth.images]))


def _judge(truth: CocoData, instances: Sequence[Annotation]) -> Judged:
    matches = match_by_class(instances, truth)
    rows = pd.concat(matches)
    found = set(rows["instance"])
    return Judged(
        list(instances),
        [instances[place] for place in rows.loc[rows["matched"], "pseudo_label"]],
        [instances[place] for place in rows.loc[~rows["matched"] & ~rows["ignored"], "pseudo_label"]],
        [item for place, item in enumerate(truth.annotations) if place not in found and not item.is_crowd],
        _measured(matches, instances_by_class(truth)),
    )


def _measured(matches: Matches, instances: list[int]) -> pd.DataFrame:
    """`Judged.table`."""
    rows = pd.DataFrame([measure(pd.concat(matches), sum(instances)), *map(measure, matches, instances)])
    rows = rows.rename(columns={"pseudo_labels": "count"})
    rows["per_instance"] = rows["count"] / rows["instances"].replace(0, np.nan)
    shares = ["per_instance", "precision", "recall", "mean_iou"]
    return rows[["instances", "count", *shares]].astype(dict.fromkeys(shares, float))  # None becomes NaN


def _true_instances(truth: CocoData, before: Judged, after: Judged) -> Iterator[Event]:
    """What becomes of every true instance."""
    missed_before, missed_after = ({item.id for item in side.missed} for side in (before, after))
    for item in truth.annotations:
        if item.is_crowd:
            continue
        if item.id in missed_before:
            outcome = "missed_again" if item.id in missed_after else "missed_found"
        else:
            outcome = "found_lost" if item.id in missed_after else "found_kept"
        yield item.image_id, item.label, outcome


def _false_instances(before: Judged, after: Judged) -> Iterator[Event]:
    """What becomes of every false pseudo-label, and the new false instances."""
    repeated = _overlapped(before.false, after.false)
    corrected = _overlapped(before.false, after.right)
    for item, again, better in zip(before.false, repeated, corrected, strict=True):
        outcome = "false_repeated" if again else "false_corrected" if better else "false_dropped"
        yield item.image_id, item.label, outcome
    for item, old in zip(after.false, _overlapped(after.false, before.false), strict=True):
        if not old:
            yield item.image_id, item.label, "false_new"


def _overlapped(instances: Sequence[Annotation], others: Sequence[Annotation]) -> list[bool]:
    """Which instances one of the others overlaps that has its image and class."""
    places: dict[tuple[int, int], list[Rle]] = {}
    for item in others:
        places.setdefault((item.image_id, item.label), []).append(item.rle)
    return [
        bool((overlaps([item.rle], places.get((item.image_id, item.label), [])) >= MATCH_IOU).any())
        for item in instances
    ]


def _counts(events: pd.DataFrame, key: str, rows: Sequence[int]) -> pd.DataFrame:
    """Number of each outcome by image or class, zeros included."""
    counts = pd.crosstab(events[key], events["outcome"])
    return counts.reindex(index=pd.Index(rows, name=key), columns=list(OUTCOMES), fill_value=0)
