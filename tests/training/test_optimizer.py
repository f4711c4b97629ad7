import pytest
import torch
from torch import nn

from cast.config import TrainSettings
from cast.training.ema import build_ema
from cast.training.optimizer import build_optimizer, build_schedule, lr_factor


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.head = nn.Linear(3, 1)


def train_settings(**changes):
    return TrainSettings(**({"steps": 100, "image_size": (8, 8), "lr": 0.1, "weight_decay": 0.5} | changes))


def group_of(optimizer, parameter):
    (group,) = [group for group in optimizer.param_groups if any(p is parameter for p in group["params"])]
    return group


def test_longest_prefix_sets_the_rate_and_vectors_do_not_decay():
    model = Network()
    settings = train_settings(lr_scales={"encoder": 0.1, "encoder.1": 0.2})
    optimizer = build_optimizer(model, settings)
    weight, norm, head = model.encoder[0].weight, model.encoder[1].weight, model.head
    assert group_of(optimizer, weight)["lr"] == pytest.approx(0.01)
    assert group_of(optimizer, weight)["weight_decay"] == 0.5
    assert group_of(optimizer, norm)["lr"] == pytest.approx(0.02)
    assert group_of(optimizer, norm)["weight_decay"] == 0
    assert group_of(optimizer, head.weight)["lr"] == pytest.approx(0.1)
    assert group_of(optimizer, head.bias)["weight_decay"] == 0


def test_zero_scale_freezes_and_extra_parameters_join():
    model, head = Network(), nn.Linear(3, 3, bias=False)
    optimizer = build_optimizer(model, train_settings(lr_scales={"encoder": 0.0}), head.parameters())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in [*model.head.parameters(), *head.parameters()]}
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_prefix_without_a_parameter_is_an_error():
    with pytest.raises(ValueError, match="decoder"):
        build_optimizer(Network(), train_settings(lr_scales={"decoder": 0.1}))


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("polynomial", 0, 1.0),
        ("polynomial", 50, 0.5**0.9),
        ("polynomial", 100, 0.0),
        ("cosine", 50, 0.5),
        ("multistep", 69, 1.0),
        ("multistep", 70, 0.1),
        ("multistep", 95, 0.01),
        ("constant", 99, 1.0),
    ],
)
def test_schedules(schedule, step, expected):
    settings = train_settings(schedule=schedule, milestones=(70, 90))
    assert lr_factor(step, settings) == pytest.approx(expected)


def test_warm_up_is_linear_and_reaches_the_schedule():
    settings = train_settings(schedule="constant", warmup_steps=9)
    assert [lr_factor(step, settings) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def test_scheduler_scales_every_group():
    optimizer = build_optimizer(Network(), train_settings(lr_scales={"encoder": 0.1}))
    schedule = build_schedule(optimizer, train_settings(schedule="cosine"))
    for _ in range(50):
        optimizer.step()
        schedule.step()
    assert sorted({round(group["lr"], 6) for group in optimizer.param_groups}) == [0.005, 0.05]


def test_ema_averages_weights():
    model = nn.Linear(1, 1, bias=False)
    ema = build_ema(model, 0.9)
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update_parameters(model)
    assert ema.module.weight.item() == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3)
    assert build_ema(model, None) is None
