"""What a model costs: counts known by hand, counts without weights, and the stage end to end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cast.config import PretrainedModel, StudentSettings
from cast.errors import CastError
from cast.evaluation import efficiency as measuring
from cast.evaluation.efficiency import (
    measure_latencies,
    prediction,
    student_flops,
    student_parameters,
    teacher_flops,
    teacher_parameters,
    untrained_student,
    untrained_teacher,
)
from cast.stages import efficiency
from cast.student.model import num_parameters
from cast.teacher.detector import Detector, random_detector
from cast.teacher.segmenter import random_segmenter

CONFIG = Path(__file__).parents[2] / "config"
NAMES = ["person", "traffic light", "car"]
SIZE = (64, 128)
CPU = torch.device("cpu")


def model(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONFIG / "models" / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


DETECTOR = PretrainedModel(architecture=model("detector_tiny"))
SEGMENTER = PretrainedModel(architecture=model("segmenter_tiny"))
STUDENT = StudentSettings(**model("student_tiny"))


# --- FLOPs --------------------------------------------------------------------------------------------------


def count_flops(run):
    """FLOPs of whatever `run` does; its models' parameters must not require gradients."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_a_multiply_add_counts_twice():
    layers = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.Flatten(2), nn.Linear(24, 7, bias=False))
    convolution = 4 * 6 * 5 * (3 * 3 * 3)  # outputs × the products of each
    linear = 5 * 24 * 7
    layers.requires_grad_(False)
    assert count_flops(lambda: layers(torch.rand(1, 3, 6, 8))) == 2 * (convolution + linear)


def test_the_students_count_without_weights_is_that_of_a_prediction():
    run = prediction(untrained_student(STUDENT, 3), torch.rand(3, *SIZE), 5, "32-true")
    assert sum(student_flops(STUDENT, 3, SIZE).values()) == count_flops(run) > 0


@pytest.mark.parametrize("boxes", [1, 40])  # 40: more than are decoded at a time
def test_the_teachers_count_without_weights_is_that_of_a_prediction(boxes):
    teacher = untrained_teacher(DETECTOR, SEGMENTER, NAMES, boxes)
    run = prediction(teacher, torch.rand(3, *SIZE), 5, "32-true")
    assert sum(teacher_flops(DETECTOR, SEGMENTER, NAMES, SIZE, boxes).values()) == count_flops(run) > 0


def test_the_students_flops_grow_with_the_image():
    plain = STUDENT.model_copy(update={"query_prior": False})
    small, large = student_flops(plain, 3, (64, 64)), student_flops(plain, 3, (64, 128))
    assert large["pixel decoder"] == 2 * small["pixel decoder"]  # convolutions
    assert large["encoder"] > 2 * small["encoder"]  # attention among all tokens
    tokens, width, depth = 64, 48, 4
    attention = 2 * 2 * depth * width * tokens**2  # scores and weighted values, two for each multiply-add
    prefix = large["encoder"] - 2 * small["encoder"]
    # Twice the tokens: the quadratic part adds 2 N² beyond doubling; the class token a little less or more.
    assert prefix == pytest.approx(2 * attention, rel=0.05)


def test_only_the_mask_decoder_works_for_each_box():
    few, many = (teacher_flops(DETECTOR, SEGMENTER, NAMES, SIZE, boxes) for boxes in (4, 8))
    grown = {part: many[part] / few[part] for part in few}
    assert grown.pop("segmenter: mask decoder") == pytest.approx(2, rel=0.05)
    assert set(grown.values()) == {1.0}


def test_counting_at_full_size_is_quick_and_holds_no_weights():
    detector = PretrainedModel(architecture=model("detector_swin_l"))
    segmenter = PretrainedModel(architecture=model("segmenter_hiera_l"))
    started = time.perf_counter()
    teacher = teacher_flops(detector, segmenter, NAMES, (512, 1024), 20)
    student = student_flops(StudentSettings(), 8, (512, 1024))
    assert time.perf_counter() - started < 60
    # Hiera-L at 1024 × 1024: 0.91 T multiply-adds whatever the image's size; ViT-S/14: 37 × 73 tokens.
    assert teacher["segmenter: image encoder"] / 2e12 == pytest.approx(0.91, abs=0.01)
    tokens = 37 * 73 + 1
    blocks = 12 * (12 * 384**2 * tokens + 2 * 384 * tokens**2)  # projections and MLP, attention
    assert student["encoder"] / 2 == pytest.approx(blocks + 37 * 73 * 3 * 14**2 * 384, rel=1e-3)


# --- parameters ---------------------------------------------------------------------------------------------


def test_parts_add_up():
    teacher, student = untrained_teacher(DETECTOR, SEGMENTER, NAMES, 2), untrained_student(STUDENT, 3)
    assert sum(teacher_parameters(teacher).values()) == num_parameters(teacher)
    assert sum(student_parameters(student).values()) == num_parameters(student)
    assert list(teacher_parameters(teacher)) == list(teacher_flops(DETECTOR, SEGMENTER, NAMES, SIZE, 2))
    assert list(student_parameters(student)) == list(student_flops(STUDENT, 3, SIZE))


def test_the_full_size_models_are_the_papers():
    detector = PretrainedModel(architecture=model("detector_swin_l"))
    segmenter = PretrainedModel(architecture=model("segmenter_hiera_l"))
    with torch.device("meta"):
        teacher = untrained_teacher(detector, segmenter, NAMES, 20)
        student = untrained_student(StudentSettings(), 8)
    assert num_parameters(teacher.detector) / 1e6 == pytest.approx(342.4, abs=0.1)
    assert num_parameters(teacher.segmenter) / 1e6 == pytest.approx(216.9, abs=0.1)
    assert num_parameters(student) / 1e6 == pytest.approx(51.7, abs=0.1)


