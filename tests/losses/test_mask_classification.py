"""The set criterion: known values, perfect predictions, gradients, invariances, degenerate inputs."""

from __future__ import annotations

import pytest
import torch
import torch.distributed

from cast.config import CriterionSettings
from cast.data.batch import Target
from cast.errors import CastError
from cast.losses.mask_classification import (
    MaskClassificationCriterion,
    dice_loss,
    instance_count,
    semantic_map,
    uncertain_points,
)
from cast.student.model import StudentOutput

CLASSES, SIDE = 3, 16


def box_target(boxes, labels):
    """Rectangles (top, left, bottom, right) as masks."""
    masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Target(masks, torch.tensor(labels, dtype=torch.int64))


TWO = box_target([(0, 0, 8, 8), (8, 4, 16, 16)], [0, 2])
NONE = box_target([], [])


def output(masks, classes, layers=1, semantic=None):
    return StudentOutput([masks] * layers, [classes] * layers, torch.zeros(1), torch.zeros(1), semantic)


def perfect(targets, queries=5, sharpness=50.0):
    masks = torch.full((len(targets), queries, SIDE, SIDE), -sharpness)
    classes = torch.zeros(len(targets), queries, CLASSES + 1)
    classes[..., -1] = sharpness
    for image, target in enumerate(targets):
        for query, (mask, label) in enumerate(zip(target.masks, target.labels, strict=True)):
            masks[image, query][mask] = sharpness
            classes[image, query] = 0
            classes[image, query, label] = sharpness
    return masks, classes


def criterion(**settings):
    return MaskClassificationCriterion(CriterionSettings(**{"num_points": 300, **settings}), CLASSES)


def test_known_value():
    # Every logit zero: p = ½ everywhere, the class distribution is uniform over C + 1.
    full = Target(torch.ones(1, SIDE, SIDE, dtype=torch.bool), torch.tensor([1]))
    losses = criterion()(output(torch.zeros(1, 4, SIDE, SIDE), torch.zeros(1, 4, CLASSES + 1)), [full])
    assert losses["class"].item() == pytest.approx(torch.log(torch.tensor(4.0)).item(), rel=1e-5)
    assert losses["mask"].item() == pytest.approx(0.693147, rel=1e-5)
    # Points near the border blend with the outside; the mask then holds a little less than all 300.
    assert losses["dice"].item() == pytest.approx(1 - 301 / 451, abs=0.02)


def test_dice_by_hand():
    truth = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    losses = dice_loss(torch.tensor([[0.0, 0, 0, 0], [-99, -99, -99, -99]]), truth)
    torch.testing.assert_close(losses, torch.tensor([1 - 3 / 5, 0.0]))


def test_weights_by_name():
    criterion_ = criterion(class_weight=3.0, mask_weight=7.0, dice_weight=11.0)
    weighted = criterion_.weighted({name: torch.tensor(1.0) for name in ("class", "mask", "dice")})
    assert {name: value.item() for name, value in weighted.items()} == {"class": 3, "mask": 7, "dice": 11}


def test_a_perfect_prediction_costs_almost_nothing():
    targets = [TWO, NONE]
    masks, classes = perfect(targets)
    exact = criterion(importance_sample_ratio=0.0)(output(masks, classes, layers=3), targets)
    wrong = criterion()(output(-masks, classes.flip(-1), layers=3), targets)
    assert exact["class"] < 1e-6
    # Bilinear samples between cells of opposite sign are all that remains.
    assert exact["dice"] < 0.3 and exact["mask"] < 0.05 * wrong["mask"]
    assert all(wrong[name] > exact[name] for name in exact)


def test_layers_add_up():
    torch.manual_seed(0)
    masks, classes = perfect([TWO], sharpness=2.0)
    once, thrice = (criterion(num_points=20000)(output(masks, classes, n), [TWO]) for n in (1, 3))
    for name in once:
        assert thrice[name].item() == pytest.approx(3 * once[name].item(), rel=0.05)


def test_gradients_point_to_the_target():
    masks = torch.zeros(1, 5, SIDE, SIDE, requires_grad=True)
    classes = torch.zeros(1, 5, CLASSES + 1, requires_grad=True)
    one = box_target([(4, 4, 12, 12)], [1])
    losses = criterion(num_points=2000)(output(masks, classes), [one])
    (losses["mask"] + losses["dice"] + losses["class"]).backward()
    query = int(masks.grad.abs().sum((0, 2, 3)).argmax())
    assert (masks.grad[0, query][5:11, 5:11] < 0).all()  # descent raises the inside
    assert (masks.grad[0, query][:3] > 0).all()
    assert (classes.grad[0, query].argmin(), classes.grad[0, query, 1] < 0) == (1, True)
    others = [index for index in range(5) if index != query]
    assert (masks.grad[0, others] == 0).all()  # unmatched queries learn no mask
    assert (classes.grad[0, others, -1] < 0).all()


