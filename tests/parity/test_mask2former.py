"""Our decoder, matching and set criterion against transformers' Mask2Former."""

from __future__ import annotations

import pytest
import torch
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerHungarianMatcher,
    Mask2FormerLoss,
    Mask2FormerTransformerModule,
)

from cast.config import CriterionSettings, StudentSettings
from cast.data.batch import Target
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.losses.matching import match
from cast.student.model import StudentOutput
from cast.student.transformer_decoder import TransformerDecoder

DIM, HEADS, QUERIES, CLASSES, LAYERS, POINTS = 32, 4, 7, 3, 5, 200
PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}


@pytest.fixture
def equal_points(monkeypatch):
    """`torch.rand` gives the same points to every image, mask and layer, in both implementations."""
    tables: dict[tuple[int, int], torch.Tensor] = {}
    real = torch.rand

    def rand(*size, **kwargs):
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        key = tuple(shape[-2:])
        if key not in tables:
            tables[key] = real(*key, generator=torch.Generator().manual_seed(sum(key)))
        return tables[key].expand(*shape).clone()

    monkeypatch.setattr(torch, "rand", rand)


def _copy_attention(ours, theirs):
    if hasattr(theirs, "in_proj_weight"):
        for name, weight, bias in zip(
            ("query", "key", "value"),
            theirs.in_proj_weight.chunk(3),
            theirs.in_proj_bias.chunk(3),
            strict=True,
        ):
            getattr(ours, name).weight.copy_(weight)
            getattr(ours, name).bias.copy_(bias)
        ours.out.load_state_dict(theirs.out_proj.state_dict())
        return
    for name, other in PROJECTIONS.items():
        getattr(ours, name).load_state_dict(getattr(theirs, other).state_dict())


@torch.no_grad()
def _copy_decoder(ours: TransformerDecoder, theirs: Mask2FormerTransformerModule) -> None:
    ours.query_content.copy_(theirs.queries_features.weight)
    ours.query_position.copy_(theirs.queries_embedder.weight)
    ours.level_embedding.copy_(theirs.level_embed.weight)
    for layer, other in zip(ours.layers, theirs.decoder.layers, strict=True):
        _copy_attention(layer.cross_attention, other.cross_attn)
        _copy_attention(layer.self_attention, other.self_attn)
        layer.cross_norm.load_state_dict(other.cross_attn_layer_norm.state_dict())
        layer.self_norm.load_state_dict(other.self_attn_layer_norm.state_dict())
        layer.feedforward[0].load_state_dict(other.fc1.state_dict())
        layer.feedforward[2].load_state_dict(other.fc2.state_dict())
        layer.feedforward_norm.load_state_dict(other.final_layer_norm.state_dict())
    for projection, other in zip(ours.input_projections, theirs.input_projections, strict=True):
        if len(list(other.parameters())):
            projection.load_state_dict(other.state_dict())
    ours.norm.load_state_dict(theirs.decoder.layernorm.state_dict())
    mlp = theirs.decoder.mask_predictor.mask_embedder.layers
    for index, other in zip((0, 2, 4), mlp, strict=True):
        ours.mask_head[index].load_state_dict(other.layers[0].state_dict())


