"""What the three training stages share: data, objective, loop."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import seed_everything

from cast.config import (
    ContrastiveSettings,
    CriterionSettings,
    InferenceSettings,
    Reading,
    Settings,
    TeacherLossSettings,
    TrainSettings,
)
from cast.data.batch import Batch
from cast.data.coco import CocoData, read_coco
from cast.data.loader import training_batches
from cast.errors import CastError
from cast.losses.debiased_negatives import Sampling
from cast.losses.objective import Learner, Objective
from cast.training.loop import Model, train


class TrainingRun(Settings):
    """Settings of one training run: J's weights and how it is minimised."""

    recipe: str
    lambda_semi: float
    lambda_pxl: float
    sampling: Sampling
    labelled: bool = True  # False: D_l = ∅
    train: TrainSettings
    inference: InferenceSettings | None = None  # how the model labels images in training, where it does
    contrastive: ContrastiveSettings
    reading: Reading


class TeacherRun(TrainingRun):
    """A training run of the composite teacher."""

    teacher_loss: TeacherLossSettings


class StudentRun(TrainingRun):
    """A training run of the student."""

    criterion: CriterionSettings


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from.

    Attributes:
        labelled: D_l.
        pseudo_labels: COCO JSON of D_u with pseudo-labels, if it has any.
        unlabelled: COCO JSON of D_u, for runs that label it themselves.
    """

    labelled: CocoData
    pseudo_labels: Path | None = None
    unlabelled: Path | None = None


def fit(
    model: Model, learner: Learner, run: TrainingRun, data: TrainingData, seed: int, folder: Path
) -> Model:
    """Minimise J for one recipe and return the trained model.

    Args:
        model: the network inside `learner`.
        learner: the network with its supervised loss.
        run: the recipe's settings.
        data: D_l and D_u.
        seed: of the batches and all other randomness.
        folder: where training.csv goes.

    Raises:
        CastError: a run without labels has no pseudo-labels either.
    """
    objective = Objective(
        learner, run.lambda_semi, run.lambda_pxl, run.sampling, run.contrastive, run.train.strong_labelled
    )
    labelled, unlabelled = _batches(run, data, seed)
    label, log = f"{run.recipe} seed {seed}", folder / "training.csv"
    return train(
        model, objective, labelled, unlabelled, run.train, run.contrastive, label, log, run.inference
    )


def _batches(
    run: TrainingRun, data: TrainingData, seed: int
) -> tuple[Iterator[Batch] | None, Iterator[Batch | None] | None]:
    """Endless batches of D_l and D_u; where one of them is missing, the other fills the whole batch."""
    labelled_size, unlabelled_size = run.train.labelled_batch, run.train.unlabelled_batch
    pseudo = _usable(data.pseudo_labels) if data.pseudo_labels is not None else None
    online = run.train.online
    if (pseudo is None and online is None) or unlabelled_size == 0:
        labelled_size, unlabelled_size = labelled_size + unlabelled_size, 0
    if not run.labelled:
        if pseudo is None:
            raise CastError(f"{data.pseudo_labels}: holds no pseudo-label, and {run.recipe} learns no others")
        labelled_size, unlabelled_size = 0, labelled_size + unlabelled_size

    def batches(part: CocoData, size: int, own_seed: int, strong: bool, start: int = 0) -> Iterator[Batch]:
        return training_batches(part, run.train, size, own_seed, run.reading, strong, start)

    labelled: Iterator[Batch] | None = None
    unlabelled: Iterator[Batch | None] | None = None
    if labelled_size > 0:
        strong = run.lambda_pxl > 0 or run.train.strong_labelled
        labelled = batches(data.labelled, labelled_size, seed, strong)
    if unlabelled_size > 0 and online is None:
        assert pseudo is not None
        unlabelled = batches(pseudo, unlabelled_size, seed + 1, True)
    elif unlabelled_size > 0 and online is not None:
        assert data.unlabelled is not None
        burn_in = online.burn_in_steps * run.train.accumulate
        before: Iterator[Batch | None] = itertools.repeat(None)
        if pseudo is not None:
            before = batches(pseudo, unlabelled_size, seed + 1, True)
        after = batches(read_coco(data.unlabelled), unlabelled_size, seed + 1, True, burn_in)
        unlabelled = _joined(before, burn_in, after)
    return labelled, unlabelled


def _joined(before: Iterator[Batch | None], count: int, after: Iterator[Batch]) -> Iterator[Batch | None]:
    """`count` items of the first iterator, then the second."""
    yield from itertools.islice(before, count)
    yield from after


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
            f"warning: {path}: no pseudo-label is above the threshold; training without it",
            file=sys.stderr,
            flush=True,
        )
        return None
    return with_labels
