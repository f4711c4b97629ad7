"""What runs again after a change: the stage concerned and what follows, nothing else."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from cast.config_files import load
from cast.jobs import JobList
from cast.plan import Plan

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"
SEED = "seed0/"
TABLES, OVERLAYS = "tables/summary.csv", "figures/overlays.png"
DETECTOR, SEGMENTER = "foundation/teacher/detector", "foundation/teacher/segmenter"
ENCODER = "foundation/student_encoder"
TEACHERS = ["supervised_finetune", "labels_only", "self_training", "cast"]
ADAPTED = {name: f"{SEED}adapt_teacher/teacher_{name}" for name in TEACHERS}
LABELLED_BY = {name: f"{SEED}pseudo_label/teacher_{name}" for name in TEACHERS}
LABELLINGS = [LABELLED_BY[name] for name in ("supervised_finetune", "labels_only", "cast")]
SUPERVISED, TRANSFER = (
    f"{SEED}distill_student/student_{name}" for name in ("supervised_finetune", "cast_transfer")
)
REFINED = f"{SEED}refine_student/student_cast_refined"


def evaluation(model: str) -> str:
    return f"{SEED}evaluate/{model.rpartition('/')[2]}"


EVALUATED = [ADAPTED["supervised_finetune"], ADAPTED["self_training"], ADAPTED["cast"]]
EVALUATED_STUDENTS = [SUPERVISED, TRANSFER, REFINED]
TEACHER_EVALUATIONS = [evaluation("foundation"), *map(evaluation, EVALUATED)]
STUDENT_EVALUATIONS = [*map(evaluation, EVALUATED_STUDENTS)]

# The method as a graph: what is made directly from what.
FOLLOWS: dict[str, list[str]] = {
    "data/source": [DETECTOR, SEGMENTER, ENCODER],
    "data/target": [f"{SEED}split", *TEACHER_EVALUATIONS, *STUDENT_EVALUATIONS, OVERLAYS],
    f"{SEED}split": [
        *ADAPTED.values(),
        *LABELLINGS,
        *EVALUATED_STUDENTS,
    ],
    DETECTOR: [*ADAPTED.values(), evaluation("foundation")],
    SEGMENTER: [*ADAPTED.values(), evaluation("foundation")],
    ENCODER: [SUPERVISED, TRANSFER],
    ADAPTED["supervised_finetune"]: [LABELLED_BY["supervised_finetune"]],
    ADAPTED["labels_only"]: [LABELLED_BY["labels_only"]],
    ADAPTED["cast"]: [LABELLED_BY["cast"]],
    LABELLED_BY["supervised_finetune"]: [ADAPTED["self_training"]],
    LABELLED_BY["labels_only"]: [ADAPTED["cast"]],
    LABELLED_BY["cast"]: [TRANSFER],
    TRANSFER: [REFINED],
    evaluation(ADAPTED["cast"]): [OVERLAYS],
    evaluation(REFINED): [OVERLAYS],
}
for _model in [*EVALUATED, *EVALUATED_STUDENTS]:
    FOLLOWS[_model] = [*FOLLOWS.get(_model, []), evaluation(_model)]
for _evaluation in [*TEACHER_EVALUATIONS, *STUDENT_EVALUATIONS]:
    FOLLOWS[_evaluation] = [*FOLLOWS.get(_evaluation, []), TABLES]


def with_followers(outputs: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(outputs)
    while waiting:
        output = waiting.pop()
        if output not in found:
            found.add(output)
            waiting += FOLLOWS.get(output, [])
    return found


CHANGES = {
    "prepare the target": ({"data": {"train_images": 25}}, ["data/target"]),
    "prepare the source": ({"foundation": {"source": {"train_images": 25}}}, ["data/source"]),
    "split": ({"split": {"labelled_fraction": 0.5}}, [f"{SEED}split"]),
    "foundation detector": ({"foundation": {"detector": {"lr": 0.5}}}, [DETECTOR]),
    "foundation segmenter": ({"segmenter": {"architecture": {"image_size": 128}}}, [SEGMENTER]),
    "foundation encoder": ({"foundation": {"student_encoder": {"steps": 5}}}, [ENCODER]),
    "adapt_teacher": ({"adapt_teacher": {"lr": 0.5}}, [*ADAPTED.values()]),
    "teacher's loss": ({"teacher_loss": {"box_jitter": 0.2}}, [DETECTOR, SEGMENTER]),
    "contrastive loss": (
        {"contrastive": {"num_negatives": 17}},
        [ADAPTED["labels_only"], ADAPTED["cast"], TRANSFER],
    ),
    "pseudo_label": (
        {"pseudo_label": {"min_area": 6}},
        LABELLINGS,
    ),
    "distill_student": ({"distill_student": {"weight_decay": 0.5}}, [SUPERVISED, TRANSFER]),
    "refine_student": ({"refine_student": {"lr": 0.5}}, [REFINED]),
    # The teacher's inference is also how it labels.
    "evaluate teachers": (
        {"inference": {"teacher": {"nms_iou": 0.4}}},
        [
            *TEACHER_EVALUATIONS,
            *LABELLINGS,
        ],
    ),
    "evaluate students": ({"inference": {"student": {"nms_iou": 0.4}}}, STUDENT_EVALUATIONS),
    "evaluate": ({"evaluate": {"max_detections": [10]}}, [*TEACHER_EVALUATIONS, *STUDENT_EVALUATIONS]),
    "tabulate": ({"provenance": "measured"}, [TABLES]),
    "overlay": ({"evaluate": {"overlay_images": 3}}, [OVERLAYS]),
    "nothing but the machine": ({"resources": {"mem_mb": 123}}, []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_reruns_its_stage_and_what_follows(finished, change):
    settings, concerned = CHANGES[change]
    assert set(finished.changed(settings).planned()) == with_followers(concerned)


def test_a_recipe_reruns_alone(finished):
    change = {"recipes": {"student_supervised_finetune": {"train": {"lr": 0.5}}}}
    assert set(finished.changed(change).planned()) == with_followers([SUPERVISED])


def test_settings_of_the_contrastive_loss_rerun_nothing_without_it(finished):
    change = {"sampling": "uniform", "contrastive": {"num_negatives": 3}}
    change = {"recipes": {"student_supervised_finetune": change}}
    assert finished.changed(change).planned() == []


def test_every_table_and_figure_is_a_target(fresh):
    for target, output in (
        ("table2", "tables/table2.csv"),
        ("table4", "tables/table4.csv"),
        ("figure3", "figures/figure3.png"),
    ):
        made = fresh.planned(target)
        assert output in made
        assert TABLES not in made
    recipes = {output.rpartition("/")[2] for output in made}  # of figure 3, which evaluates nothing
    weights = {
        "student_cast_transfer",
        *(f"student_lambda_pxl_{weight}" for weight in ("0.01", "0.2", "0.5")),
    }
    assert weights <= recipes
    assert not any("evaluate" in output for output in made)
    everything = fresh.planned("tables", "figures")
    assert {TABLES, "tables/table2.csv", "tables/table4.csv", "figures/figure3.png", OVERLAYS} <= set(
        everything
    )
    assert len(everything) == len(set(everything))


def test_a_second_run_has_nothing_to_do(finished):
    started = time.monotonic()
    run = finished.snakemake()
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout + run.stderr
    assert time.monotonic() - started < 10


def test_the_whole_graph_ran_each_job_once(finished):
    calls = Counter(line.split()[0] for line in (finished.folder / "calls.txt").read_text().splitlines())
    assert calls == {
        "prepare": 2,
        "split": 1,
        "foundation": 3,
        "adapt_teacher": 4,
        "pseudo_label": 3,
        "distill_student": 2,
        "refine_student": 1,
        "evaluate": 7,
        "tabulate": 1,
        "overlay": 1,
    }


def test_every_job_leaves_a_log_and_a_benchmark(finished):
    results = finished.folder / "results" / "smoke"
    logs = {path.relative_to(results / "logs").with_suffix("") for path in results.glob("logs/**/*.log")}
    benchmarks = {
        path.relative_to(results / "benchmarks").with_suffix("")
        for path in results.glob("benchmarks/**/*.tsv")
    }
    assert len(logs) == 25
    assert logs == benchmarks


def test_table_cells_that_share_a_recipe_train_it_once(fresh):
    row = {"role": "student", "method": "supervised_finetune", "data": "labelled"}
    table = {
        "title": "t",
        "reported": "table1_main",
        "rows": [row | {"recipe": "student_supervised_finetune"}] * 2,
    }
    outputs = fresh.changed({"tables": {"first": table, "second": table}}).planned()
    assert outputs.count(SUPERVISED) == 1
    assert len(outputs) == len(set(outputs))


def test_every_seed_has_its_own_runs_and_the_foundation_is_shared(fresh):
    outputs = fresh.changed({"seeds": [0, 1, 2]}).planned()
    assert sum(output.endswith("refine_student/student_cast_refined") for output in outputs) == 3
    assert sum(output.startswith("foundation/") for output in outputs) == 3
    assert [output for output in outputs if output.endswith("evaluate/foundation")] == [
        evaluation("foundation")
    ]


def test_each_label_budget_has_its_own_split_and_the_experiments_own_is_not_run_twice(fresh):
    planned = fresh.changed({"split": {"labelled_fraction": 0.1}}).planned("table6")
    runs = {output.partition("/")[0] for output in planned if output.startswith("seed")}
    assert runs == {"seed0", "seed0_5percent", "seed0_30percent"}
    for run in runs:
        assert f"{run}/split" in planned
        assert f"{run}/evaluate/student_guided_distillation" in planned
        assert f"{run}/pseudo_label/student_supervised_finetune" in planned  # its burn-in's labels
    assert len([output for output in planned if output.startswith("foundation/")]) == 3


def test_a_table_without_its_students_or_budgets_is_no_target(fresh):
    own = fresh.folder / "own.yaml"
    (fresh.folder / "images").mkdir()
    (fresh.folder / "instances.json").touch()
    own.write_text("extends: nuclei.yaml\nname: own\ndata_root: .\n")
    run = fresh.snakemake("table5", "--dry-run", config=own)
    assert run.returncode != 0 and "table5" in run.stdout + run.stderr


@pytest.mark.parametrize("target", ["all", "table6", "figure3", "figure5", "tables", "figures"])
def test_the_list_of_jobs_is_snakemakes(fresh, target):
    plan = Plan(load(SMOKE), str(SMOKE.parent))
    expected = Counter(job.stage for job in JobList(plan, target).jobs)
    run = fresh.snakemake(target, "--dry-run", "--quiet", "host", "reason", "rules")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, flags=re.MULTILINE))
    assert {stage: int(counts[stage]) for stage in expected} == expected
    assert int(counts["total"]) == expected.total() + 1  # the target itself
