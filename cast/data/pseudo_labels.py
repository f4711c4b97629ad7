"""From predictions to pseudo-labels: conversion, selection, calibration (docs/method.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cast.config import PseudoLabelSettings
from cast.data.batch import Instances
from cast.data.coco import Annotation, CocoData, ImageRecord, new_annotation
from cast.errors import CastError


def instances_to_annotations(record: ImageRecord, instances: Instances, first_id: int) -> list[Annotation]:
    """Predicted instances of one image as scored RLE annotations.

    Class indices stay class indices: the writer of the file turns them into category ids. Instances without
    a pixel are left out, since no COCO reader accepts them.

    Args:
        record: the image; gives the image id and the size that the masks must have.
        instances: masks bool (N, H, W) at the image's own size, labels (N,), scores (N,).
        first_id: id of the first annotation; the others count on.

    Returns:
        At most N annotations, in the order of the instances, areas and boxes in pixels.
    """
    size = (record.height, record.width)
    assert len(instances) == 0 or tuple(instances.masks.shape[1:]) == size, "masks of the image's own size"
    masks = instances.masks.cpu().numpy()
    labels, scores = instances.labels.tolist(), instances.scores.tolist()
    annotations: list[Annotation] = []
    for mask, label, score in zip(masks, labels, scores, strict=True):
        if mask.any():
            number = first_id + len(annotations)
            annotations.append(new_annotation(number, record.id, label, mask, score))
    return annotations


def select(annotations: Iterable[Annotation], threshold: float, min_area: float) -> list[Annotation]:
    """The annotations sure and large enough to train on, in their order.

    Args:
        annotations: predictions with scores.
        threshold: lowest score kept.
        min_area: pixels; kept masks are larger.
    """
    return [item for item in annotations if _score(item) >= threshold and item.area > min_area]


def calibrate_threshold(
    predictions: Sequence[Annotation], num_images: int, labelled: CocoData, settings: PseudoLabelSettings
) -> float:
    """Score threshold for ``score_threshold: auto``, from what the labelled images lead to expect.

    A fixed threshold means something else for every model; the number of objects in an image does not. So
    the threshold is the one that keeps ``auto_count_ratio`` times as many instances an image as the labelled
    images hold (about 0.7 worked at toy size).

    Args:
        predictions: the model's scored predictions. On images that the model has learnt its scores are
            higher than on others, so those of the unlabelled images serve best.
        num_images: images predicted, also those without any prediction.
        labelled: the labelled images' ground truth; crowd regions do not count.
        settings: `auto_count_ratio` and `min_area` are used.

    Returns:
        The threshold in 0 … 1; the lowest score of all where there are too few predictions, 1 where
        there is none.

    Raises:
        CastError: the labelled images hold no instance to count.
    """
    instances = count_instances(labelled)
    if instances == 0:
        raise CastError(
            "pseudo_label.score_threshold: 'auto' counts the labelled instances and there is none; "
            "set a number or label more images"
        )
    large_enough = select(predictions, 0.0, settings.min_area)
    per_image = settings.auto_count_ratio * instances / len(labelled.images)
    return threshold_for_count(large_enough, per_image * num_images)


def count_instances(data: CocoData) -> int:
    """Annotated instances of a data set without crowd regions."""
    return sum(not item.is_crowd for item in data.annotations)


def threshold_for_count(annotations: Iterable[Annotation], count: float) -> float:
    """The score of the `count`-th best annotation (rounded, at least the first); 1 without annotations."""
    scores = sorted((_score(item) for item in annotations), reverse=True)
    if not scores:
        return 1.0
    return scores[min(max(round(count), 1), len(scores)) - 1]


def _score(annotation: Annotation) -> float:
    assert annotation.score is not None, "a prediction has a score"
    return annotation.score