def test_a_checkpoints_config_is_enough(tmp_path):
    detector, segmenter = random_detector(DETECTOR, NAMES), random_segmenter(SEGMENTER)
    detector.model.config.save_pretrained(tmp_path / "detector")
    segmenter.model.config.save_pretrained(tmp_path / "segmenter")
    # As the hub's checkpoints of SAM 2 say.
    path = tmp_path / "segmenter" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "sam2_video"}))
    again = random_detector(PretrainedModel(pretrained=str(tmp_path / "detector")), NAMES)
    random_detector(PretrainedModel(pretrained="absent", architecture=DETECTOR.architecture), NAMES)
    masks = random_segmenter(PretrainedModel(pretrained=str(tmp_path / "segmenter")))
    for one, other in ((detector, again), (segmenter, masks)):
        shapes = {name: value.shape for name, value in one.named_parameters()}
        assert shapes == {name: value.shape for name, value in other.named_parameters()}
    with pytest.raises(CastError, match="model_type is 'sam2_video', not"):
        random_detector(PretrainedModel(pretrained=str(tmp_path / "segmenter")), NAMES)


# --- latency ------------------------------------------------------------------------------------------------


def test_models_take_turns_and_warm_up_is_not_timed(monkeypatch):
    # Start and end of two runs, in a round of warm-up and two that are timed.
    seconds = iter([0, 9, 10, 19, 20.0, 20.04, 21.0, 21.01, 30.0, 30.02, 31.0, 31.03])
    monkeypatch.setattr(measuring, "_clock", lambda device: next(seconds))
    turns: list[str] = []
    runs = {name: lambda name=name: turns.append(name) for name in ("a", "b")}
    found = measure_latencies(runs, 2, CPU)
    assert turns == ["a", "b"] * 3
    assert found["a"].milliseconds == pytest.approx((40, 20))
    assert found["b"].milliseconds == pytest.approx((10, 30))
    assert (found["b"].median, found["b"].fps) == pytest.approx((20, 50))


def test_latency_is_that_of_the_run():
    assert measure_latencies({"a": lambda: time.sleep(0.01)}, 2, CPU)["a"].median >= 10


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_prediction_pays_for_every_mask(precision):
    image = torch.rand(3, *SIZE)
    teacher, student = untrained_teacher(DETECTOR, SEGMENTER, NAMES, 7), untrained_student(STUDENT, 3)
    for one in (teacher, student):
        (masks,) = prediction(one, image, 7, precision)()
        assert masks.shape == (7, *SIZE)


def test_the_detector_still_detects(monkeypatch):
    calls = []
    monkeypatch.setattr(Detector, "forward", lambda self, images: calls.append(images) or 1 / 0)
    teacher = untrained_teacher(DETECTOR, SEGMENTER, NAMES, 7)
    with pytest.raises(ZeroDivisionError):
        prediction(teacher, torch.rand(3, *SIZE), 7, "32-true")()
    assert len(calls) == 1


# --- the stage ----------------------------------------------------------------------------------------------

SETTINGS = {
    "title": "Toy models",
    "provenance": "demo",
    "detector": {"architecture": model("detector_tiny")},
    "segmenter": {"architecture": model("segmenter_tiny")},
    "student": model("student_tiny"),
    "class_names": NAMES,
    "image_size": list(SIZE),
    "boxes": 3,
    "repeats": 2,
    "student_short_side": 96,
    "paper_results": str(CONFIG / "paper_results.yaml"),
}


def test_the_stage_writes_everything(tmp_path):
    out = tmp_path / "figures" / "figure2.png"
    efficiency.run(SETTINGS, None, out)
    assert {path.name for path in out.parent.iterdir()} == {
        f"figure2.{suffix}" for suffix in ("png", "pdf", "csv", "md", "manifest.json")
    }
    assert Image.open(out).width >= 1000
    table = pd.read_csv(out.with_suffix(".csv"))
    for name, rows in table.groupby("model"):
        whole, parts = rows[rows["part"] == "all"].iloc[0], rows[rows["part"] != "all"]
        assert parts["parameters"].sum() == whole["parameters"]
        assert parts["flops"].sum() == whole["flops"]
        assert 0 < whole["latency_min_ms"] <= whole["latency_ms"] <= whole["latency_max_ms"]
        assert whole["fps"] == pytest.approx(1000 / whole["latency_ms"])
        assert whole["reported_params_m"] == {"teacher": 568, "student": 52}[name]
    student = table[table["model"] == "student"].iloc[0]
    assert student["flops"] == sum(student_flops(STUDENT, 3, (96, 192)).values()), "at its own short side"
    text = out.with_suffix(".md").read_text()
    assert text.startswith("Toy models: 64 × 128 pixels, 3 instances") and "student at short side 96" in text
    assert json.loads(out.with_suffix(".manifest.json").read_text())["settings"] == SETTINGS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": 0}, "boxes"),
        ({"precision": "half"}, "precision"),
        ({"class_names": []}, "class_names"),
        ({"colour": 1}, "colour: unknown key"),
        ({"student": model("student_tiny") | {"encoder": "no_such_model"}}, "timm has no model"),
        ({"detector": {"pretrained": "no/such folder"}}, "detector.pretrained"),
        ({"image_size": [16, 16]}, "queries"),
        ({"paper_results": "absent.yaml"}, "absent.yaml: cannot be read"),
        ({"paper_results": str(CONFIG / "tables.yaml")}, "tables.yaml: figure2_efficiency must give"),
    ],
)
def test_wrong_settings_are_named(tmp_path, change, message):
    with pytest.raises(CastError, match=message) as error:
        efficiency.run(SETTINGS | change, None, tmp_path / "figures" / "figure2.png")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "figures").exists()
