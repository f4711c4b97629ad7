"""Instance-level AP of Cityscapes by its own evaluator, on files in its own format."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official  # noqa: N813
from PIL import Image

from cast.data.cityscapes import IDS_END, IMAGE_END, instance_ids, truth_file
from cast.data.coco import Annotation, CocoData, ImageRecord
from cast.data.rle import decode

Metrics = dict[str, Any]


def evaluate_cityscapes(
    truth: CocoData, root: Path, split: str, predictions: Sequence[Annotation]
) -> Metrics:
    """AP over IoU 0.50 … 0.95 and AP50 as the benchmark defines them.

    Predictions on groups and on ignored regions do not count; regions under 100 pixels are no instances.

    Args:
        truth: the split as read from Cityscapes; every image counts, also those without predictions.
        root: folder that holds gtFine/.
        split: "train" or "val".
        predictions: scored annotations of these images.

    Returns:
        `mask_ap` and `mask_ap50` in percent, and `per_class` {class name: the same}; None where the truth
        holds no instance.
    """
    arguments = copy.copy(official.args)
    arguments.quiet = True
    official.setInstanceLabels(arguments)
    found: dict[int, list[Annotation]] = {}
    for prediction in predictions:
        found.setdefault(prediction.image_id, []).append(prediction)
    matches: dict[str, Any] = {}
    for image in truth.images:
        # Image by image: the masks of a whole split would fill a disk.
        with TemporaryDirectory() as folder:
            ids = _ids_file(truth, root, split, image, Path(folder))
            listed = write_predictions(found.get(image.id, []), truth.category_ids, image, Path(folder))
            arguments.predictionPath = folder
            instances = official.instances2dict([str(ids)])
            (matches[image.file_name],) = official.matchGtWithPreds(
                [str(listed)], [str(ids)], instances, arguments
            ).values()
    with np.errstate(invalid="ignore"):
        averages = official.computeAverages(official.evaluateMatches(matches, arguments), arguments)
    return {
        "mask_ap": _percent(averages["allAp"]),
        "mask_ap50": _percent(averages["allAp50%"]),
        "per_class": {
            name: {"mask_ap": _percent(figures["ap"]), "mask_ap50": _percent(figures["ap50%"])}
            for name, figures in averages["classes"].items()
        },
    }


def write_predictions(
    predictions: Sequence[Annotation], category_ids: Sequence[int], image: ImageRecord, folder: Path
) -> Path:
    """Write one image's predictions as the benchmark wants them: a list, and a PNG for each mask.

    Args:
        predictions: scored annotations of that image.
        category_ids: Cityscapes' label ids by class index.
        image: their image.
        folder: existing folder.

    Returns:
        `<city>_<sequence>_<frame>.txt` with a line `<mask file> <label id> <score>` for each prediction.
    """
    stem = Path(image.file_name).name.removesuffix(IMAGE_END)
    lines = []
    for number, prediction in enumerate(predictions):
        name = f"{stem}_{number}.png"
        Image.fromarray(decode(prediction.rle)).save(folder / name)
        lines.append(f"{name} {category_ids[prediction.label]} {prediction.score}\n")
    listed = folder / f"{stem}.txt"
    listed.write_text("".join(lines), encoding="utf-8")
    return listed


def _ids_file(truth: CocoData, root: Path, split: str, image: ImageRecord, folder: Path) -> Path:
    """The image's file of instance ids, made from the polygons where there is none."""
    found = truth_file(root, split, truth.image_root / image.file_name)
    if found.name.endswith(IDS_END):
        return found
    made = folder / f"truth{IDS_END}"
    Image.fromarray(instance_ids(found).astype(np.uint16)).save(made)
    return made


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100.0 * float(share)
