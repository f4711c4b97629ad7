"""Stage 3: fine-tune the distilled student on the labels alone, J(D_l, ∅; 0, 0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cast.artefacts import artefact_folder
from cast.config_files import parse
from cast.data.coco import read_coco
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.stages.training import StudentRun, TrainingData, fit, seed_run
from cast.student.learner import StudentLearner
from cast.student.model import load_student, save_student


def run(
    settings: dict[str, Any], start: Path, split: Path, pseudo_labels: Path | None, seed: int, out: Path
) -> None:
    """Continue the training of a student.

    Args:
        settings: of a `StudentRun`.
        start: student folder.
        split: folder with labelled.json and, for runs that label as they train, unlabelled.json.
        pseudo_labels: pseudo-labels of the unlabelled images, or None (the paper's refinement has none).
        seed: seed of the run.
        out: student folder to make.
    """
    student_run = parse(StudentRun, settings)
    inputs = [start, split, *([pseudo_labels] if pseudo_labels else [])]
    with artefact_folder(out, "refine_student", settings, inputs, seed) as folder:
        seed_run(seed)
        labelled = read_coco(split / "labelled.json")
        data = TrainingData(labelled, pseudo_labels, split / "unlabelled.json")
        student = load_student(start)
        criterion = MaskClassificationCriterion(student_run.criterion, len(labelled.class_names))
        learner = StudentLearner(student, criterion, student_run.contrastive.feature_map)
        trained = fit(student, learner, student_run, data, seed, folder)
        save_student(trained, folder, labelled.class_names)
