"""Stage 2: train the student on labels and pseudo-labels, from a pretrained encoder and a random decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cast.artefacts import artefact_folder
from cast.config import StudentSettings
from cast.config_files import parse
from cast.data.coco import read_coco
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.stages.training import StudentRun, TrainingData, fit, seed_run
from cast.student.encoder import load_encoder_weights
from cast.student.learner import StudentLearner
from cast.student.model import Student, save_student


class DistillRun(StudentRun):
    """A training run that builds the student it trains."""

    student: StudentSettings


def run(
    settings: dict[str, Any], start: Path, split: Path, pseudo_labels: Path | None, seed: int, out: Path
) -> None:
    """Train a student whose encoder starts from `start`.

    Args:
        settings: of a `DistillRun`.
        start: folder of encoder weights.
        split: folder with labelled.json and, for runs that label as they train, unlabelled.json.
        pseudo_labels: pseudo-labels of the unlabelled images, or None.
        seed: seed of the run.
        out: student folder to make.
    """
    student_run = parse(DistillRun, settings)
    inputs = [start, split, *([pseudo_labels] if pseudo_labels else [])]
    with artefact_folder(out, "distill_student", settings, inputs, seed) as folder:
        seed_run(seed)
        labelled = read_coco(split / "labelled.json")
        data = TrainingData(labelled, pseudo_labels, split / "unlabelled.json")
        # `start` holds the encoder's weights: nothing to fetch again, least of all on a compute node.
        student_settings = student_run.student.model_copy(update={"encoder_pretrained": False})
        student = Student(student_settings, len(labelled.class_names))
        load_encoder_weights(student, start)
        criterion = MaskClassificationCriterion(student_run.criterion, len(labelled.class_names))
        learner = StudentLearner(student, criterion, student_run.contrastive.feature_map)
        trained = fit(student, learner, student_run, data, seed, folder)
        save_student(trained, folder, labelled.class_names)
