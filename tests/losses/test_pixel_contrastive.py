"""L_pxl: values by hand, the loop reference, gradient direction, invariances, degenerate inputs."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cast.config import ContrastiveSettings
from cast.losses.pixel_contrastive import (
    PixelContrastiveLoss,
    ProjectionHead,
    PseudoProbabilities,
    contrast,
    debias_vectors,
    dissimilarity,
    pseudo_probabilities,
    temperature_at,
)

_SPEC = importlib.util.spec_from_file_location(
    "reference_contrastive", Path(__file__).with_name("reference_contrastive.py")
)
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)

STRATEGIES = ("uniform", "mask_only", "class_only", "fusion")


def inputs(batch=2, size=(2, 3), queries=3, num_classes=2, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = size[0] * size[1]
    weak = F.normalize(torch.randn(batch, pixels, dim, generator=generator), dim=-1)
    strong = F.normalize(weak + 0.4 * torch.randn(batch, pixels, dim, generator=generator), dim=-1)
    pseudo = pseudo_probabilities(
        3 * torch.randn(batch, queries, *size, generator=generator),
        torch.randn(batch, queries, num_classes + 1, generator=generator).softmax(-1),
        torch.ones(batch, queries, dtype=torch.bool),
        size,
    )
    return weak.requires_grad_(), strong, pseudo


def build(sampling="fusion", **changes):
    return PixelContrastiveLoss(ContrastiveSettings(**changes), sampling)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_value_by_hand():
    weak = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None].expand(2, 4, 2).contiguous()
    _, _, pseudo = inputs(size=(2, 2))
    result = build("uniform")(weak, weak, pseudo, temperature=0.5)
    # s⁺ = 2; of the 7 negatives 3 have s⁻ = 2 (own image) and 4 have s⁻ = 0.
    assert result.loss.item() == pytest.approx(math.log(4 + 4 * math.exp(-2)), abs=1e-6)
    assert result.negatives.shape == (8, 7)


@pytest.mark.parametrize("cross_image_masks", [False, True])
@pytest.mark.parametrize("sampling", STRATEGIES)
def test_value_and_gradient_equal_the_reference(sampling, cross_image_masks):
    weak, strong, pseudo = inputs()
    loss = build(sampling, cross_image_masks=cross_image_masks, num_negatives=4, anchor_chunk=5)
    result = loss(weak, strong, pseudo, 0.2, generator=seeded())
    (gradient,) = torch.autograd.grad(result.loss, weak)
    expected = reference.contrastive_loss(
        weak.flatten(0, 1), strong.flatten(0, 1), result.anchors, result.negatives, 0.2
    )
    (expected_gradient,) = torch.autograd.grad(expected, weak)
    assert result.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)


def test_negatives_follow_the_strategy():
    """Two instances in each image: `fusion` leaves the anchor's own out, `uniform` does not."""
    masks = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).repeat(2, 1, 1)
    classes = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).repeat(2, 1, 1)
    weak, strong, _ = inputs(size=(2, 2))
    pseudo = PseudoProbabilities(masks, classes)
    own = {"fusion": 0, "class_only": 0, "uniform": 8}  # own-instance pixels among all 8 × 7 pairs: 1 each
    for sampling, expected in own.items():
        count = 7 if sampling == "uniform" else 4  # the 4 pixels of the other class, in both images
        result = build(sampling, num_negatives=count)(weak, strong, pseudo, 0.2, generator=seeded())
        same = result.negatives // 2 == result.anchors[:, None] // 2
        assert same.sum() == expected, sampling


def test_gradient_pulls_the_positive_and_pushes_the_negatives():
    weak, strong, _ = inputs(batch=1, size=(1, 4))
    rows, others = weak[0].detach().requires_grad_(), strong[0]
    anchors, negatives = torch.tensor([0]), torch.tensor([[1, 2]])
    loss, positive, negative = contrast(rows, others, anchors, negatives, 0.2)
    (gradient,) = torch.autograd.grad(loss, rows)
    moved = rows.detach() - 0.01 * gradient
    _, positive_after, negative_after = contrast(moved, others, anchors, negatives, 0.2)
    assert positive_after[0] > positive[0]
    assert negative_after.mean() < negative.mean()
    assert gradient[3].abs().sum() == 0  # neither anchor nor negative
    assert gradient[1].abs().sum() > 0  # the negatives learn too


