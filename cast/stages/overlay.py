"""A figure of predictions beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cast.config import EvaluateSettings, Reading
from cast.config_files import parse
from cast.data.coco import Annotation, CocoData, load_image, read_coco
from cast.data.pseudo_labels import count_instances, select, threshold_for_count
from cast.errors import CastError
from cast.reporting.figures import OverlayRow, choose_images, overlay_figure


class OverlayRun(EvaluateSettings):
    """Settings of one figure: `overlay_images` and `overlay_score`, and how the photographs are shown."""

    reading: Reading = Reading()


def run(settings: dict[str, Any], truth: Path, predictions: Sequence[str], out: Path) -> None:
    """Draw images, truth and the predictions of several models side by side.

    Args:
        settings: of an `OverlayRun`.
        truth: COCO JSON with the images and their truth.
        predictions: columns as TITLE=FILE, FILE being a predictions.json of the same images.
        out: PNG file to write.

    Raises:
        CastError: a column is malformed, a file or image unreadable, or the truth holds no instance.
    """
    checked = parse(OverlayRun, settings)
    data = read_coco(truth)
    chosen = set(choose_images(data, checked.overlay_images))
    if not chosen:
        raise CastError(f"{truth}: holds no instance; give a file with annotated images")
    columns = {title: _drawn(path, data, checked) for title, path in map(_parsed, predictions)}
    rows = [
        OverlayRow(
            load_image(data.image_root, image, checked.reading),
            {"truth": [item for item in data.annotations_of(image.id) if not item.is_crowd]}
            | {title: drawn.get(image.id, []) for title, drawn in columns.items()},
        )
        for image in data.images
        if image.id in chosen
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    overlay_figure(rows, data.class_names, out)


def _drawn(path: Path, truth: CocoData, settings: EvaluateSettings) -> dict[int, list[Annotation]]:
    """Predictions to draw, by image id."""
    predictions = read_coco(path)
    if predictions.category_ids != truth.category_ids:
        raise CastError(f"{path}: has other categories than {truth.path}; give predictions on that file")
    if any(item.score is None for item in predictions.annotations):
        raise CastError(
            f"{path}: holds instances without a score; give the predictions.json of `cast evaluate`"
        )
    threshold = settings.overlay_score
    if threshold == "auto":
        threshold = threshold_for_count(predictions.annotations, count_instances(truth))
    drawn: dict[int, list[Annotation]] = {}
    for item in select(predictions.annotations, threshold, 0):
        drawn.setdefault(item.image_id, []).append(item)
    return drawn


def _parsed(column: str) -> tuple[str, Path]:
    title, _, path = column.partition("=")
    if not title or not path:
        raise CastError(f"{column}: not a column; write TITLE=FILE (predictions.json)")
    return title, Path(path)
