"""DPT, masked attention and the query prior."""

from __future__ import annotations

import math

import pytest
import torch

from cast.config import StudentSettings
from cast.student.dpt import DPT
from cast.student.fpn import FPN
from cast.student.query_prior import QueryPrior
from cast.student.transformer_decoder import Attention, TransformerDecoder, attention_mask, sine_positions


@pytest.mark.parametrize(("stride", "factor"), [(4, 1), (2, 2)])
def test_patch_maps_become_a_pyramid(stride, factor):
    decoder = DPT([16] * 4, [14] * 4, (8, 8, 12, 12), 10, 6, mask_stride=stride)
    maps = [torch.randn(1, 16, 6, 8) for _ in range(4)]
    mask_features, pyramid = decoder(maps, torch.zeros(1, 3, 84, 112))
    assert [tuple(p.shape) for p in pyramid] == [
        (1, 10, 3 * factor, 4 * factor),
        (1, 10, 6 * factor, 8 * factor),
        (1, 10, 12 * factor, 16 * factor),
    ]
    assert mask_features.shape == (1, 6, 21 * factor, 28 * factor)


@pytest.mark.parametrize("kind", ["dpt", "fpn"])
def test_stem_sees_the_pixels(kind):
    widths = {"widths": (4,) * 4} if kind == "dpt" else {}
    decoder = {"dpt": DPT, "fpn": FPN}[kind](
        [4] * 4, [8] * 4, feature_dim=4, mask_dim=4, mask_stride=2, convolutional_stem=True, **widths
    )
    maps = [torch.randn(1, 4, 8, 8) for _ in range(4)]
    dark, bright = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    bright[..., :8, :8] = 1
    change = (decoder(maps, bright)[0] - decoder(maps, dark)[0]).abs().sum(1)[0]
    assert change.shape == (32, 32)
    assert (change[:3, :3] > 0).all() and (change[10:, 10:] == 0).all()


def test_attention_mask_is_shared_and_never_empty():
    logits = torch.full((2, 3, 4, 4), -1.0)
    logits[0, 0, :2, :2] = 1.0
    logits[1, 2, 3, 3] = -float("inf")
    allowed = attention_mask(logits, (2, 2))
    assert allowed.shape == (2, 1, 3, 4)
    assert allowed[0, 0, 0].tolist() == [True, False, False, False]
    assert allowed[0, 0, 1].all() and allowed[1].all()


def test_attention_ignores_what_it_may_not_see():
    torch.manual_seed(0)
    attention = Attention(8, 2)
    query, memory = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    allowed = torch.tensor([True, True, False, True, False]).expand(1, 1, 3, 5)
    changed = memory.clone()
    changed[:, [2, 4]] += 10
    torch.testing.assert_close(
        attention(query, memory, memory, allowed), attention(query, changed, changed, allowed)
    )
    assert not torch.allclose(attention(query, memory, memory), attention(query, changed, changed))


def test_sine_positions_depend_on_relative_place():
    coarse, fine = (sine_positions(n, n, 16, torch.zeros(1)).view(n, n, 16) for n in (4, 8))
    torch.testing.assert_close(coarse[3, 1], fine[7, 3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coarse[0, :, :8], coarse[0, :1, :8].expand(4, 8))  # rows first


@pytest.mark.parametrize("layers", [1, 4])
def test_deep_supervision(layers):
    settings = StudentSettings(
        feature_dim=8,
        decoder_dim=16,
        decoder_heads=2,
        decoder_feedforward=8,
        decoder_layers=layers,
        num_queries=5,
    )
    pyramid = [torch.randn(2, 8, side, side) for side in (2, 4, 8)]
    masks, classes = TransformerDecoder(settings, 3)(pyramid, torch.randn(2, 16, 8, 8))
    assert len(masks) == len(classes) == layers + 1
    assert masks[0].shape == (2, 5, 8, 8) and classes[0].shape == (2, 5, 4)


@pytest.mark.parametrize(("queries", "grid"), [(25, (5, 5)), (30, (5, 6)), (7, (1, 7))])
def test_prior_grid(queries, grid):
    assert QueryPrior(queries, 4, 8).grid == grid


@pytest.mark.parametrize("size", [(20, 20), (13, 31)])
def test_prior_starts_at_its_cell(size):
    offsets = QueryPrior(6, 4, 8).mask_offsets(torch.randn(2, 6, 8), size)
    assert offsets.shape == (2, 6, *size) and torch.equal(offsets[0], offsets[1])
    for query, offset in enumerate(offsets[0]):
        row, column = divmod(int(offset.flatten().argmax()), size[1])
        assert (row * 2 // size[0], column * 3 // size[1]) == divmod(query, 3)


def test_prior_is_the_gaussian_that_the_query_asks_for():
    prior = QueryPrior(6, 4, 8)
    torch.nn.init.normal_(prior.gaussian.weight, std=0.2)
    queries = torch.randn(2, 6, 8)
    offsets, asked = prior.mask_offsets(queries, (10, 12)), prior.gaussian(queries)
    for image, query, y, x in [(0, 0, 0, 0), (0, 4, 7, 2), (1, 2, 3, 11), (1, 5, 9, 9)]:
        row, column, high, wide, peak = asked[image, query].tolist()
        down = (y + 0.5) / 5 - (query // 3 + 0.5 + row)  # 2 × 3 cells of 5 × 4 pixels
        right = (x + 0.5) / 4 - (query % 3 + 0.5 + column)
        expected = peak - down**2 / (2 * math.exp(high) ** 2) - right**2 / (2 * math.exp(wide) ** 2)
        assert offsets[image, query, y, x].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_prior_contents_come_from_the_cell():
    prior = QueryPrior(4, 2, 2)
    prior.project.weight.data.copy_(torch.eye(2))
    prior.project.bias.data.zero_()
    features = torch.zeros(1, 2, 6, 6)
    features[0, 0, 3:, :3] = 1
    assert prior.contents(features)[0, :, 0].tolist() == [0, 0, 1, 0]
