"""The learner hands the objective what it needs, and learns."""

from __future__ import annotations

import pytest
import torch

from cast.config import CriterionSettings, FeatureMap, StudentSettings
from cast.data.batch import Target
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.student.learner import StudentLearner
from cast.student.model import Student

SETTINGS = StudentSettings(
    encoder="vit_tiny_patch16_224",
    encoder_args={"img_size": (32, 32), "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
    encoder_pretrained=False,
    encoder_blocks=(1, 2, 3, 4),
    dpt_widths=(16, 16, 16, 16),
    feature_dim=32,
    decoder_dim=32,
    decoder_heads=2,
    decoder_feedforward=32,
    decoder_layers=2,
    num_queries=9,
    query_prior=True,
    convolutional_stem=True,
    semantic_head=True,
)


def learner(feature_map: FeatureMap = "deepest") -> StudentLearner:
    torch.manual_seed(0)
    criterion = MaskClassificationCriterion(CriterionSettings(num_points=200, semantic_weight=1.0), 2)
    return StudentLearner(Student(SETTINGS, 2), criterion, feature_map)


def scenes():
    """Two bright squares of class 0 and one dark bar of class 1; the second image is empty."""
    images, masks = torch.full((2, 3, 32, 32), 0.5), torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 2:10, 2:10] = masks[1, 20:28, 18:26] = masks[2, 4:8, 14:30] = True
    images[0, :, masks[0] | masks[1]], images[0, :, masks[2]] = 0.9, 0.1
    none = Target(masks[:0], torch.zeros(0, dtype=torch.int64))
    return images, [Target(masks, torch.tensor([0, 0, 1])), none]


@pytest.mark.parametrize(("feature_map", "side"), [("deepest", 4), ("finest", 8)])
def test_output(feature_map, side):
    model = learner(feature_map)
    images, targets = scenes()
    output = model(images, targets)
    assert set(output.losses) == {"class", "mask", "dice", "semantic"}
    assert output.mask_logits.shape == (2, 9, 8, 8) and not output.mask_logits.requires_grad
    assert output.class_probabilities.shape == (2, 9, 3) and not output.class_probabilities.requires_grad
    torch.testing.assert_close(output.class_probabilities.sum(-1), torch.ones(2, 9))
    assert output.query_valid.shape == (2, 9) and output.query_valid.all()
    assert output.features.shape == (2, model.feature_dim, side, side) and output.features.requires_grad
    torch.testing.assert_close(model.encode(images), output.features)


def test_learns_a_scene_by_heart():
    model = learner()
    images, targets = scenes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        losses = model(images, targets).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name, first in history[0].items():
        assert history[-1][name] < 0.4 * first, name
    with torch.no_grad():
        output = model(images, targets)
    sure = output.class_probabilities[0, :, :2].max(1).values > 0.5
    assert sorted(output.class_probabilities[0, sure].argmax(1).tolist()) == [0, 0, 1]
    assert (output.class_probabilities[1, :, 2] > 0.5).all()
