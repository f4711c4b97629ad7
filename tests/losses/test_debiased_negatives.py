"""s_deb and the sampling of negatives, against values by hand, the loop reference and exact distributions."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from cast.losses import debiased_negatives
from cast.losses.debiased_negatives import (
    PseudoProbabilities,
    debias_vectors,
    dissimilarity,
    pseudo_probabilities,
    sample_negatives,
)

_SPEC = importlib.util.spec_from_file_location(
    "reference_contrastive", Path(__file__).with_name("reference_contrastive.py")
)
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)

STRATEGIES = ("uniform", "mask_only", "class_only", "fusion")


def random_pseudo(seed=0, batch=3, queries=4, num_classes=2, size=(2, 3)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, queries, *size, generator=generator)
    classes = torch.randn(batch, queries, num_classes + 1, generator=generator).softmax(-1)
    valid = torch.rand(batch, queries, generator=generator) < 0.8
    valid[-1] = False  # one image without any query
    return logits, classes, valid, pseudo_probabilities(logits, classes, valid, size)


def all_pairs(pseudo, sampling, cross_image_masks):
    pixels = torch.arange(pseudo.masks.shape[0] * pseudo.masks.shape[1])
    return dissimilarity(debias_vectors(pseudo, sampling, cross_image_masks), pixels, pixels)


def two_images_of_four_pixels():
    """Queries (a, b), classes (car, no-object); both images: a car, another car, a car, nothing."""
    masks = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0.5, 0.5]]).repeat(2, 1, 1)
    classes = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]]).repeat(2, 1, 1)
    return PseudoProbabilities(masks, classes)


@pytest.mark.parametrize(
    ("sampling", "cross_image_masks", "other_car", "same_car_abroad", "other_car_abroad"),
    [
        ("uniform", False, 1.0, 1.0, 1.0),
        ("mask_only", False, 1.0, 1.0, 1.0),
        ("mask_only", True, 1.0, 0.0, 1.0),
        ("class_only", False, 0.0, 0.0, 0.0),
        ("fusion", False, 0.5, 0.0, 0.0),
        ("fusion", True, 0.5, 0.0, 0.5),
    ],
)
def test_dissimilarity_by_hand(sampling, cross_image_masks, other_car, same_car_abroad, other_car_abroad):
    s_deb = all_pairs(two_images_of_four_pixels(), sampling, cross_image_masks)
    assert s_deb[0, 1].item() == pytest.approx(other_car, abs=1e-6)
    assert s_deb[0, 2].item() == (1.0 if sampling == "uniform" else 0.0)
    assert s_deb[0, 4].item() == pytest.approx(same_car_abroad, abs=1e-6)
    assert s_deb[0, 5].item() == pytest.approx(other_car_abroad, abs=1e-6)


@pytest.mark.parametrize("cross_image_masks", [False, True])
@pytest.mark.parametrize("sampling", STRATEGIES)
def test_dissimilarity_equals_the_reference(sampling, cross_image_masks):
    *_, pseudo = random_pseudo()
    s_deb = all_pairs(pseudo, sampling, cross_image_masks)
    for first, second in itertools.product(range(len(s_deb)), repeat=2):
        expected = reference.dissimilarity(
            pseudo.masks, pseudo.classes, first, second, sampling, cross_image_masks
        )
        assert s_deb[first, second].item() == pytest.approx(expected, abs=1e-5), (first, second)


def test_dissimilarity_of_a_chunk_against_a_pool_is_a_block_of_the_whole():
    *_, pseudo = random_pseudo()
    anchors, candidates = torch.tensor([1, 4, 7, 16]), torch.tensor([0, 4, 5, 8, 9, 17])
    block = dissimilarity(debias_vectors(pseudo, "fusion", False), anchors, candidates)
    whole = all_pairs(pseudo, "fusion", False)
    torch.testing.assert_close(block, whole[anchors][:, candidates], atol=1e-6, rtol=0)


def test_pseudo_probabilities_equal_the_reference():
    logits, classes, valid, pseudo = random_pseudo(seed=1)
    for b in range(len(valid)):
        masks, fused = reference.fused_classes(logits[b].flatten(1), classes[b], valid[b])
        torch.testing.assert_close(pseudo.masks[b].double(), masks, atol=1e-6, rtol=0)
        torch.testing.assert_close(pseudo.classes[b].double(), fused, atol=1e-6, rtol=0)


def test_an_image_without_queries_is_wholly_no_object():
    for queries in (0, 3):
        pseudo = pseudo_probabilities(
            torch.randn(2, queries, 8, 8),
            torch.rand(2, queries, 3),
            torch.zeros(2, queries, dtype=torch.bool),
            (2, 4),
        )
        assert pseudo.masks.shape == (2, 8, queries)
        assert pseudo.masks.sum() == 0
        assert torch.equal(pseudo.classes, torch.tensor([0.0, 0, 1]).expand(2, 8, 3))


def test_invalid_queries_may_hold_anything():
    logits, classes, valid, clean = random_pseudo(seed=2)
    logits[~valid], classes[~valid] = torch.nan, torch.inf
    dirty = pseudo_probabilities(logits, classes, valid, (2, 3))
    assert torch.equal(dirty.masks, clean.masks)
    assert torch.equal(dirty.classes, clean.classes)


def test_mask_logits_are_resized_to_the_feature_map():
    logits = torch.full((1, 2, 8, 8), -9.0)
    logits[0, 0, :, :4] = logits[0, 1, :, 4:] = 9.0
    classes = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]])
    pseudo = pseudo_probabilities(logits, classes, torch.ones(1, 2, dtype=torch.bool), (2, 2))
    torch.testing.assert_close(pseudo.masks[0, :, 0], torch.tensor([1.0, 0, 1, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(pseudo.classes[0, :, 0], torch.tensor([0.9, 0.2, 0.9, 0.2]), atol=1e-3, rtol=0)


def set_probabilities(weights, count):
    """Exact probability of each set drawn one after the other, without replacement, ∝ weights."""
    found = {}
    for draw in itertools.permutations(range(len(weights)), count):
        probability, rest = 1.0, sum(weights)
        for item in draw:
            probability, rest = probability * weights[item] / rest, rest - weights[item]
        key = tuple(sorted(draw))
        found[key] = found.get(key, 0.0) + probability
    return found


EVEN = [0.9, 0.5, 1.0, 0.1, 0.7, 0.4, 0.8, 0.6, 0.3, 1.0, 0.9, 0.7]
UNEVEN = [1.0, 1.0, 0.2, 0.1, *[0.0] * 34]  # forgetting what the proposals gave would show here


# Slack 1.3: proposals alone mostly suffice. 0.3: most anchors are finished by the race. 1e9: the race alone.
@pytest.mark.parametrize(("slack", "weights"), [(1.3, EVEN), (0.3, EVEN), (0.3, UNEVEN), (1e9, EVEN)])
@pytest.mark.parametrize("count", [1, 2])
def test_sampling_without_replacement_is_proportional_to_dissimilarity(monkeypatch, slack, weights, count):
    monkeypatch.setattr(debiased_negatives, "_PROPOSAL_SLACK", slack)
    rows = 60_000
    s_deb = torch.tensor([*weights, -1.0, 0.0]).repeat(rows, 1)
    drawn = sample_negatives(s_deb, count, torch.Generator().manual_seed(5)).sort(1).values
    expected = set_probabilities([weight for weight in weights if weight > 0], count)
    counts = dict.fromkeys(expected, 0)
    for key in map(tuple, drawn.tolist()):
        counts[key] += 1  # a KeyError here: something forbidden, or twice the same, was drawn
    frequencies = [expected[key] * rows for key in expected]
    assert chisquare(list(counts.values()), frequencies).pvalue > 1e-3


@pytest.mark.parametrize("slack", [0.3, 1.3])
def test_zero_dissimilarity_is_drawn_uniformly_and_only_when_the_others_run_out(monkeypatch, slack):
    monkeypatch.setattr(debiased_negatives, "_PROPOSAL_SLACK", slack)
    s_deb = torch.tensor([0.0, 0.4, 0.0, -1.0, 0.001, 0.0]).repeat(9000, 1)
    drawn = sample_negatives(s_deb, 3, torch.Generator().manual_seed(6))
    assert (drawn == 1).any(1).all()
    assert (drawn == 4).any(1).all()
    thirds = torch.bincount(drawn.flatten(), minlength=6)[[0, 2, 5]]
    assert thirds.sum() == 9000
    assert chisquare(thirds.numpy()).pvalue > 1e-3


def test_identical_pixels_fall_back_to_uniform_sampling():
    same = PseudoProbabilities(
        torch.tensor([0.3, 0.7]).expand(1, 6, 2), torch.tensor([0.6, 0.4]).expand(1, 6, 2)
    )
    row = all_pairs(same, "fusion", False)[:1]
    assert (row == 0).all()
    row[0, 0] = -1.0
    drawn = sample_negatives(row.repeat(8000, 1), 1, torch.Generator().manual_seed(7))
    counts = torch.bincount(drawn.flatten(), minlength=6)
    assert counts[0] == 0
    assert chisquare(counts[1:].numpy()).pvalue > 1e-3


def test_few_unlike_candidates_in_a_large_pool_are_all_found():
    s_deb = torch.zeros(5, 2000)
    s_deb[:, 100:110] = 0.2
    drawn = sample_negatives(s_deb, 10, torch.Generator().manual_seed(8))
    assert torch.equal(drawn.sort(1).values, torch.arange(100, 110).expand(5, 10))
