"""Recomputing activations changes memory, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cast.benchmarks.memory import saved_bytes, target
from cast.config_files import load
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.student.learner import StudentLearner
from cast.student.model import Student
from cast.teacher.composite import CompositeTeacher
from cast.teacher.detector import build_detector
from cast.teacher.learner import TeacherLearner
from cast.teacher.segmenter import build_segmenter
from cast.training.recomputation import recomputed, repeated_layers

CONFIG = load(Path(__file__).parents[2] / "config" / "smoke.yaml")
NAMES = ["person", "car"]


def student():
    model = Student(CONFIG.student, len(NAMES))
    return model, StudentLearner(model, MaskClassificationCriterion(CONFIG.criterion, len(NAMES)))


def teacher():
    parts = (build_detector(CONFIG.detector, NAMES), build_segmenter(CONFIG.segmenter))
    model = CompositeTeacher(*parts, NAMES)
    return model, TeacherLearner(model, CONFIG.teacher_loss)


def gradients(model, learner, enabled):
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 96, 96)
    targets = [target(96, 96)] * 2
    for one in targets:
        one.labels = one.labels % len(NAMES)
    with recomputed(model, enabled):
        loss = torch.stack(list(learner(images, targets).losses.values())).sum()
        loss.backward()
    return loss, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("make", [student, teacher])
def test_losses_and_gradients_stay_the_same(make):
    torch.manual_seed(0)
    model, learner = make()
    model.train()
    loss, plain = gradients(model, learner, enabled=False)
    again, recomputed_ones = gradients(model, learner, enabled=True)
    assert torch.equal(loss, again)
    assert plain.keys() == recomputed_ones.keys() and len(plain) > 50
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed_ones[name], gradient, msg=name)
    assert not any("forward" in vars(layer) for layer in repeated_layers(model))


@pytest.mark.parametrize("make", [student, teacher])
def test_less_is_kept(make):
    model, learner = make()
    model.train()
    one = target(96, 96)
    one.labels = one.labels % len(NAMES)

    def run():
        return learner(torch.rand(1, 3, 96, 96), [one])

    plain = saved_bytes(run, model)
    with recomputed(model, enabled=True):
        assert saved_bytes(run, model) < 0.8 * plain


def test_layers_are_those_of_encoders_and_decoders():
    model, _ = teacher()
    kinds = {type(layer).__name__ for layer in repeated_layers(model)}
    assert {"MMGroundingDinoEncoderLayer", "MMGroundingDinoDecoderLayer", "Sam2MultiScaleBlock"} <= kinds
    own = {type(layer).__name__ for layer in repeated_layers(student()[0])}
    assert "Block" in own
