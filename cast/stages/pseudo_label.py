"""Label the unlabelled images with a model, and audit the labels where the truth is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from cast.artefacts import artefact_folder, write_json
from cast.config import InferenceSettings, PseudoLabelSettings, Reading, Settings
from cast.config_files import parse
from cast.data.coco import Annotation, read_coco
from cast.data.pseudo_labels import calibrate_threshold, select
from cast.evaluation.pseudo_label_audit import audit, audit_table
from cast.stages.prediction import load_model, model_inputs, predict, write_predictions


class PseudoLabelRun(Settings):
    """Settings of one pseudo-labelling."""

    role: Literal["teacher", "student"]
    pseudo_label: PseudoLabelSettings
    inference: InferenceSettings
    reading: Reading


def run(settings: dict[str, Any], model: Path, split: Path, out: Path) -> None:
    """Write candidates.json (all predictions), pseudo_labels.json (those kept) and their audit.

    audit.json and audit.csv are written where the split knows the hidden truth.

    Args:
        settings: of a `PseudoLabelRun`.
        model: teacher or student folder.
        split: folder with labelled.json, unlabelled.json and, where the truth is known, hidden.json.
        out: folder to make.
    """
    labelling = parse(PseudoLabelRun, settings)
    labelled, unlabelled = read_coco(split / "labelled.json"), read_coco(split / "unlabelled.json")
    network = load_model(model, labelling.role, labelled.class_names)
    inputs = [*model_inputs(model, labelling.role), split]
    with artefact_folder(out, "pseudo_label", settings, inputs) as folder:
        candidates = predict(
            network, unlabelled, labelling.inference, labelling.reading, f"pseudo_label {out.name}"
        )
        write_predictions(folder / "candidates.json", unlabelled, candidates)
        threshold = labelling.pseudo_label.score_threshold
        if threshold == "auto":
            # Read off the unlabelled images: on labelled ones, already learnt, the scores are higher.
            threshold = calibrate_threshold(
                candidates, len(unlabelled.images), labelled, labelling.pseudo_label
            )
        pseudo = select(candidates, threshold, labelling.pseudo_label.min_area)
        write_predictions(folder / "pseudo_labels.json", unlabelled, pseudo)
        per_image = len(pseudo) / max(len(unlabelled.images), 1)
        print(
            f"{out.name}: {len(pseudo)} pseudo-labels, {per_image:.1f} an image, score >= {threshold:.2f}",
            flush=True,
        )
        if not pseudo:
            print(
                f"warning: {out}: no prediction reaches the score threshold {threshold:.2f}", file=sys.stderr
            )
        if (split / "hidden.json").exists():
            _audit(folder, pseudo, candidates, split / "hidden.json")


def _audit(folder: Path, pseudo: list[Annotation], candidates: list[Annotation], truth: Path) -> None:
    result = audit(pseudo, read_coco(truth), candidates)
    write_json(folder / "audit.json", result)
    audit_table(result).to_csv(folder / "audit.csv", index=False)
    shares = {key: result[key] for key in ("precision", "recall", "mean_iou") if result[key] is not None}
    print("  ".join(f"{name} {share:.2f}" for name, share in shares.items()), flush=True)
