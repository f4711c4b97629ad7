"""Mask AP by pycocotools, read for every cap on detections.

pycocotools' own ``summarize`` prints −1 where the cap of 100 is missing and nothing for other caps, so the
figures are read from its precision array. Figures are in percent; None stands for "cannot be measured"
(no instance of that class or size in the truth), never −1.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cast.data.coco import Annotation, CocoData
from cast.data.rle import Rle, area, from_segmentation
from cast.errors import CastError
from cast.evaluation.touching import touching

Prediction = Annotation | Mapping[str, Any]
Metrics = dict[str, Any]
AREAS = {"mask_ap_small": "small", "mask_ap_medium": "medium", "mask_ap_large": "large"}
PREDICTION_KEYS = ("image_id", "category_id", "segmentation", "score")


def evaluate_masks(
    truth: CocoData, predictions: Sequence[Prediction], max_detections: tuple[int, ...]
) -> Metrics:
    """COCO instance segmentation metrics (AP over IoU 0.50 … 0.95, AP50, AP75, by size, by class).

    Args:
        truth: the annotated images; every one counts, also those without predictions.
        predictions: scored annotations, or entries of a COCO results file (image_id, category_id,
            segmentation, score).
        max_detections: caps on detections per image and class; the first fills the top-level figures.

    Returns:
        At the first cap ``mask_ap``, ``mask_ap50``, ``mask_ap75``, ``mask_ap_small`` / ``medium`` / ``large``
        in percent and ``per_class`` {class name: mask_ap, mask_ap50, mask_ap75, instances};
        ``max_detections`` and ``by_max_detections`` {cap: the same}; ``recall50_touching`` and
        ``recall50_apart``, the recall in percent, at IoU 0.5 and the largest cap, of instances that touch
        another one and of those that do not; counts ``images``, ``instances`` (without crowd regions) and
        ``predictions``.

    Raises:
        CastError: a prediction of an image or category outside `truth`, without a score, or of another size.
    """
    evaluator = match_masks(truth, predictions, max_detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    precision = evaluator.eval["precision"]
    caps = {cap: _figures_at(evaluator, precision, cap, truth) for cap in max_detections}
    return {
        **caps[max_detections[0]],
        "max_detections": list(max_detections),
        "by_max_detections": {str(cap): figures for cap, figures in caps.items()},
        **_recall_by_touch(evaluator, truth),
        "images": len(truth.images),
        "instances": sum(instances_by_class(truth)),
        "predictions": len(predictions),
    }


def match_masks(
    truth: CocoData,
    predictions: Sequence[Prediction],
    max_detections: tuple[int, ...],
    iou_thresholds: Sequence[float] | None = None,
) -> COCOeval:
    """A pycocotools evaluator that has matched predictions with the truth, image by image and class by class.

    Args:
        truth: the annotated images.
        predictions: as in `evaluate_masks`.
        max_detections: caps on detections per image and class.
        iou_thresholds: COCO's 0.50 … 0.95 when None.

    Raises:
        CastError: as in `evaluate_masks`.
    """
    entries = _checked_entries(truth, predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(
            _coco_index(truth, _truth_entries(truth)), _coco_index(truth, entries), iouType="segm"
        )
        evaluator.params.maxDets = sorted(max_detections)
        if iou_thresholds is not None:
            evaluator.params.iouThrs = np.asarray(iou_thresholds, dtype=float)
        evaluator.evaluate()
    return evaluator


def instances_by_class(data: CocoData) -> list[int]:
    """Number of annotated instances of each class, in the order of `class_names`, without crowd regions."""
    counts = [0] * len(data.class_names)
    for item in data.annotations:
        counts[item.label] += not item.is_crowd
    return counts


def _figures_at(evaluator: COCOeval, precision: np.ndarray, cap: int, truth: CocoData) -> Metrics:
    """All figures for one cap; `precision` is (IoU T, recall R, class K, area A, cap M)."""
    parameters = evaluator.params
    at_cap = precision[..., parameters.maxDets.index(cap)]
    overall = at_cap[..., parameters.areaRngLbl.index("all")]
    figures = _mean_figures(overall, parameters.iouThrs)
    for key, label in AREAS.items():
        figures[key] = _percent(at_cap[..., parameters.areaRngLbl.index(label)])
    # COCOeval sorts the category ids; the classes of `truth` are in their own order.
    position = {category: index for index, category in enumerate(parameters.catIds)}
    counts = instances_by_class(truth)
    figures["per_class"] = {
        name: _mean_figures(overall[..., [position[category]]], parameters.iouThrs) | {"instances": count}
        for name, category, count in zip(truth.class_names, truth.category_ids, counts, strict=True)
    }
    return figures


def _recall_by_touch(evaluator: COCOeval, truth: CocoData) -> Metrics:
    """Recall at IoU 0.5 and the largest cap of instances that touch another one, and of the others."""
    at_half = int(np.flatnonzero(np.isclose(evaluator.params.iouThrs, 0.5))[0])
    whole_range = evaluator.params.areaRng[evaluator.params.areaRngLbl.index("all")]
    touches = touching(truth)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for image in evaluator.evalImgs:
        if image is None or image["aRng"] != whole_range:
            continue
        for number, match, ignored in zip(
            image["gtIds"], image["gtMatches"][at_half], image["gtIgnore"], strict=True
        ):
            if not ignored:
                hits[touches[number - 1]].append(match > 0)  # `_coco_index` numbers from 1
    return {
        key: 100.0 * float(np.mean(hits[touch])) if hits[touch] else None
        for key, touch in (("recall50_touching", True), ("recall50_apart", False))
    }


def _mean_figures(precision: np.ndarray, iou_thresholds: np.ndarray) -> Metrics:
    """AP, AP50 and AP75 of a precision array (T, R, K)."""
    return {
        "mask_ap": _percent(precision),
        "mask_ap50": _percent(precision[np.isclose(iou_thresholds, 0.5)]),
        "mask_ap75": _percent(precision[np.isclose(iou_thresholds, 0.75)]),
    }


def _percent(precision: np.ndarray) -> float | None:
    measured = precision[precision > -1]  # pycocotools marks classes absent from the truth with −1
    return 100.0 * float(measured.mean()) if measured.size else None


def _coco_index(truth: CocoData, annotations: list[dict[str, Any]]) -> COCO:
    index = COCO()
    index.dataset = {
        "images": [{"id": image.id, "height": image.height, "width": image.width} for image in truth.images],
        "categories": [{"id": category} for category in truth.category_ids],
        # Numbered from 1: pycocotools takes a match with annotation 0 for no match at all.
        "annotations": [entry | {"id": number} for number, entry in enumerate(annotations, start=1)],
    }
    index.createIndex()
    return index


def _truth_entries(truth: CocoData) -> list[dict[str, Any]]:
    return [
        {
            "image_id": item.image_id,
            "category_id": truth.category_ids[item.label],
            "segmentation": item.rle,
            "area": item.area,
            "iscrowd": int(item.is_crowd),
        }
        for item in truth.annotations
    ]


def _checked_entries(truth: CocoData, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Predictions as pycocotools wants them; what it would silently drop or score −1 is an error."""
    sizes = {image.id: (image.height, image.width) for image in truth.images}
    categories = set(truth.category_ids)
    entries = []
    for prediction in predictions:
        entry = _entry(prediction, truth)
        missing = [key for key in PREDICTION_KEYS if entry.get(key) is None]
        if missing:
            raise CastError(f"predictions: an instance has no {missing[0]}; evaluate predictions, not labels")
        where = f"predictions: image {entry['image_id']}"
        if entry["image_id"] not in sizes:
            raise CastError(f"{where} is not among the images of {truth.path}; predict on the same images")
        if entry["category_id"] not in categories:
            raise CastError(f"{where}: no category {entry['category_id']} in {truth.path}; use its ids")
        rle = _checked_rle(
            entry["segmentation"], sizes[entry["image_id"]], isinstance(prediction, Annotation), where
        )
        entries.append(entry | {"segmentation": rle, "area": float(area(rle))})
    return entries


def _checked_rle(segmentation: Any, size: tuple[int, int], trusted: bool, where: str) -> Rle:
    """RLE of the image's size; what comes from outside is parsed in full, our own annotations are sound."""
    if trusted and tuple(segmentation["size"]) == size:
        return cast(Rle, segmentation)
    try:
        return from_segmentation(segmentation, *size)
    except ValueError as error:
        raise CastError(f"{where}: {error}; write masks at the image's own size") from None


def _entry(prediction: Prediction, truth: CocoData) -> dict[str, Any]:
    if not isinstance(prediction, Annotation):
        return dict(prediction)
    return {
        "image_id": prediction.image_id,
        "category_id": truth.category_ids[prediction.label],
        "segmentation": prediction.rle,
        "score": prediction.score,
    }
