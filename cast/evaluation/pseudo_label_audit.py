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
    matches = _matches(pseudo, truth)
    instances = instances_by_class(truth)
    images = len(truth.images)
    return {
        **_measures(pd.concat(matches), sum(instances)),
        "per_class": {
            name: _measures(found, count)
            for name, found, count in zip(truth.class_names, matches, instances, strict=True)
        },
        "pseudo_labels_per_image": len(pseudo) / images if images else None,
        "instances_per_image": sum(instances) / images if images else None,
        "images": images,
        "images_without": images - len({item.image_id for item in pseudo}),
        "match_iou": MATCH_IOU,
        "curve": _curve(matches if candidates is None else _matches(candidates, truth), truth),
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
                **_measures(kept, instances),
                "images_without": len(truth.images) - kept["image_id"].nunique(),
            }
        )
    return points


def _measures(found: pd.DataFrame, instances: int) -> dict[str, Any]:
    """Measures of matched pseudo-labels (columns of `_matches`) against a number of true instances."""
    judged = found[~found["ignored"]]
    hits = judged[judged["matched"]]
    return {
        "pseudo_labels": len(found),
        "instances": instances,
        "precision": len(hits) / len(judged) if len(judged) else None,
        "recall": len(hits) / instances if instances else None,
        "mean_iou": float(hits["iou"].mean()) if len(hits) else None,
    }


def _matches(pseudo: Sequence[Annotation], truth: CocoData) -> Matches:
    """Per class of `truth`, one row per pseudo-label: image_id, score, matched, iou, ignored."""
    evaluator = match_masks(truth, pseudo, (max(len(pseudo), 1),), [MATCH_IOU])
    rows: dict[int, list[tuple[int, float, bool, float, bool]]] = {c: [] for c in truth.category_ids}
    for entry in evaluator.evalImgs:
        if entry is None or entry["aRng"] != evaluator.params.areaRng[0]:  # the first range holds all sizes
            continue
        image, category = int(entry["image_id"]), int(entry["category_id"])
        # `ious` rows follow the scores like the entry's detections; columns the truth as it was loaded.
        column = {instance["id"]: index for index, instance in enumerate(evaluator._gts[image, category])}
        ious = evaluator.ious[image, category]
        for row, (score, partner) in enumerate(zip(entry["dtScores"], entry["dtMatches"][0], strict=True)):
            matched, ignored = partner > 0, bool(entry["dtIgnore"][0][row])
            iou = float(ious[row][column[int(partner)]]) if matched else 0.0
            rows[category].append((image, float(score), matched and not ignored, iou, ignored))
    return [_frame(rows[category]) for category in truth.category_ids]


def _frame(rows: list[tuple[int, float, bool, float, bool]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["image_id", "score", "matched", "iou", "ignored"])
    return frame.astype({"score": float, "matched": bool, "iou": float, "ignored": bool})