def test_no_gradient_to_the_strong_view_nor_through_the_sampler():
    weak, strong, pseudo = inputs()
    strong.requires_grad_()
    pseudo = PseudoProbabilities(pseudo.masks.requires_grad_(), pseudo.classes.requires_grad_())
    build(num_negatives=4)(weak, strong, pseudo, 0.2, generator=seeded()).loss.backward()
    assert weak.grad.abs().sum() > 0
    assert strong.grad is None
    assert pseudo.masks.grad is None
    assert pseudo.classes.grad is None


def test_order_of_images_and_of_queries_does_not_matter():
    weak, strong, pseudo = inputs(batch=3)
    loss = build()  # R = 200: all the candidates
    before = loss(weak, strong, pseudo, 0.1).loss
    turned = PseudoProbabilities(pseudo.masks.flip(0)[..., [2, 0, 1]], pseudo.classes.flip(0))
    after = loss(weak.flip(0), strong.flip(0), turned, 0.1).loss
    assert after.item() == pytest.approx(before.item(), abs=1e-5)


def test_chunk_size_changes_neither_value_nor_gradient():
    weak, strong, pseudo = inputs()
    found = []
    for chunk in (1, 5, 512):
        result = build(anchor_chunk=chunk)(weak, strong, pseudo, 0.1)
        found.append((result.loss, torch.autograd.grad(result.loss, weak)[0]))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0], atol=1e-6, rtol=0)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-6, rtol=0)


def test_a_subset_of_anchors_is_unbiased():
    weak, strong, pseudo = inputs()
    whole = build()(weak, strong, pseudo, 0.1).loss
    generator, subset = seeded(1), build(num_anchors=3)
    losses = torch.stack([subset(weak, strong, pseudo, 0.1, generator=generator).loss for _ in range(400)])
    losses = losses.detach()
    assert losses.std() > 0
    assert abs(losses.mean() - whole) < 4 * losses.std() / math.sqrt(len(losses))


def test_candidate_pool_bounds_the_negatives():
    weak, strong, pseudo = inputs()
    result = build(candidate_pool=5, num_negatives=200)(weak, strong, pseudo, 0.1, generator=seeded())
    assert len(result.anchors) == 12
    assert result.negatives.unique().numel() <= 5
    assert result.negatives.shape[1] == 4


def test_a_candidate_pool_draws_in_the_same_proportions():
    weak, strong, pseudo = inputs(batch=2, size=(4, 5), queries=2)
    loss, generator = build(candidate_pool=25, num_negatives=1, num_anchors=None), seeded(2)
    with torch.no_grad():
        calls = [loss(weak, strong, pseudo, 0.1, generator=generator).negatives[0] for _ in range(1500)]
    counts = torch.cat(calls).bincount(minlength=40).double()[1:]
    everything = torch.arange(40)
    s_deb = dissimilarity(debias_vectors(pseudo, "fusion", False), everything[:1], everything)[0, 1:].double()
    likely = s_deb * len(calls) / s_deb.sum() >= 5  # chi-square's rule of thumb
    expected = s_deb[likely] / s_deb[likely].sum() * counts[likely].sum()
    assert likely.sum() > 10
    assert chisquare(counts[likely].numpy(), expected.numpy()).pvalue > 1e-3
    assert chisquare(counts[likely].numpy()).pvalue < 1e-9  # uniform would be told apart


def test_padding_neither_anchors_nor_repels():
    weak, strong, pseudo = inputs()
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[0, 3:] = valid[1, 0] = False
    result = build()(weak, strong, pseudo, 0.1, valid=valid)
    assert torch.equal(result.anchors, valid.flatten().nonzero().squeeze(1))
    assert valid.flatten()[result.negatives].all()
    (gradient,) = torch.autograd.grad(result.loss, weak)
    assert gradient[~valid].abs().sum() == 0


