"""Plans of cost: the jobs are Snakemake's, the sums those of the models' own counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cast.config import InferenceSettings
from cast.config_files import load
from cast.errors import CastError
from cast.estimate import Estimate, batch_sizes, describe, second_view, seen_size
from cast.jobs import Job
from cast.plan import Plan

CONFIG = Path(__file__).parents[1] / "config"
PLAN = Plan(load(CONFIG / "demo.yaml"), str(CONFIG))


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    return Estimate(PLAN, "table1")


def test_batches_are_filled_as_in_training():
    recipes, train = PLAN.config.recipes, PLAN.config.distill_student
    assert batch_sizes(recipes["student_supervised_finetune"], train) == (12, 0)
    assert batch_sizes(recipes["student_cast_transfer"], train) == (4, 8)
    assert batch_sizes(recipes["student_pais"], train) == (4, 8)
    assert batch_sizes(recipes["student_vemulapalli"], train) == (0, 12)


def test_a_run_costs_its_passes(estimate: Estimate):
    config = PLAN.config
    parts = estimate.forward("student", None, config.distill_student.image_size)
    whole, steps = sum(parts.values()), config.distill_student.steps
    cost = {name: estimate.cost(Job("distill_student", f"student_{name}")) for name in (
        "supervised_finetune", "cast_transfer", "pseudo_labels", "guided_distillation"
    )}  # fmt: skip
    assert cost["supervised_finetune"] == (steps, 12 * steps, 3 * 12 * steps * whole)
    assert cost["pseudo_labels"] == cost["supervised_finetune"]
    # L_pxl: the strong view of 4 labelled images forward, the weak one of 8 others also backward; of half.
    view = 0.5 * parts["encoder"] * (4 + 3 * 8)
    assert cost["cast_transfer"][2] == pytest.approx(steps * (3 * 12 * whole + view), rel=1e-6)
    assert config.distill_student.online is not None
    online = steps - config.distill_student.online.burn_in_steps
    assert cost["guided_distillation"][2] == cost["pseudo_labels"][2] + online * 8 * whole


def test_inference_costs_a_pass_for_each_window(estimate: Estimate):
    images = PLAN.config.data.validation_images
    whole = sum(estimate.forward("teacher", None, (96, 96)).values())
    assert estimate.cost(Job("evaluate", "foundation")) == (0, images, images * whole)
    assert estimate.cost(Job("pseudo_label", "teacher_cast", 0, "_5percent"))[1] == 532
    assert seen_size((100, 200), InferenceSettings()) == ((100, 200), 1)
    assert seen_size((100, 200), InferenceSettings(short_side=50)) == ((50, 100), 1)
    assert seen_size((100, 200), InferenceSettings(tile=64, tile_stride=32)) == ((64, 64), 3 * 6)
    assert seen_size((40, 40), InferenceSettings(tile=64)) == ((64, 64), 1)


def test_the_second_view_passes_what_l_pxl_reads():
    parts = {"encoder": 5, "pixel decoder": 3, "transformer decoder": 2}
    assert second_view(parts, "student", finest=False) == 5
    assert second_view(parts, "student", finest=True) == 8


def test_totals_add_up_and_hours_follow_the_throughput(estimate: Estimate):
    slow, fast = estimate.table(1.0), estimate.table(2.0)
    rules, total = slow.iloc[:-1], slow.iloc[-1]
    for column in ("jobs", "optimiser steps", "images", "PFLOP", "GPU-hours"):
        assert total[column] == pytest.approx(rules[column].sum())
    assert total["GPU-hours"] == pytest.approx(2 * fast.iloc[-1]["GPU-hours"])
    assert total["PFLOP"] == pytest.approx(total["GPU-hours"] * 3600 / 1000)
    assert total["longest job, hours"] == rules["longest job, hours"].max() > 0


def test_a_plan_in_words():
    text = describe(CONFIG / "demo.yaml", "table6", None, 50.0)
    assert "demo: table6, seeds 0" in text and "--tflops" in text
    assert re.search(r"^ *distill_student +12 +22,800 +273,600 ", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("nuclei.yaml", "all", "data_root"),
        ("demo.yaml", "table9", "--target table9: not a target of .*demo.yaml; give one of summary, table1"),
    ],
)
def test_what_cannot_be_planned(name: str, target: str, message: str):
    with pytest.raises(CastError, match=message):
        describe(CONFIG / name, target, None, 50.0)
