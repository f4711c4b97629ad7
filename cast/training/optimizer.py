"""AdamW with parameter groups by name, and the learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from cast.config import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings, extra: Iterable[nn.Parameter] = ()) -> AdamW:
    """AdamW over the model's parameters, grouped by learning-rate factor and weight decay.

    The factor is that of the longest prefix in `settings.lr_scales` that matches the parameter's name; a
    factor of 0 freezes. Vectors (biases, norms, embeddings of one token) take no weight decay.

    Args:
        model: names of its parameters are what the prefixes match.
        settings: learning rate, weight decay and factors.
        extra: further parameters at factor 1 (the projection head).

    Raises:
        ValueError: a prefix matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in settings.lr_scales:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"lr_scales: no parameter's name starts with '{prefix}'")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = _scale_of(name, settings.lr_scales)
        if scale == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups.setdefault((scale, _decay_of(parameter, settings)), []).append(parameter)
    for parameter in extra:
        groups.setdefault((1.0, _decay_of(parameter, settings)), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": settings.lr * scale, "weight_decay": decay}
            for (scale, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        # One kernel for all parameters. With a gradient scaler it would unscale itself, after the clipping.
        fused=settings.precision != "16-mixed",
    )


def build_schedule(optimizer: AdamW, settings: TrainSettings) -> LambdaLR:
    """The schedule of `settings` as a factor on every group's learning rate."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, settings))


def lr_factor(step: int, settings: TrainSettings) -> float:
    """Factor on the learning rate at optimiser step `step` (0-based), with linear warm-up."""
    warmup = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    progress = min(step / settings.steps, 1.0)
    if settings.schedule == "polynomial":
        return warmup * (1.0 - progress) ** settings.poly_power
    if settings.schedule == "cosine":
        return warmup * 0.5 * (1.0 + math.cos(math.pi * progress))
    if settings.schedule == "multistep":
        return warmup * 0.1 ** sum(step >= milestone for milestone in settings.milestones)
    return warmup


def _scale_of(name: str, scales: dict[str, float]) -> float:
    matches = [prefix for prefix in scales if name.startswith(prefix)]
    return scales[max(matches, key=len)] if matches else 1.0


def _decay_of(parameter: nn.Parameter, settings: TrainSettings) -> float:
    return settings.weight_decay if parameter.ndim > 1 else 0.0
