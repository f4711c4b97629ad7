"""What the three training stages share: data, objective, loop."""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_fabric import seed_everything

from cast.config import (
    ContrastiveSettings,
    CriterionSettings,
    Reading,
    Settings,
    TeacherLossSettings,
    TrainSettings,
)
from cast.data.coco import CocoData, read_coco
from cast.data.loader import training_batches
from cast.losses.debiased_negatives import Sampling
from cast.losses.objective import Learner, Objective
from cast.training.loop import Model, train


class TrainingRun(Settings):
    """Settings of one training run: J's weights and how it is minimised."""

    recipe: str
    lambda_semi: float
    lambda_pxl: float
    sampling: Sampling
    train: TrainSettings
    contrastive: ContrastiveSettings
    reading: Reading


class TeacherRun(TrainingRun):
    """A training run of the composite teacher."""

    teacher_loss: TeacherLossSettings


class StudentRun(TrainingRun):
    """A training run of the student."""

    criterion: CriterionSettings


def fit(
    model: Model,
    learner: Learner,
    run: TrainingRun,
    labelled: CocoData,
    pseudo_labels: Path | None,
    seed: int,
    folder: Path,
) -> Model:
    """Minimise J for one recipe and return the trained model.

    Args:
        model: the network inside `learner`.
        learner: the network with its supervised loss.
        run: the recipe's settings.
        labelled: D_l.
        pseudo_labels: COCO JSON of D_u, or None.
        seed: of the batches and all other randomness.
        folder: where training.csv goes.
    """
    unlabelled = _usable(pseudo_labels) if pseudo_labels is not None else None
    objective = Objective(
        learner, run.lambda_semi, run.lambda_pxl, run.sampling, run.contrastive, run.train.strong_labelled
    )
    label = f"{run.recipe} seed {seed}"
    labelled_size, unlabelled_size = run.train.labelled_batch, run.train.unlabelled_batch
    if unlabelled is None:
        labelled_size, unlabelled_size = labelled_size + unlabelled_size, 0
    strong = run.lambda_pxl > 0 or run.train.strong_labelled
    batches = training_batches(labelled, run.train, labelled_size, seed, run.reading, strong)
    unlabelled_batches = None
    if unlabelled is not None and unlabelled_size > 0:
        unlabelled_batches = training_batches(unlabelled, run.train, unlabelled_size, seed + 1, run.reading)
    return train(
        model,
        objective,
        batches,
        unlabelled_batches,
        run.train,
        run.contrastive,
        label,
        folder / "training.csv",
    )


def seed_run(seed: int) -> None:
    """Seed torch, numpy and Python before a model is built."""
    seed_everything(seed, workers=True, verbose=False)


def _usable(path: Path) -> CocoData | None:
    """The pseudo-labelled images; None, with a warning, when no image has a pseudo-label.

    An image without pseudo-labels is left out: that nothing was recognised with confidence is no evidence
    that the image is empty.
    """
    data = read_coco(path)
    with_labels = data.subset([image.id for image in data.images if data.annotations_of(image.id)])
    if not with_labels.images:
        print(
            f"warning: {path}: no pseudo-label is above the threshold; training on the labelled images alone",
            file=sys.stderr,
            flush=True,
        )
        return None
    return with_labels
