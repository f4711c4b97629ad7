from __future__ import annotations

import pytest
import torch

from cast.config import TeacherLossSettings
from cast.data.batch import Target
from cast.teacher.composite import CompositeTeacher
from cast.teacher.detector import Queries
from cast.teacher.learner import TeacherLearner, classes_of_boxes, jitter, make_prompts

SETTINGS = TeacherLossSettings()


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def test_both_parts_learn_and_the_rest_is_detached(teacher, images, targets):
    learner = TeacherLearner(teacher, SETTINGS)
    output = learner(images, targets)
    total(output.losses).backward()
    assert teacher.detector.model.bbox_embed[0].layers[-1].weight.grad.abs().sum() > 0
    assert teacher.segmenter.model.mask_decoder.conv_s0.weight.grad.abs().sum() > 0
    assert output.features.shape == (2, learner.feature_dim, 6, 6)
    assert output.features.requires_grad
    assert not output.mask_logits.requires_grad
    assert not output.class_probabilities.requires_grad
    assert output.query_valid.tolist() == [[True, True], [False, False]]
    assert output.class_probabilities.shape == (2, 2, 4)
    torch.testing.assert_close(output.class_probabilities.sum(-1), torch.ones(2, 2))


def test_mixed_precision_keeps_losses_and_classes_in_float32(teacher, images, targets):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = TeacherLearner(teacher, SETTINGS)(images, targets)
    assert all(value.dtype == torch.float32 for value in output.losses.values())
    assert output.class_probabilities.dtype == torch.float32
    total(output.losses).backward()
    assert all(
        torch.isfinite(parameter.grad).all()
        for parameter in teacher.parameters()
        if parameter.grad is not None
    )


@pytest.mark.parametrize(("feature_map", "side"), [("deepest", 6), ("finest", 24)])
def test_features_are_those_of_encode(teacher, images, targets, feature_map, side):
    learner = TeacherLearner(teacher, SETTINGS, feature_map).eval()
    assert learner.encode(images).shape == (2, learner.feature_dim, side, side)
    torch.testing.assert_close(learner(images, targets).features, learner.encode(images))


def test_detector_weight_scales_its_terms_only(teacher, images, targets):
    double = SETTINGS.model_copy(update={"detector_weight": 2.0, "box_jitter": 0.0})
    single = SETTINGS.model_copy(update={"box_jitter": 0.0})
    teacher.eval()
    once, twice = (TeacherLearner(teacher, settings)(images, targets).losses for settings in (single, double))
    for name in once:
        torch.testing.assert_close(twice[name], once[name] * (2.0 if name.startswith("detector_") else 1.0))


def test_a_batch_without_any_instance_trains(teacher, images, targets):
    learner = TeacherLearner(teacher, SETTINGS)
    output = learner(images, [targets[1], targets[1]])
    assert output.query_valid.shape == (2, 1)
    assert not output.query_valid.any()
    assert output.losses["mask_dice"] == 0
    total(output.losses).backward()
    gradient = teacher.segmenter.model.mask_decoder.conv_s0.weight.grad
    assert gradient is not None, "the zero loss is part of the graph"
    assert gradient.abs().sum() == 0


def test_one_part_may_train_alone(detector, segmenter, images, targets):
    names = detector.class_names
    of_detector = TeacherLearner(CompositeTeacher(detector, None, names), SETTINGS)(images, targets)
    assert all(name.startswith("detector_") for name in of_detector.losses)
    assert not of_detector.query_valid.any()
    of_segmenter = TeacherLearner(CompositeTeacher(None, segmenter, names), SETTINGS)(images, targets)
    assert all(name.startswith("mask_") for name in of_segmenter.losses)
    torch.testing.assert_close(of_segmenter.class_probabilities, torch.full((2, 2, 4), 0.25))
    for output in (of_detector, of_segmenter):
        total(output.losses).backward()


def test_prompts_are_capped_and_drawn_from_the_instances(images):
    masks = torch.zeros(5, 96, 96, dtype=torch.bool)
    for index in range(5):
        masks[index, : 10 + index, : 10 + index] = True
    settings = SETTINGS.model_copy(update={"max_prompts": 3, "box_jitter": 0.0})
    prompts = make_prompts([Target(masks, torch.arange(5))], settings, images)
    assert prompts.valid.tolist() == [[True, True, True]]
    sides = prompts.boxes[0, :, 2].tolist()
    assert len(set(sides)) == 3
    assert prompts.masks[0].flatten(1).sum(1).tolist() == [side * side for side in sides]


def test_jitter_scales_with_the_box_and_stays_inside():
    torch.manual_seed(0)
    boxes = torch.tensor([[20.0, 20, 24, 60]]).repeat(4000, 1)
    moved = jitter(boxes, 0.1, 96, 96) - boxes
    assert moved.std(0).tolist() == pytest.approx([0.4, 4.0, 0.4, 4.0], rel=0.1)
    wild = jitter(boxes, 1.0, 62, 25)
    assert (wild >= 0).all()
    assert (wild <= torch.tensor([25, 62, 25, 62])).all()
    assert (wild[:, 2:] >= wild[:, :2]).all()
    assert torch.equal(jitter(boxes, 0.0, 96, 96), boxes)


def test_boxes_take_the_classes_of_the_query_that_overlaps_most():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 70, 70]]])
    found = torch.tensor([[[48.0, 50, 70, 70], [0, 0, 9, 10], [0, 0, 96, 96]]])
    scores = torch.tensor([[[0.9, 0.1], [0.2, 0.7], [0.5, 0.5]]], requires_grad=True)
    probabilities = classes_of_boxes(boxes, Queries(found, scores, {}))
    assert probabilities.argmax(-1).tolist() == [[1, 0]]
    assert not probabilities.requires_grad


def test_each_part_fits_one_scene(teacher, images, targets):
    """A few steps on one image must lower the loss of either part."""
    torch.manual_seed(0)
    settings = SETTINGS.model_copy(update={"box_jitter": 0.0, "mask_dice_weight": 20.0})
    learner = TeacherLearner(teacher, settings)
    optimizer = torch.optim.AdamW(teacher.parameters(), 1e-3)
    history = []
    for _ in range(25):
        losses = learner(images[:1], targets[:1]).losses
        optimizer.zero_grad()
        total(losses).backward()
        torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    for kind in ("detector_", "mask_"):
        first, last = (
            sum(value for name, value in step.items() if name.startswith(kind))
            for step in (history[0], history[-1])
        )
        assert last < 0.7 * first, (kind, first, last)
