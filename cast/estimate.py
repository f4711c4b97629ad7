"""What a target of the workflow would cost, before anything runs: jobs, steps, images, GPU-hours.

Hours are FLOPs over a throughput that the user names. FLOPs are those of the forward passes as torch counts
them (cast/evaluation/efficiency.py); a step of training costs three of them, forward and backward, and what
the second view of L_pxl and online labels add. Losses, matching, optimiser and loading are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

import pandas as pd

from cast.config import (
    Ade20kFolder,
    CityscapesFolder,
    CocoFolder,
    Data,
    InferenceSettings,
    Recipe,
    Size,
    StudentSettings,
    SyntheticScenes,
    TrainSettings,
)
from cast.config_files import read_yaml, resolve
from cast.data import ade20k, cells, cityscapes, streets
from cast.data.coco import read_coco
from cast.errors import CastError
from cast.evaluation.efficiency import student_flops, teacher_flops
from cast.jobs import Job, JobList
from cast.plan import FOUNDATION, STUDENT_PART, TRAINING_STAGES, Plan

FORWARD_AND_BACKWARD = 3  # passes: the backward one computes gradients of inputs and of weights
BOXES = 20  # prompted in an image at inference
ORDER = (
    "prepare", "split", "foundation", "adapt_teacher", "pseudo_label", "distill_student", "refine_student",
    "evaluate", "tabulate", "curves", "bias", "efficiency", "overlay",
)  # fmt: skip
COLUMNS = ["rule", "jobs", "optimiser steps", "images", "PFLOP", "GPU-hours", "longest job, hours"]


@dataclass(frozen=True)
class DataSize:
    """How much data there is.

    Attributes:
        train: training images.
        validation: validation images.
        image_size: height and width, the median where they differ.
        class_names: C names.
    """

    train: int
    validation: int
    image_size: Size
    class_names: tuple[str, ...]


def data_size(data: Data, root: Path | None) -> DataSize:
    """The size of a data set: as configured, as published, or as its COCO file says.

    Raises:
        CastError: a COCO file is missing or broken.
    """
    if isinstance(data, SyntheticScenes):
        names = (streets if data.format == "streets" else cells).CLASS_NAMES
        return DataSize(data.train_images, data.validation_images, data.image_size, tuple(names))
    if isinstance(data, CityscapesFolder):
        names = tuple(label.name for label in cityscapes.CLASSES)
        train, validation = cityscapes.PUBLISHED.values()
        return DataSize(train, validation, cityscapes.IMAGE_SIZE, names)
    if isinstance(data, Ade20kFolder):
        names = tuple(entry["name"] for entry in ade20k.categories())
        train, validation = ade20k.PUBLISHED.values()
        return DataSize(train, validation, ade20k.TYPICAL_SIZE, names)
    assert isinstance(data, CocoFolder) and root is not None
    whole = read_coco(root / data.annotations)
    heights, widths = zip(*((image.height, image.width) for image in whole.images), strict=True)
    size = (round(median(heights)), round(median(widths)))
    held_out, train = data.validation_images, len(whole.images)
    if data.validation_annotations is not None:
        held_out = len(read_coco(root / data.validation_annotations).images)
    else:
        train -= held_out
    return DataSize(train, held_out, size, tuple(whole.class_names))


class Estimate:
    """Costs of the jobs behind a target.

    Args:
        plan: the experiment.
        target: a target of the workflow.

    Raises:
        CastError: a model's description or the data's annotations cannot be had.
    """

    def __init__(self, plan: Plan, target: str) -> None:
        self.plan, self.config = plan, plan.config
        self.jobs = list(JobList(plan, target).jobs)
        self._forward: dict[tuple[str, str | None, Size, int], dict[str, int]] = {}

    @cached_property
    def target_data(self) -> DataSize:
        """The data set that is labelled, learnt and evaluated."""
        return data_size(self.config.data, self.config.data_root)

    def table(self, tflops: float) -> pd.DataFrame:
        """One row per rule and a total, `COLUMNS`.

        Args:
            tflops: 10¹² FLOPs a second that the device does in practice.
        """
        hour = tflops * 1e12 * 3600
        rows = []
        for stage in sorted({job.stage for job in self.jobs}, key=ORDER.index):
            costs = [self.cost(job) for job in self.jobs if job.stage == stage]
            steps, images, flops = (sum(column) for column in zip(*costs, strict=True))
            longest = max(cost for *_, cost in costs)
            rows.append([stage, len(costs), steps, images, flops / 1e15, flops / hour, longest / hour])
        frame = pd.DataFrame(rows, columns=COLUMNS)
        sums = frame[COLUMNS[1:-1]].sum()
        return pd.concat([frame, pd.DataFrame([["total", *sums, frame[COLUMNS[-1]].max()]], columns=COLUMNS)])

    def cost(self, job: Job) -> tuple[int, int, int]:
        """Optimiser steps, images and FLOPs of one job; nothing for those that run no model."""
        if job.stage in TRAINING_STAGES:
            return self._training(job.subject)
        if job.stage == "foundation":
            return self._foundation(job.subject)
        if job.stage == "pseudo_label":
            return self._inference(job.subject, self.unlabelled_images(job))
        if job.stage == "evaluate":
            return self._inference(job.subject, self.target_data.validation)
        return 0, 0, 0

    def unlabelled_images(self, job: Job) -> int:
        """Images of a split that keep no labels."""
        split = self.plan.split({"budget": job.budget})
        total = self.target_data.train
        if split.labelled_list is None:
            return total - round(split.labelled_fraction * total)
        lines = Path(self.plan.config_folder, split.labelled_list).read_text(encoding="utf-8").splitlines()
        return total - sum(bool(line.strip()) for line in lines)

    def _training(self, name: str) -> tuple[int, int, int]:
        recipe, train = self.config.recipes[name], self.config.train_settings(name)
        parts = self.forward(recipe.role, self._variant(name), train.image_size)
        whole = sum(parts.values())
        labelled, unlabelled = batch_sizes(recipe, train)
        flops = FORWARD_AND_BACKWARD * whole * (labelled + unlabelled)
        if recipe.lambda_pxl > 0:
            contrastive = self.config.contrastive_settings(name)
            view = second_view(parts, recipe.role, contrastive.feature_map == "finest")
            flops += round(view * contrastive.image_share * (labelled + FORWARD_AND_BACKWARD * unlabelled))
        flops *= train.steps
        if train.online is not None:
            flops += whole * unlabelled * (train.steps - train.online.burn_in_steps)
        images = train.steps * train.accumulate * (labelled + unlabelled)
        return train.steps, images, flops * train.accumulate

    def _variant(self, name: str) -> str | None:
        """The student that a recipe trains, or that the one it starts from has built."""
        recipe = self.config.recipes[name]
        if recipe.stage == "refine_student" and recipe.start in self.config.recipes:
            return self._variant(recipe.start)
        return recipe.student

    def _foundation(self, part: str) -> tuple[int, int, int]:
        name = self.plan.part({"part": part})
        train: TrainSettings | None = getattr(self.config.foundation, name)
        if train is None:
            return 0, 0, 0
        variant = part.removeprefix(STUDENT_PART).removeprefix("_") or None
        role = "student" if name == STUDENT_PART else "teacher"
        parts = self.forward(role, variant if role == "student" else None, train.image_size)
        whole = sum(flops for key, flops in parts.items() if role == "student" or key.startswith(name))
        images = train.steps * train.accumulate * train.labelled_batch
        return train.steps, images, FORWARD_AND_BACKWARD * whole * images

    def _inference(self, name: str, images: int) -> tuple[int, int, int]:
        role = self.plan.role(name)
        inference: InferenceSettings = getattr(self.config.inference, role)
        size, windows = seen_size(self.target_data.image_size, inference)
        variant = self._variant(name) if role == "student" and name != FOUNDATION else None
        return 0, images, images * windows * sum(self.forward(role, variant, size).values())

    def forward(self, role: str, variant: str | None, size: Size) -> Mapping[str, int]:
        """FLOPs of one forward pass of a teacher or student, by part."""
        key = (role, variant, size, len(self.target_data.class_names))
        if key not in self._forward:
            names, config = self.target_data.class_names, self.config
            if role == "student":
                settings: StudentSettings = config.student_settings(variant)
                self._forward[key] = student_flops(settings, len(names), size)
            else:
                self._forward[key] = teacher_flops(config.detector, config.segmenter, names, size, BOXES)
        return self._forward[key]


def describe(configuration: Path, target: str, data_root: Path | None, tflops: float) -> str:
    """A table of the jobs, steps and GPU-hours of a target, in words for a terminal.

    Args:
        configuration: YAML file of an experiment.
        target: a target of the workflow.
        data_root: folder of the dataset; official data sets need none, their sizes are known.
        tflops: 10¹² FLOPs a second that the device does in practice.

    Raises:
        CastError: the configuration is wrong, or there is no such target.
    """
    settings = read_yaml(configuration)
    if data_root is not None or "data_root" not in settings:
        settings["data_root"] = str(data_root or configuration.parent)
    config = resolve(settings, configuration.parent, str(configuration))
    if isinstance(config.data, CocoFolder) and data_root is None:
        raise CastError("data_root: set it to the folder of the dataset (--data-root DIR)")
    plan = Plan(config, str(configuration.parent))
    if target not in plan.targets:
        lacking = config.lacking(target) if target in {*config.tables, *config.figures} else None
        needs = f"it needs {lacking}" if lacking else f"give one of {', '.join(plan.targets)}"
        raise CastError(f"--target {target}: not a target of {configuration}; {needs}")
    table = Estimate(plan, target).table(tflops)
    formats = dict.fromkeys(COLUMNS[4:], lambda value: f"{value:,.2f}" if value > 1 else f"{value:.2g}")
    counts = dict.fromkeys(COLUMNS[1:4], "{:,.0f}".format)
    seeds = ", ".join(map(str, config.seeds))
    return "\n".join(
        [
            f"{config.name}: {target}, seeds {seeds}, nothing reused",
            "",
            table.to_string(index=False, formatters=formats | counts),
            "",
            f"Hours at {tflops:g} TFLOP/s (--tflops). Counted are the models' passes, not losses, matching,",
            "optimiser and loading, which add to them.",
        ]
    )


def batch_sizes(recipe: Recipe, train: TrainSettings) -> tuple[int, int]:
    """Labelled and unlabelled images of a batch (cast/stages/training.py fills it the same way)."""
    labelled, unlabelled = train.labelled_batch, train.unlabelled_batch
    if recipe.pseudo_labels is None and recipe.online is None:
        return labelled + unlabelled, 0
    return (labelled, unlabelled) if recipe.labelled else (0, labelled + unlabelled)


def second_view(parts: Mapping[str, int], role: str, finest: bool) -> int:
    """FLOPs of the part of a model that sees the second view of L_pxl."""
    if role == "teacher":
        return parts["segmenter: image encoder"]
    return parts["encoder"] + (parts["pixel decoder"] if finest else 0)


def seen_size(image_size: Size, inference: InferenceSettings) -> tuple[Size, int]:
    """What the model sees of an image of that size: the size of a pass, and how many passes."""
    height, width = image_size
    if inference.short_side is not None:
        scale = inference.short_side / min(height, width)
        height, width = round(scale * height), round(scale * width)
    if inference.tile is None:
        return (height, width), 1
    tile, stride = inference.tile, inference.tile_stride or inference.tile // 2
    windows = [1 + math.ceil(max(side - tile, 0) / stride) for side in (height, width)]
    return (tile, tile), windows[0] * windows[1]