@pytest.mark.parametrize("feature_dim", [DIM, 24])
def test_decoder_with_copied_weights(feature_dim):
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        hidden_dim=DIM, feature_size=feature_dim, mask_feature_size=DIM, num_attention_heads=HEADS,
        dim_feedforward=48, decoder_layers=LAYERS + 1, num_queries=QUERIES, num_labels=CLASSES,
    )  # fmt: skip
    theirs = Mask2FormerTransformerModule(feature_dim, config).eval()
    settings = StudentSettings(
        feature_dim=feature_dim, decoder_dim=DIM, decoder_heads=HEADS, decoder_feedforward=48,
        decoder_layers=LAYERS, num_queries=QUERIES,
    )  # fmt: skip
    ours = TransformerDecoder(settings, CLASSES).eval()
    _copy_decoder(ours, theirs)
    pyramid = [torch.randn(2, feature_dim, side, side + 1) for side in (3, 6, 11)]
    mask_features = torch.randn(2, DIM, 22, 24, requires_grad=True)

    masks, classes = ours(pyramid, mask_features)
    expected = theirs(pyramid, mask_features)

    assert len(masks) == len(classes) == LAYERS + 1
    for layer, (mask, other) in enumerate(zip(masks, expected.masks_queries_logits, strict=True)):
        torch.testing.assert_close(
            mask, other, rtol=1e-4, atol=1e-4, msg=lambda m, i=layer: f"layer {i}: {m}"
        )
    for logits, hidden in zip(classes, expected.intermediate_hidden_states, strict=True):
        torch.testing.assert_close(logits, ours.class_head(hidden.transpose(0, 1)), rtol=1e-4, atol=1e-4)
    gradients = [
        torch.autograd.grad(last.square().mean(), mask_features)[0]
        for last in (masks[-1], expected.masks_queries_logits[-1])
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def _targets(counts, height=40, width=48):
    targets = []
    for count in counts:
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        for mask in masks:
            top, left = int(torch.randint(0, 25, ())), int(torch.randint(0, 30, ()))
            mask[top : top + 14, left : left + 17] = True
        targets.append(Target(masks, torch.randint(0, CLASSES, (count,))))
    return targets


def _predictions(images):
    masks = [torch.randn(images, QUERIES, 10, 12, requires_grad=True) for _ in range(3)]
    classes = [torch.randn(images, QUERIES, CLASSES + 1, requires_grad=True) for _ in range(3)]
    return masks, classes


COUNTS = [(2, 5), (0, 3, 1), (0, 0), (4,), (9, 2)]  # none at all, one image, more instances than queries


@pytest.mark.parametrize("counts", COUNTS)
def test_matching(counts, equal_points):
    torch.manual_seed(sum(counts) + len(counts))
    targets = _targets(counts)
    masks, classes = _predictions(len(counts))
    matches = match(masks, classes, targets, CriterionSettings(num_points=POINTS))
    theirs = Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, POINTS)
    starts = torch.tensor([0, *counts]).cumsum(0)
    for layer in range(3):
        pairs = theirs(masks[layer], classes[layer], [t.masks for t in targets], [t.labels for t in targets])
        for image, (queries, instances) in enumerate(pairs):
            own = (matches.layers == layer) & (matches.images == image)
            assert torch.equal(matches.queries[own], queries)
            assert torch.equal(matches.instances[own] - starts[image], instances)


@pytest.mark.parametrize("counts", COUNTS)
def test_criterion(counts, equal_points):
    torch.manual_seed(sum(counts) + len(counts))
    targets = _targets(counts)
    masks, classes = _predictions(len(counts))
    config = Mask2FormerConfig(num_labels=CLASSES, train_num_points=POINTS)
    theirs = Mask2FormerLoss(config, {})
    expected = theirs(
        masks[-1],
        classes[-1],
        [target.masks.float() for target in targets],
        [target.labels for target in targets],
        [
            {"masks_queries_logits": mask, "class_queries_logits": logits}
            for mask, logits in zip(masks[:-1], classes[:-1], strict=True)
        ],
    )
    criterion = MaskClassificationCriterion(CriterionSettings(num_points=POINTS), CLASSES)
    losses = criterion(StudentOutput(masks, classes, torch.zeros(1), torch.zeros(1)), targets)

    for name, other in {"class": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}.items():
        total = sum(value for key, value in expected.items() if key.startswith(other))
        torch.testing.assert_close(
            losses[name], total, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    own = torch.autograd.grad(sum(losses.values()), [*masks, *classes], materialize_grads=True)
    other = torch.autograd.grad(sum(expected.values()), [*masks, *classes], materialize_grads=True)
    for mine, reference in zip(own, other, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-6)
