"""Stages 1a and 1b: adapt the composite teacher to the target domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cast.artefacts import artefact_folder
from cast.config_files import parse
from cast.data.coco import read_coco
from cast.stages.training import TeacherRun, TrainingData, fit, seed_run
from cast.teacher.composite import load_teacher, save_teacher
from cast.teacher.learner import TeacherLearner


def run(
    settings: dict[str, Any], start: Path, split: Path, pseudo_labels: Path | None, seed: int, out: Path
) -> None:
    """Train the teacher in `start` on the split's labels and, if given, on pseudo-labels.

    Args:
        settings: of a `TeacherRun`.
        start: teacher folder with detector/ and segmenter/.
        split: folder with labelled.json and, for runs that label as they train, unlabelled.json.
        pseudo_labels: pseudo-labels of the unlabelled images, or None.
        seed: seed of the run.
        out: teacher folder to make.
    """
    teacher_run = parse(TeacherRun, settings)
    inputs = [start / "detector", start / "segmenter", split, *([pseudo_labels] if pseudo_labels else [])]
    with artefact_folder(out, "adapt_teacher", settings, inputs, seed) as folder:
        seed_run(seed)
        labelled = read_coco(split / "labelled.json")
        data = TrainingData(labelled, pseudo_labels, split / "unlabelled.json")
        teacher = load_teacher(start / "detector", start / "segmenter", labelled.class_names)
        learner = TeacherLearner(teacher, teacher_run.teacher_loss, teacher_run.contrastive.feature_map)
        save_teacher(fit(teacher, learner, teacher_run, data, seed, folder), folder)
