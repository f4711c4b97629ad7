"""The training loop of every stage."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cast.config import ContrastiveSettings, InferenceSettings, TrainSettings
from cast.data.batch import Batch
from cast.errors import CastError
from cast.losses.contrastive_diagnostics import diagnose
from cast.losses.objective import Objective, Terms
from cast.losses.pixel_contrastive import temperature_at
from cast.progress import Progress
from cast.training.ema import build_ema
from cast.training.online_labels import OnlineLabeller
from cast.training.optimizer import build_optimizer, build_schedule
from cast.training.recomputation import recomputed

Batches = Iterator[Batch] | Iterator[Batch | None] | None
Model = TypeVar("Model", bound=nn.Module)


def train(
    model: Model,
    objective: Objective,
    labelled: Batches,
    unlabelled: Batches,
    settings: TrainSettings,
    contrastive: ContrastiveSettings,
    label: str,
    log_path: Path,
    inference: InferenceSettings | None = None,
) -> Model:
    """Minimise J for `settings.steps` optimiser steps.

    Args:
        model: the network inside `objective.learner`; parameter-name prefixes refer to it.
        objective: J with its weights.
        labelled: endless batches of D_l, or None.
        unlabelled: endless batches of D_u with pseudo-labels, or None; with `settings.online` it may give
            None for a step of the burn-in, and what follows the burn-in is labelled here.
        settings: schedule, optimiser, precision.
        contrastive: temperature schedule of L_pxl.
        label: what the progress lines are headed with.
        log_path: CSV of the losses and diagnostics over steps; TensorBoard's event file goes beside it.
        inference: how the model predicts, for `settings.online`.

    Returns:
        The model with its averaged weights (EMA) where the settings ask for them, in eval mode on the CPU.

    Raises:
        CastError: the loss is not finite.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=settings.precision)
    optimizer = build_optimizer(model, settings, objective.head.parameters() if objective.head else ())
    schedule = build_schedule(optimizer, settings)
    online = settings.online
    ema = build_ema(model, settings.ema_decay if online is None else online.ema_decay)
    wrapped, optimizer = fabric.setup(objective, optimizer)
    if ema is not None:
        ema.to(fabric.device)
    wrapped.train()
    labeller, burn_in = None, 0
    if online is not None:
        assert ema is not None and inference is not None
        labeller, burn_in = OnlineLabeller(ema.module, online, inference), online.burn_in_steps
    log = TrainingLog(log_path, label, settings)
    with recomputed(model, settings.recompute):
        for step in range(settings.steps):
            temperature = temperature_at(step, settings.steps, contrastive)
            for micro_step in range(settings.accumulate):
                batches = [_on_device(source, fabric.device) for source in (labelled, unlabelled)]
                if step >= burn_in:
                    batches[1] = _labelled_online(batches[1], labeller, fabric)
                with fabric.no_backward_sync(wrapped, enabled=micro_step < settings.accumulate - 1):
                    terms: Terms = wrapped(batches[0], batches[1], temperature)
                    fabric.backward(terms.total / settings.accumulate)
            _update(fabric, wrapped, optimizer, settings.clip_norm)
            log.add(step, terms, batches, optimizer.param_groups[-1]["lr"])
            schedule.step()
            # Online labels begin with a copy of the weights that the burn-in ends with.
            if ema is not None and step + 1 >= burn_in:
                ema.update_parameters(model)
    trained = model if ema is None else cast(Model, ema.module)
    return trained.cpu().eval()


def _labelled_online(batch: Batch | None, labeller: OnlineLabeller | None, fabric: Fabric) -> Batch | None:
    """A batch of D_u with pseudo-labels made now, where the run makes its own; None where it gets none."""
    if labeller is None or batch is None:
        return batch
    with fabric.autocast():
        return labeller(batch)


def _update(fabric: Fabric, wrapped: Any, optimizer: Any, clip_norm: float | None) -> None:
    """One optimiser step with the gradients at hand, whose norm over all parameters is clipped."""
    if clip_norm is not None:
        fabric.clip_gradients(wrapped, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _on_device(source: Batches, device: torch.device) -> Batch | None:
    batch = next(source) if source is not None else None
    return None if batch is None else batch.to(device)


class TrainingLog:
    """Progress lines; and a CSV with one row per interval of `diagnostics_every` steps, for TensorBoard too.

    Losses are means over the interval. Margin and false-negative rates (Proposition 3.1) are those of the
    interval's last step.
    """

    def __init__(self, path: Path, label: str, settings: TrainSettings) -> None:
        self.path, self.settings = path, settings
        self.progress = Progress(label, settings.steps, settings.log_seconds)
        self.recent: list[dict[str, Tensor]] = []
        self.rows: list[dict[str, float]] = []
        self.board = SummaryWriter(str(path.parent))

    def add(self, step: int, terms: Terms, batches: list[Batch | None], lr: float) -> None:
        """Record one step; print and write where an interval ends."""
        self.recent.append(terms.named)
        done = step + 1
        if self.progress.due(done):
            latest = _means(self.recent)
            self._check_finite(latest, done, batches)
            shown = "  ".join(
                f"{name} {latest[name]:.3f}" for name in ("sup", "semi", "pxl") if name in latest
            )
            self.progress.report(done, f"{shown}  lr {lr:.1e}")
        if done % self.settings.diagnostics_every == 0 or done == self.settings.steps:
            row = {"step": done, "lr": lr} | _means(self.recent)
            self._check_finite(row, done, batches)
            self.rows.append(row | diagnose(terms))
            self.recent = []
            self._write()
        if done == self.settings.steps:
            self.board.close()

    def _check_finite(self, means: dict[str, float], step: int, batches: list[Batch | None]) -> None:
        broken = [name for name, value in means.items() if value != value or abs(value) == float("inf")]
        if broken:
            images = [image for batch in batches if batch is not None for image in batch.image_ids]
            raise CastError(
                f"{self.progress.label}: loss '{broken[0]}' is not finite by step {step} (latest image ids: "
                f"{images}); lower lr or clip_norm, or check these images"
            )

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with self.path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(self.rows)
        latest = dict(self.rows[-1])
        step = int(latest.pop("step"))
        for name, value in latest.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()


def _means(named: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of every term over the steps that had it."""
    names = dict.fromkeys(name for terms in named for name in terms)
    return {
        name: torch.stack([terms[name].float() for terms in named if name in terms]).mean().item()
        for name in names
    }
