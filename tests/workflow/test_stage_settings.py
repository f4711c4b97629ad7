"""What the workflow hands to a stage is what the stage reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cast.config import Settings
from cast.config_files import load, parse
from cast.plan import Plan
from cast.stages import (
    bias,
    curves,
    distill_student,
    efficiency,
    evaluate,
    foundation,
    overlay,
    prepare,
    pseudo_label,
    split,
    tabulate,
    training,
)

FOLDER = Path(__file__).parents[2] / "config"
PLAN = Plan(load(FOLDER / "demo.yaml"), "config")

READERS = [
    ("split", {}, split.SplitRun),
    ("foundation", {"part": "teacher/detector"}, foundation.TeacherPart),
    ("foundation", {"part": "teacher/segmenter"}, foundation.TeacherPart),
    ("foundation", {"part": "student_encoder"}, foundation.EncoderPart),
    ("adapt_teacher", {"recipe": "teacher_cast"}, training.TeacherRun),
    ("pseudo_label", {"recipe": "teacher_cast"}, pseudo_label.PseudoLabelRun),
    ("distill_student", {"recipe": "student_cast_transfer"}, distill_student.DistillRun),
    ("refine_student", {"recipe": "student_cast_refined"}, training.StudentRun),
    ("evaluate", {"recipe": "foundation"}, evaluate.EvaluateRun),
    ("evaluate", {"recipe": "student_cast_refined"}, evaluate.EvaluateRun),
    ("tabulate", {"table": "table1"}, tabulate.TabulateRun),
    ("curves", {"figure": "figure3"}, curves.CurvesRun),
    ("bias", {"figure": "figure5"}, bias.BiasRun),
    ("efficiency", {"figure": "figure2"}, efficiency.EfficiencyRun),
    ("overlay", {}, overlay.OverlayRun),
]


@pytest.mark.parametrize(("stage", "wildcards", "kind"), READERS)
def test_a_stage_reads_its_settings(stage: str, wildcards: dict[str, str], kind: type[Settings]):
    given = json.loads(json.dumps(PLAN.stage_settings(stage, wildcards)))
    understood = parse(kind, given).model_dump(mode="json")
    assert {key: understood[key] for key in given} == given


@pytest.mark.parametrize("domain", ["source", "target"])
def test_prepare_reads_its_settings(domain: str):
    given = json.loads(json.dumps(PLAN.stage_settings("prepare", {"domain": domain})))
    assert parse(prepare.PrepareRun, {"data": given}).data.model_dump(mode="json") == given
    assert given["domain"] == domain
