import csv
import itertools

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cast.config import ContrastiveSettings, TrainSettings
from cast.data.batch import Batch, LearnerOutput, Target
from cast.errors import CastError
from cast.losses.objective import Objective
from cast.training.loop import train


class Learner(nn.Module):
    """Pulls one weight towards the mean of the images."""

    feature_dim = 3

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)

    def encode(self, images):
        return images

    def forward(self, images, targets):
        assert images.dtype == torch.float32, "mixed precision must not round the images"
        loss = (self.model.weight - images.mean()).pow(2).sum()
        queries = torch.zeros(len(images), 1, 2, 2), torch.ones(len(images), 1, 2) / 2
        return LearnerOutput(
            {"distance": loss}, images, *queries, torch.ones(len(images), 1, dtype=torch.bool)
        )


def batch_of(value, image_id=7):
    images = torch.full((1, 3, 2, 2), value)
    target = Target(torch.zeros(0, 2, 2, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    return Batch(images, images, [target], torch.ones(1, 2, 2, dtype=torch.bool), [image_id])


def run(tmp_path, values, **changes):
    settings = {"steps": 60, "image_size": (2, 2), "lr": 0.1, "weight_decay": 0.0, "schedule": "constant"}
    settings = TrainSettings(**(settings | changes))
    torch.manual_seed(0)
    learner, contrastive = Learner(), ContrastiveSettings()
    objective = Objective(learner, 0.0, 0.0, "fusion", contrastive)
    batches = itertools.cycle([batch_of(value) for value in values])
    return train(
        learner.model,
        objective,
        batches,
        None,
        settings,
        contrastive,
        "toy seed 0",
        tmp_path / "training.csv",
    )


def test_it_minimises_and_logs(tmp_path, capsys):
    model = run(tmp_path, [1.0], diagnostics_every=25)
    assert model.weight.item() == pytest.approx(1.0, abs=0.1) and not model.training
    with (tmp_path / "training.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [25, 50, 60]
    losses = [float(row["sup"]) for row in rows]
    assert losses[0] > losses[-1] and losses == [float(row["sup_distance"]) for row in rows]
    assert "toy seed 0: step 60/60 (100 %)" in capsys.readouterr().out
    board = EventAccumulator(str(tmp_path)).Reload()
    assert set(board.Tags()["scalars"]) == set(rows[0]) - {"step"}
    shown = [(event.step, event.value) for event in board.Scalars("sup")]
    assert shown == [(int(row["step"]), pytest.approx(float(row["sup"]))) for row in rows]


def test_accumulation_averages_the_batches_of_a_step(tmp_path):
    mixed = run(tmp_path, [0.0, 2.0], accumulate=2)
    plain = run(tmp_path, [1.0])
    assert mixed.weight.item() == pytest.approx(plain.weight.item(), abs=1e-3)


def test_averaged_weights_are_returned(tmp_path):
    averaged = run(tmp_path, [1.0], steps=5, ema_decay=0.9)
    latest = run(tmp_path, [1.0], steps=5)
    assert 0 < averaged.weight.item() < latest.weight.item()


def test_a_loss_that_is_not_finite_stops_with_step_and_images(tmp_path):
    with pytest.raises(CastError, match=r"toy seed 0: loss 'sup\w*' is not finite by step 10 .*\[7\]"):
        run(tmp_path, [float("nan")], diagnostics_every=10)


def test_mixed_precision_trains(tmp_path):
    model = run(tmp_path, [1.0], precision="bf16-mixed")
    assert model.weight.item() == pytest.approx(1.0, abs=0.1) and model.weight.dtype == torch.float32
