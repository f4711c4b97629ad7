"""Point sampling and Hungarian matching: known values, invariances, degenerate inputs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cast.config import CriterionSettings
from cast.data.batch import Target
from cast.losses.matching import match, pair_costs, sample_logits, sample_masks

SETTINGS = CriterionSettings(num_points=400)


def quadrants(count: int = 4, side: int = 16) -> Target:
    """One mask per quarter of the image, classes 0, 1, 2, 0."""
    half = side // 2
    masks = torch.zeros(4, side, side, dtype=torch.bool)
    for index, mask in enumerate(masks):
        row, column = divmod(index, 2)
        mask[row * half : (row + 1) * half, column * half : (column + 1) * half] = True
    return Target(masks[:count], torch.tensor([0, 1, 2, 0])[:count])


def perfect(target: Target, order: list[int], classes: int = 3, queries: int = 6):
    """Logits whose query order[i] predicts instance i and whose other queries predict nothing."""
    masks = torch.full((1, queries, 16, 16), -20.0)
    logits = torch.full((1, queries, classes + 1), -20.0)
    logits[..., -1] = 20.0
    for instance, query in enumerate(order):
        masks[0, query][target.masks[instance]] = 20.0
        logits[0, query, -1] = -20.0
        logits[0, query, target.labels[instance]] = 20.0
    return masks, logits


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [5, 0, 3, 1], [2, 4, 1, 0]])
def test_finds_the_queries_that_predict_the_instances(order):
    target = quadrants()
    masks, classes = perfect(target, order)
    matches = match([masks, masks], [classes, classes], [target], SETTINGS)
    for layer in (0, 1):
        own = matches.layers == layer
        assert dict(zip(matches.instances[own].tolist(), matches.queries[own].tolist(), strict=True)) == dict(
            enumerate(order)
        )


def test_the_class_decides_between_equal_masks():
    target = Target(quadrants().masks[:1], torch.tensor([2]))
    masks = torch.zeros(1, 3, 16, 16)
    classes = torch.zeros(1, 3, 4)
    classes[0, 1, 2] = 3.0
    assert match([masks], [classes], [target], SETTINGS).queries.tolist() == [1]


def test_images_without_instances_and_with_too_many():
    none = Target(torch.zeros(0, 16, 16, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    many = quadrants()
    masks, classes = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4)
    matches = match([masks], [classes], [none, many], SETTINGS)
    assert matches.images.tolist() == [1, 1, 1]
    assert sorted(matches.queries.tolist()) == [0, 1, 2]
    assert len(set(matches.instances.tolist())) == 3
    assert len(match([masks], [classes], [none, none], SETTINGS).queries) == 0


def test_a_broken_query_is_matched_last():
    target = quadrants(2)
    masks, classes = perfect(target, [0, 1], queries=3)
    masks[0, 1], classes[0, 1] = torch.nan, torch.inf
    matches = match([masks], [classes], [target], SETTINGS)
    assert 1 not in matches.queries.tolist()
    everything = torch.full_like(masks, torch.nan)
    assert len(match([everything], [classes], [target], SETTINGS).queries) == 2


def test_pair_costs_by_hand():
    # One query, logit 0 everywhere: p = ½ at four points, of which the mask holds one.
    costs = pair_costs(
        torch.zeros(1, 1, 4),
        torch.zeros(1, 1, 3),
        torch.tensor([[[1.0, 0, 0, 0]]]),
        torch.tensor([[1]]),
        SETTINGS,
    )
    dice = 1 - (2 * 0.5 + 1) / (4 * 0.5 + 1 + 1)
    assert costs.item() == pytest.approx(2 * -1 / 3 + 5 * 0.6931472 + 5 * dice, rel=1e-5)


def test_mask_samples_equal_grid_sample():
    torch.manual_seed(0)
    masks, points = torch.rand(3, 9, 13) > 0.5, torch.rand(3, 500, 2)
    points[:, :4] = torch.tensor([[0.0, 0], [1, 1], [0, 1], [1, 0]])  # the border blends with zeros outside
    expected = F.grid_sample(masks[:, None].float(), 2 * points[:, :, None] - 1, align_corners=False)[
        :, 0, :, 0
    ]
    torch.testing.assert_close(sample_masks(masks, points), expected, rtol=1e-5, atol=1e-5)


def test_logit_samples_at_cell_centres():
    logits = torch.arange(6.0).view(1, 1, 2, 3)
    points = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.75], [1 / 3, 0.25]]])
    torch.testing.assert_close(sample_logits(logits, points), torch.tensor([[[0.0, 5.0, 0.5]]]))
