"""Margin and false-negative rate on cases counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cast.data.batch import Batch, Target
from cast.losses.contrastive_diagnostics import diagnose, false_negative_rate, instance_id_map, margin
from cast.losses.objective import Terms
from cast.losses.pixel_contrastive import ContrastiveResult


def result(anchors, negatives, positive=(1.0,), negative=((0.0,),)):
    return ContrastiveResult(
        torch.tensor(0.5),
        torch.tensor(anchors),
        torch.tensor(negatives),
        torch.tensor(positive),
        torch.tensor(negative),
    )


def test_margin_by_hand():
    found = result([0, 1], [[2], [3]], positive=(0.9, 0.7), negative=((0.5,), (-0.1,)))
    assert margin(found) == pytest.approx((1 - 0.2) - (1 - 0.8))


def test_margin_without_negatives_is_nan():
    found = ContrastiveResult(
        torch.tensor(0.0), torch.tensor([0]), torch.zeros(1, 0).long(), torch.ones(1), torch.zeros(1, 0)
    )
    assert math.isnan(margin(found))


def test_false_negative_rate_by_hand():
    ids = torch.tensor([[0, 0, 1, -1], [0, 0, -1, -1]])
    # Anchor 0: negatives 1 (own instance), 4 (instance 0 of the other image), 2.
    # Anchor 3: background, left out.
    found = result([0, 2, 3], [[1, 4, 2], [0, 1, 3], [7, 6, 2]])
    assert false_negative_rate(found, ids) == pytest.approx(1 / 6)


def test_false_negative_rate_without_instances_is_nan():
    assert math.isnan(false_negative_rate(result([0, 1], [[1], [0]]), torch.full((1, 4), -1)))


def test_instance_map_takes_the_majority_of_each_cell():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2, :2] = True  # all of the first cell
    masks[1, :2, 2:] = True  # three quarters of the second cell
    masks[1, 0, 2] = False
    masks[1, 3, 3] = True  # a quarter of the last one
    maps = instance_id_map([Target(masks, torch.tensor([0, 1])), no_instances()], (2, 2))
    assert maps.tolist() == [[0, 1, -1, -1], [-1, -1, -1, -1]]
    valid = torch.tensor([[False, True, True, True], [True] * 4])
    masked = instance_id_map([Target(masks, torch.tensor([0, 1])), no_instances()], (2, 2), valid)
    assert masked[0].tolist() == [-1, 1, -1, -1]


def no_instances():
    return Target(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))


def one_instance_batch():
    image = torch.zeros(1, 3, 4, 4)
    target = Target(torch.ones(1, 4, 4, dtype=torch.bool), torch.tensor([0]))
    return Batch(image, image, [target], torch.ones(1, 4, 4, dtype=torch.bool), [1])


def test_labelled_images_are_judged_by_the_truth_and_unlabelled_ones_by_their_pseudo_labels():
    both = {"sup": one_instance_batch(), "semi": one_instance_batch()}
    # Anchor 0 (labelled): one of its two negatives lies in its own instance. Anchor 4 (unlabelled): both do.
    found = result([0, 4], [[1, 5], [5, 6]], positive=(0.8, 0.8), negative=((0.2, 0.2), (0.2, 0.2)))
    expected = {"margin": 0.6, "false_negative_rate": 0.5, "false_negative_rate_pseudo": 1.0}
    assert diagnose(Terms(torch.tensor(0.0), {}, found, (2, 2), both)) == pytest.approx(expected)


def test_only_rates_of_images_that_were_there_are_reported():
    found = result([0], [[1]])
    only = {"semi": one_instance_batch()}
    assert diagnose(Terms(torch.tensor(0.0), {}, found, (2, 2), only)).keys() == {
        "margin",
        "false_negative_rate_pseudo",
    }
    assert diagnose(Terms(torch.tensor(0.0), {})) == {}
