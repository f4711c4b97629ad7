"""What pseudo-labels are worth: precision and recall against a hidden ground truth.

For studies in which the truth of the "unlabelled" images is known and withheld from training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cast.data.coco import Annotation, CocoData
from cast.evaluation.coco import instances_by_class, match_masks

# Overlap at which a pseudo-label counts as right: part of the measure's definition, as in AP50.
MATCH_IOU = 0.5
CURVE_POINTS = 20
Match = tuple[int, int, int, float, bool, float, bool]  # a row of `match_by_class`
Matches = list[pd.DataFrame]


def audit(
    pseudo: Sequence[Annotation], truth: CocoData, candidates: Sequence[Annotation] | None = None
) -> dict[str, Any]:
    """Compare pseudo-labels with the truth of their images.

    Within a class and image, pseudo-labels claim the best overlapping free instance in the order of their
    scores (pycocotools' greedy matching). Those on crowd regions are neither right nor wrong.

    Args:
        pseudo: the selected pseudo-labels, with scores.
        truth: ground truth of all images that were labelled, also of those that got nothing.
        candidates: predictions before the selection, for the curve; `pseudo` when None.

    Returns:
        Shares in 0 … 1, None where nothing can be measured: ``precision``, ``recall``, ``mean_iou`` (of the
        matched), with the counts ``pseudo_labels`` and ``instances``; ``per_class`` {class name: all these};
        ``pseudo_labels_per_image``, ``instances_per_image``, ``images``, ``images_without``, ``match_iou``;
        and ``curve``: the measures at score thresholds that keep 100 %, 95 %, … of the candidates.

    Raises:
        CastError: a pseudo-label of an image or category outside `truth`, or of another size.
    """
    matches = match_by_class(pseudo, truth)
    instances = instances_by_class(truth)
    images = len(truth.images)
    return {
        **measure(pd.concat(matches), sum(instances)),
        "per_class": {
            name: measure(found, count)
            for name, found, count in zip(truth.class_names, matches, instances, strict=True)
        },
        "pseudo_labels_per_image": len(pseudo) / images if images else None,
        "instances_per_image": sum(instances) / images if images else None,
        "images": images,
        "images_without": images - len({item.image_id for item in pseudo}),
        "match_iou": MATCH_IOU,
        "curve": _curve(matches if candidates is None else match_by_class(candidates, truth), truth),
    }


def audit_table(result: dict[str, Any]) -> pd.DataFrame:
    """One row for all classes together, then one per class: class, counts, precision, recall, mean_iou."""
    columns = ["pseudo_labels", "instances", "precision", "recall", "mean_iou"]
    rows = [("all", result), *result["per_class"].items()]
    return pd.DataFrame(
        [{"class": name} | {column: row[column] for column in columns} for name, row in rows],
        columns=["class", *columns],
    )


def _curve(matches: Matches, truth: CocoData) -> list[dict[str, Any]]:
    """Measures by score threshold; greedy matching by score makes one matching serve all thresholds."""
    found = pd.concat(matches).sort_values("score", ascending=False)
    instances = sum(instances_by_class(truth))
    points: list[dict[str, Any]] = []
    for share in np.arange(CURVE_POINTS, 0, -1) / CURVE_POINTS:
        if not len(found):
            break
        threshold = float(found["score"].iloc[int(np.ceil(share * len(found))) - 1])
        if points and points[-1]["threshold"] == threshold:
            continue
        kept = found[found["score"] >= threshold]
        points.append(
            {
                "threshold": threshold,
                **measure(kept, instances),
                "images_without": len(truth.images) - kept["image_id"].nunique(),
            }
        )
    return points


def measure(found: pd.DataFrame, instances: int) -> dict[str, Any]:
    """Counts, precision, recall and mean IoU, as in `audit`.

    Args:
        found: rows of `match_by_class`.
        instances: true instances that could have been found.
    """
    judged = found[~found["ignored"]]
    hits = judged[judged["matched"]]
    return {
        "pseudo_labels": len(found),
        "instances": instances,
        "precision": len(hits) / len(judged) if len(judged) else None,
        "recall": len(hits) / instances if instances else None,
        "mean_iou": float(hits["iou"].mean()) if len(hits) else None,
    }


def match_by_class(pseudo: Sequence[Annotation], truth: CocoData) -> Matches:
    """Match pseudo-labels with the truth, as in `audit`.

    Returns:
        Per class of `truth`, a frame with one row per pseudo-label: ``pseudo_label`` and ``instance``, the
        places in `pseudo` and in `truth.annotations` (−1: none matched), ``image_id``, ``score``,
        ``matched``, ``iou`` and ``ignored`` (on a crowd region).

    Raises:
        CastError: as in `audit`.
    """
    evaluator = match_masks(truth, pseudo, (max(len(pseudo), 1),), [MATCH_IOU])
    rows: dict[int, list[Match]] = {category: [] for category in truth.category_ids}
    for entry in evaluator.evalImgs:
        if entry is None or entry["aRng"] != evaluator.params.areaRng[0]:  # the first range holds all sizes
            continue
        image, category = int(entry["image_id"]), int(entry["category_id"])
        # `ious` rows follow the scores like the entry's detections; columns the truth as it was loaded.
        column = {instance["id"]: index for index, instance in enumerate(evaluator._gts[image, category])}
        ious = evaluator.ious[image, category]
        detections = zip(entry["dtIds"], entry["dtScores"], entry["dtMatches"][0], strict=True)
        for row, (number, score, partner) in enumerate(detections):
            ignored = bool(entry["dtIgnore"][0][row])
            matched = partner > 0 and not ignored
            iou = float(ious[row][column[int(partner)]]) if partner > 0 else 0.0
            # `match_masks` numbers from 1.
            instance = int(partner) - 1 if matched else -1
            rows[category].append((int(number) - 1, instance, image, float(score), matched, iou, ignored))
    return [_frame(rows[category]) for category in truth.category_ids]


def _frame(rows: list[Match]) -> pd.DataFrame:
    columns = ["pseudo_label", "instance", "image_id", "score", "matched", "iou", "ignored"]
    frame = pd.DataFrame(rows, columns=columns)
    whole = {"pseudo_label": int, "instance": int}
    return frame.astype(whole | {"score": float, "matched": bool, "iou": float, "ignored": bool})
