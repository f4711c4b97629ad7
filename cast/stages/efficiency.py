"""What teacher and student cost an image on the device at hand, with random weights: the paper's Figure 2."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cast.artefacts import describe_run, digest, write_json
from cast.benchmarks.report import machine
from cast.config import EfficiencySettings, PretrainedModel, Provenance, StudentSettings
from cast.config_files import parse, read_yaml
from cast.data.cityscapes import CLASSES
from cast.data.coco import read_coco
from cast.errors import CastError
from cast.evaluation.efficiency import (
    Cost,
    measure_latencies,
    prediction,
    student_flops,
    student_parameters,
    teacher_flops,
    teacher_parameters,
    untrained_student,
    untrained_teacher,
)
from cast.reporting.efficiency import MODELS, REPORTED, efficiency_figure, efficiency_table, efficiency_text

SECTION = "figure2_efficiency"  # of paper_results.yaml


class EfficiencyRun(EfficiencySettings):
    """What is measured. Of a `pretrained` part without `architecture` the config.json is read, no weights."""

    title: str = "Cost of an image, teacher and student"
    provenance: Provenance = "measured"
    detector: PretrainedModel
    segmenter: PretrainedModel
    student: StudentSettings = StudentSettings()
    class_names: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(label.name for label in CLASSES)
    # Length of the shorter side after a resize before inference; native size when unset.
    teacher_short_side: PositiveInt | None = None
    student_short_side: PositiveInt | None = None
    paper_results: Path


def run(settings: dict[str, Any], data: Path | None, out: Path) -> None:
    """Measure both models, in turn, and write a figure, a table and their manifest.

    Reading and resizing the image file are data loading and not timed.

    Args:
        settings: of an `EfficiencyRun`.
        data: COCO JSON whose categories take the place of `class_names`, or None.
        out: PNG file to write; .pdf, .csv, .md and .manifest.json go beside it.

    Raises:
        CastError: settings that name or make no model, or a file of reported figures that lacks them.
    """
    started = time.time()
    checked = parse(EfficiencyRun, settings)
    if data is not None:
        checked = checked.model_copy(update={"class_names": tuple(read_coco(data).class_names)})
    reported = _read_reported(checked.paper_results)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    costs = _costs(checked, device)
    table, conditions = efficiency_table(costs, reported), _conditions(checked, device)
    text = efficiency_text(table, checked.title, checked.provenance, conditions)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out.with_suffix(".csv"), index=False)
    out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    efficiency_figure(table, checked.title, checked.provenance, conditions, out)
    digests = {str(checked.paper_results): digest(checked.paper_results)}
    write_json(out.with_suffix(".manifest.json"), describe_run("efficiency", settings, digests, started))
    print(text)


def _costs(checked: EfficiencyRun, device: torch.device) -> dict[str, Cost]:
    """Of both models."""
    names, boxes, student_settings = checked.class_names, checked.boxes, checked.student
    parts = (checked.detector, checked.segmenter)
    for_teacher = _image(checked.image_size, checked.teacher_short_side)
    for_student = _image(checked.image_size, checked.student_short_side)
    # First: quick, and finds what is wrong with the settings.
    flops = {
        "teacher": teacher_flops(*parts, names, _size(for_teacher), boxes),
        "student": student_flops(student_settings, len(names), _size(for_student)),
    }
    teacher = untrained_teacher(*parts, names, boxes).to(device)
    student = untrained_student(student_settings, len(names)).to(device)
    parameters = {"teacher": teacher_parameters(teacher), "student": student_parameters(student)}
    runs = {
        "teacher": prediction(teacher, for_teacher.to(device), boxes, checked.precision),
        "student": prediction(student, for_student.to(device), boxes, checked.precision),
    }
    latencies = measure_latencies(runs, checked.repeats, device)
    return {model: Cost(parameters[model], flops[model], latencies[model]) for model in MODELS}


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _image(size: tuple[int, int], short_side: int | None) -> Tensor:
    """A random image (3, H, W), resized as the images of a data set are."""
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    return image if short_side is None else F.resize(image, [short_side], antialias=True)


def _conditions(checked: EfficiencyRun, device: torch.device) -> str:
    height, width = checked.image_size
    words = [f"{height} × {width} pixels", f"{checked.boxes} instances", "batch of 1", checked.precision]
    for model, short_side in zip(
        MODELS, (checked.teacher_short_side, checked.student_short_side), strict=True
    ):
        if short_side is not None:
            words.append(f"{model} at short side {short_side}")
    words.append(machine())
    if device.type == "cpu":
        threads = torch.get_num_threads()
        words.append("one thread" if threads == 1 else f"{threads} threads")
    return ", ".join(words)


def _read_reported(path: Path) -> dict[str, dict[str, float]]:
    """The paper's figures of both models."""
    section: Any = read_yaml(path).get(SECTION)
    try:
        return {model: {key: float(section[model][key]) for key in REPORTED} for model in MODELS}
    except (KeyError, TypeError, ValueError):
        raise CastError(
            f"{path}: {SECTION} must give {', '.join(REPORTED)} of {' and '.join(MODELS)}; "
            "take the section from config/paper_results.yaml"
        ) from None