def test_finite_and_in_float32_under_bfloat16_autocast():
    weak, strong, pseudo = inputs(dim=128, size=(5, 5))
    strong = -weak.detach()  # the hardest case: positives opposite
    loss = build(num_negatives=20)
    plain = loss(weak, strong, pseudo, 0.07, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(weak, strong, pseudo, 0.07, generator=seeded())
    result.loss.backward()
    assert result.loss.dtype == torch.float32
    assert torch.equal(result.loss, plain.loss)
    assert torch.isfinite(weak.grad).all()
    half = loss(weak.bfloat16(), strong.bfloat16(), pseudo, 0.07, generator=seeded())
    assert half.loss.dtype == torch.float32
    assert torch.isfinite(half.loss)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    queries=st.integers(0, 3),
    sampling=st.sampled_from(STRATEGIES),
    changes=st.fixed_dictionaries(
        {
            "num_negatives": st.integers(1, 8),
            "anchor_chunk": st.integers(1, 6),
            "cross_image_masks": st.booleans(),
            "num_anchors": st.none() | st.integers(1, 6),
            "candidate_pool": st.none() | st.integers(1, 6),
        }
    ),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_any_shape_gives_a_finite_loss_and_proper_negatives(
    batch, size, queries, sampling, changes, seed, share
):
    weak, strong, pseudo = inputs(batch, size, queries, seed=seed)
    valid = torch.rand(weak.shape[:2], generator=seeded(seed)) < share
    result = build(sampling, **changes)(weak, strong, pseudo, 0.07, valid=valid, generator=seeded(seed))
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert result.loss >= 0
    assert torch.isfinite(weak.grad).all()
    pool = min(int(valid.sum()), changes["candidate_pool"] or 100)
    anchors = min(int(valid.sum()), changes["num_anchors"] or 100)
    assert result.negatives.shape == (anchors, min(changes["num_negatives"], max(pool - 1, 0)))
    assert (result.negatives != result.anchors[:, None]).all()
    assert valid.flatten()[result.negatives].all()
    in_order = result.negatives.sort(1).values
    assert (in_order[:, 1:] != in_order[:, :-1]).all()


def test_same_generator_same_negatives():
    weak, strong, pseudo = inputs(size=(6, 6))
    loss = build(num_negatives=3)
    first, second, third = (loss(weak, strong, pseudo, 0.1, generator=seeded(s)).negatives for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


class LargestTensor(TorchDispatchMode):
    """Notes the element count of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


def test_neither_all_pairs_nor_all_gathered_negatives_are_held():
    weak, strong, pseudo = inputs(size=(15, 20), dim=16)  # M = 600
    with LargestTensor() as largest:
        build(num_negatives=40, anchor_chunk=32)(weak, strong, pseudo, 0.1).loss.backward()
    assert largest.elements <= max(32 * 600, 600 * 41)  # a chunk against the pool, or R + 1 logits per anchor


def test_projection_head():
    head = ProjectionHead(5, 16)
    assert sum(p.numel() for p in head.parameters()) == 5 * 16 + 16 * 16 + 16 * 16
    features = torch.randn(2, 5, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = head(features)
    assert z.shape == (2, 12, 16)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 12))
    torch.testing.assert_close(z[1, 7], head(features[1:, :, 1:2, 3:4])[0, 0])  # pixel p = 1·4 + 3
    head(torch.zeros(1, 5, 2, 2)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_temperature_falls_linearly():
    contrastive = ContrastiveSettings()
    assert temperature_at(0, 101, contrastive) == pytest.approx(0.3)
    assert temperature_at(50, 101, contrastive) == pytest.approx(0.185)
    assert temperature_at(100, 101, contrastive) == pytest.approx(0.07)
    assert temperature_at(0, 1, contrastive) == pytest.approx(0.3)
