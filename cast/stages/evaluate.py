"""Predict a dataset with a model and measure mask AP: COCO's, or Cityscapes' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cast.artefacts import artefact_folder, write_json
from cast.config import InferenceSettings, Reading, Settings
from cast.config_files import parse
from cast.data.coco import read_coco
from cast.errors import CastError
from cast.evaluation.cityscapes import evaluate_cityscapes
from cast.evaluation.coco import evaluate_masks
from cast.stages.prediction import load_model, model_inputs, predict, write_predictions


class EvaluateRun(Settings):
    """Settings of one evaluation."""

    role: Literal["teacher", "student"]
    inference: InferenceSettings
    max_detections: tuple[int, ...]
    reading: Reading
    benchmark: Literal["coco", "cityscapes"] = (
        "coco"  # whose definition of AP `mask_ap` and `mask_ap50` follow
    )


def run(settings: dict[str, Any], model: Path, data: Path, out: Path) -> None:
    """Write predictions.json and metrics.json.

    Args:
        settings: of an `EvaluateRun`.
        model: teacher or student folder.
        data: COCO JSON with the truth.
        out: folder to make.
    """
    evaluation = parse(EvaluateRun, settings)
    truth = read_coco(data)
    if not any(not annotation.is_crowd for annotation in truth.annotations):
        raise CastError(
            f"{data}: no instance to evaluate against; set data.validation_images or "
            "data.validation_annotations"
        )
    network = load_model(model, evaluation.role, truth.class_names)
    inputs = [*model_inputs(model, evaluation.role), data]
    with artefact_folder(out, "evaluate", settings, inputs) as folder:
        annotations = predict(
            network, truth, evaluation.inference, evaluation.reading, f"evaluate {out.name}"
        )
        write_predictions(folder / "predictions.json", truth, annotations)
        metrics = evaluate_masks(truth, annotations, evaluation.max_detections)
        if evaluation.benchmark == "cityscapes":
            labels = Path(truth.info["annotations"])  # <data root>/gtFine/<split>, as stage prepare notes
            official = evaluate_cityscapes(truth, labels.parents[1], labels.name, annotations)
            metrics |= {**official, "coco": metrics["by_max_detections"]}
        write_json(folder / "metrics.json", metrics)
        print(f"{out.name}: mask AP {metrics['mask_ap']:.1f}, AP50 {metrics['mask_ap50']:.1f}", flush=True)