def test_order_of_queries_and_instances_does_not_matter():
    torch.manual_seed(0)
    masks, classes = perfect([TWO], sharpness=1.0)
    masks, classes = masks + 0.1 * torch.randn_like(masks), classes + 0.1 * torch.randn_like(classes)
    order = torch.tensor([3, 1, 4, 0, 2])
    swapped = Target(TWO.masks.flip(0), TWO.labels.flip(0))
    judge = criterion(num_points=20000)
    first = judge(output(masks, classes), [TWO])
    second = judge(output(masks[:, order], classes[:, order]), [swapped])
    for name in first:
        assert second[name].item() == pytest.approx(first[name].item(), rel=0.03)


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("targets", [[NONE], [NONE, NONE], [TWO], [NONE, TWO]])
def test_degenerate_batches_stay_finite_and_differentiable(targets, queries):
    masks = torch.randn(len(targets), queries, 4, 4, requires_grad=True)
    classes = torch.randn(len(targets), queries, CLASSES + 1, requires_grad=True)
    losses = criterion()(output(masks, classes, layers=2), targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.isfinite(masks.grad).all() and torch.isfinite(classes.grad).all()
    if all(len(target.labels) == 0 for target in targets):
        assert losses["mask"] == losses["dice"] == 0
        assert (classes.grad[..., -1] < 0).all()  # every query learns that it holds no object


def test_no_object_counts_less():
    masks, classes = perfect([TWO], sharpness=2.0)
    classes[0, 4] = torch.tensor([9.0, 0, 0, 0])  # an unmatched query sure of class 0
    light, heavy = (criterion(no_object_weight=w)(output(masks, classes), [TWO])["class"] for w in (0.1, 1.0))
    assert light < heavy


def test_most_points_lie_where_the_mask_is_uncertain():
    logits = torch.linspace(-9, 9, SIDE).expand(2, SIDE, SIDE)
    points = uncertain_points(logits, CriterionSettings(num_points=400))
    assert points.shape == (2, 400, 2) and (points >= 0).all() and (points <= 1).all()
    near = ((points[..., 0] - 0.5).abs() < 0.25).float().mean()
    assert near > 0.75


def test_semantic_loss_and_its_map():
    truth = semantic_map(TWO, (8, 8), CLASSES)
    assert (truth[0, 0], truth[4, 7], truth[0, 7]) == (0, 2, CLASSES)
    logits = torch.nn.functional.one_hot(truth, CLASSES + 1).permute(2, 0, 1)[None] * 30.0
    masks, classes = perfect([TWO])
    judge = criterion(semantic_weight=1.0)
    assert judge(output(masks, classes, semantic=logits), [TWO])["semantic"] < 1e-6
    assert judge(output(masks, classes, semantic=-logits), [TWO])["semantic"] > 1
    with pytest.raises(CastError, match="semantic_head"):
        judge(output(masks, classes), [TWO])


def test_half_precision_predictions():
    masks, classes = perfect([TWO])
    judge = criterion()
    with torch.autocast("cpu", torch.bfloat16):
        losses = judge(output(masks.bfloat16(), classes.bfloat16()), [TWO])
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())


def test_instances_are_counted_across_ranks(monkeypatch):
    assert instance_count([TWO, NONE], torch.device("cpu")) == 2
    assert instance_count([NONE], torch.device("cpu")) == 1
    # Stands for a second rank that holds three instances.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(3))
    assert instance_count([TWO], torch.device("cpu")) == 2.5


def random_output():
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(1, 5, SIDE, SIDE, generator=generator)
    return output(masks, torch.randn(1, 5, CLASSES + 1, generator=generator), layers=2)


def losses_of(predicted, target):
    torch.manual_seed(0)  # the same points
    return {name: loss.item() for name, loss in criterion()(predicted, [target]).items()}


def weighted(target, weights):
    return Target(target.masks, target.labels, torch.tensor(weights))


def test_weights_scale_what_each_pseudo_instance_adds():
    """PAIS: class and mask terms are linear in an instance's class score and predicted mask IoU."""
    predicted = random_output()
    plain = losses_of(predicted, TWO)
    assert losses_of(predicted, weighted(TWO, [[1.0, 1.0], [1.0, 1.0]])) == plain
    none = losses_of(predicted, weighted(TWO, [[0.0, 0.0], [0.0, 0.0]]))
    half = losses_of(predicted, weighted(TWO, [[0.5, 0.25], [0.5, 0.25]]))
    assert none["mask"] == none["dice"] == 0
    assert 0 < none["class"] < plain["class"]  # what queries without an instance add
    for name, share in (("class", 0.5), ("mask", 0.25), ("dice", 0.25)):
        expected = none[name] + share * (plain[name] - none[name])
        assert half[name] == pytest.approx(expected, rel=1e-5)


def test_weights_belong_to_their_own_instance():
    predicted = random_output()
    first, second, both = (
        losses_of(predicted, weighted(TWO, weights))
        for weights in ([[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]])
    )
    none = losses_of(predicted, weighted(TWO, [[0.0, 0.0], [0.0, 0.0]]))
    for name in ("class", "mask", "dice"):
        assert first[name] + second[name] - none[name] == pytest.approx(both[name], rel=1e-5)
        assert first[name] != pytest.approx(second[name], rel=1e-3)
