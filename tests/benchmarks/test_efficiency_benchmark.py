"""The benchmark of the full-size models: its settings are whole, and its section says what is met."""

from __future__ import annotations

from cast.benchmarks.efficiency import full_size, render
from cast.config_files import parse
from cast.evaluation.efficiency import Cost, Latency
from cast.reporting.efficiency import efficiency_table
from cast.stages.efficiency import EfficiencyRun

FIGURES = {"params_m": 1.0, "gflops": 1.0, "latency_ms": 1.0, "fps": 1.0}
REPORTED = {"teacher": FIGURES, "student": FIGURES}


def test_the_settings_are_the_papers():
    checked = parse(EfficiencyRun, full_size(3))
    assert checked.image_size == (1024, 2048) and checked.repeats == 3 and checked.provenance == "measured"
    assert checked.class_names == (
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    )  # fmt: skip
    assert checked.student.encoder.startswith("vit_small_patch14_dinov2")


def test_the_section_says_what_is_met_and_what_is_missed():
    costs = {
        "teacher": Cost({"a": 1200}, {"a": 4000}, Latency((46.0,))),
        "student": Cost({"b": 100}, {"b": 1000}, Latency((10.0,))),
    }
    lines = render("table\n", efficiency_table(costs, REPORTED)).splitlines()
    assert lines[0].startswith("`make bench-efficiency`, ") and lines[1] == "table"
    assert "12.00** times fewer parameters; goal ≥ 11.00: met" in lines[-3]
    assert "4.00** times fewer FLOPs; goal ≥ 4.40: MISSED" in lines[-2]
    assert "4.60** times as many images per second; goal ≥ 4.60: met" in lines[-1]
