"""Wrong configurations: one clear line that names the key, an exit status, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

NUCLEI = Path(__file__).parents[2] / "config" / "nuclei.yaml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refine_student": {"learning_rate": 1}}, "refine_student.learning_rate: unknown key"),
        ({"split": {"labelled_fraction": "many"}}, "split.labelled_fraction: Input should be a valid number"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(fresh, changes, message):
    lines = fresh.changed(changes).fails().splitlines()
    assert sum(message in line for line in lines) == 1


def test_a_dataset_needs_its_folder(fresh):
    assert "data_root: set it to the folder of the dataset" in fresh.fails(config=NUCLEI)


def test_a_missing_data_root_is_named(fresh):
    printed = fresh.fails("--config", "data_root=nowhere", config=NUCLEI)
    assert "data_root: nowhere is not a folder" in printed


def test_a_data_root_without_annotations_is_named(fresh):
    (fresh.folder / "images").mkdir()
    printed = fresh.fails("--config", f"data_root={fresh.folder}", config=NUCLEI)
    assert "holds no 'instances.json'" in printed


def test_the_nuclei_are_found_in_their_folder(fresh):
    (fresh.folder / "images").mkdir()
    (fresh.folder / "instances.json").write_text("{}")
    run = fresh.snakemake("--dry-run", "--config", f"data_root={fresh.folder}", config=NUCLEI)
    assert run.returncode == 0, run.stdout
    assert f"{fresh.folder}/instances.json" in run.stdout


def test_an_unknown_recipe_cannot_be_asked_for(fresh):
    printed = fresh.fails("results/smoke/seed0/evaluate/nobody")
    assert "MissingRuleException" in printed


def test_without_a_configuration_file_it_is_the_demo(fresh):
    run = fresh.snakemake("--dry-run", "--config", "seeds=[3]", config=None)
    assert run.returncode == 0, run.stdout
    assert "results/demo/seed3/refine_student/student_cast_refined" in run.stdout


def test_a_failing_stage_fails_the_run(fresh, tmp_path):
    fresh.bin = tmp_path / "failing"
    fresh.bin.mkdir()
    script = fresh.bin / "cast"
    script.write_text("#!/bin/sh\necho 'error: a stage says why' >&2\nexit 1\n")
    script.chmod(0o755)
    run = fresh.snakemake("results/smoke/data/source")
    assert run.returncode != 0
    assert "error: a stage says why" in run.stdout
    assert not (fresh.folder / "results/smoke/data/source").exists()
    assert "a stage says why" in (fresh.folder / "results/smoke/logs/prepare/source.log").read_text()
