"""Configuration files: reading, extending, refusing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from cast.config import Config
from cast.config_files import load, merge, resolve
from cast.errors import CastError
from cast.schema import schema

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "config"
SCHEMA = REPOSITORY / "workflow" / "schemas" / "config.schema.json"
EXPERIMENTS = sorted(
    path.name
    for path in FOLDER.glob("*.yaml")
    if path.stem not in ("recipes", "tables", "figures", "paper_results")
)


def changed(**changes: object) -> Config:
    return resolve({"extends": "demo.yaml", **changes}, FOLDER)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_valid(name):
    settings = yaml.safe_load((FOLDER / name).read_text())
    config = resolve(settings | {"data_root": "somewhere"}, FOLDER)
    assert config.name == Path(name).stem


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_fit_the_schema(name):
    assert jsonschema.Draft202012Validator(schema()).is_valid(yaml.safe_load((FOLDER / name).read_text()))


def test_the_schema_is_up_to_date():
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(schema())), "run `make schema`"


def test_the_schema_refuses_an_unknown_key():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"extends": "demo.yaml", "refine_student": {"learning_rate": 1}}, schema())


def test_extending_changes_single_keys():
    config = changed(name="other", refine_student={"lr": 0.5})
    assert config.refine_student.lr == 0.5
    assert config.refine_student.steps == load(FOLDER / "demo.yaml").refine_student.steps


def test_a_model_file_can_be_changed_by_key():
    config = changed(student={"num_queries": 7}, detector={"architecture": {"num_queries": 9}})
    demo = load(FOLDER / "demo.yaml")
    assert config.student == demo.student.model_copy(update={"num_queries": 7})
    assert config.detector.architecture == {**(demo.detector.architecture or {}), "num_queries": 9}


def test_recipes_tables_and_figures_are_added_to():
    recipe = {"stage": "refine_student", "start": "student_supervised_finetune"}
    row = {"role": "student", "method": "sup", "data": "labelled", "recipe": "student_refined_only"}
    table = {"title": "Own", "reported": "table1_main", "rows": [row]}
    figure = {"kind": "curves", "title": "Own", "lines": {"CAST": "student_cast_transfer"}}
    config = changed(
        recipes={"student_refined_only": recipe}, tables={"own": table}, figures={"curves": figure}
    )
    assert set(config.recipes) == set(changed().recipes) | {"student_refined_only"}
    assert set(config.tables) == set(changed().tables) | {"own"}
    assert set(config.figures) == set(changed().figures) | {"curves"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["table9"]}, "targets: no table or figure is called 'table9'"),
        (
            {"figures": {"figure3": {"lines": {"control": "student_pseudo_labels"}}}},
            "figures.figure3: 'student_pseudo_labels' has no L_pxl to show",
        ),
        ({"figures": {"table1": {"kind": "curves", "title": "", "lines": {}}}}, "'table1' names two targets"),
        ({"figures": {"own": {"title": ""}}}, "figures.own: set its `kind`"),
        ({"figures": {"figure5": {"after": "nobody"}}}, "figures.figure5: no recipe is called 'nobody'"),
        (
            {"targets": ["table6"], "budgets": {7: {}}, "extends": "nuclei.yaml", "data_root": "."},
            "table6 needs budgets.5",
        ),
        ({"tables": {"all": {"title": "", "rows": []}}}, "'all' names two targets"),
        ({"figures": {"Figure 3": {"kind": "curves", "title": "", "lines": {}}}}, "figures.Figure 3"),
    ],
)
def test_targets_must_exist(changes, message):
    with pytest.raises(CastError, match=re.escape(message)):
        changed(**changes)


def test_a_recipe_changes_its_stage_settings():
    config = changed(recipes={"student_cast_transfer": {"train": {"steps": 7}}})
    assert config.train_settings("student_cast_transfer").steps == 7
    own = config.distill_student.model_copy(update={"online": None})
    assert config.train_settings("student_supervised_finetune") == own


def test_a_recipe_changes_the_settings_of_its_contrastive_loss():
    config = changed(recipes={"student_cast_transfer": {"contrastive": {"feature_map": "finest"}}})
    found = config.contrastive_settings("student_cast_transfer")
    assert found == config.contrastive.model_copy(update={"feature_map": "finest"})
    assert config.contrastive_settings("teacher_cast") == config.contrastive
    with pytest.raises(CastError, match=r"recipes\.student_cast_transfer\.contrastive: margin: unknown key"):
        changed(recipes={"student_cast_transfer": {"contrastive": {"margin": 1}}})


def test_controls_take_as_many_steps_as_what_they_control():
    config = changed()
    for stage in ("adapt_teacher", "distill_student"):
        recipes = [name for name, recipe in config.recipes.items() if recipe.stage == stage]
        assert len(recipes) > 1
        assert {config.train_settings(name).steps for name in recipes} == {getattr(config, stage).steps}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"lambda_semi": 1.0}, "needs pseudo_labels or online"),
        ({"online": {}}, "online has no effect without lambda_semi > 0"),
        ({"labelled": False}, "without labels it needs pseudo_labels and lambda_semi > 0"),
        ({"lambda_semi": 1.0, "online": {"burn_in_steps": 10**9}}, "leaves none of its"),
        ({"lambda_semi": 1.0, "online": {"threshold": 1}}, "own.online: threshold: unknown key"),
        ({"stage": "refine_student", "student": "fpn"}, "only distill_student builds a student"),
        (
            {"stage": "adapt_teacher", "lambda_semi": 1.0, "online": {"weighting": "quality"}},
            "'quality' is for students",
        ),
    ],
)
def test_a_recipe_says_what_it_learns_from(recipe, message):
    with pytest.raises(CastError, match=re.escape(message)):
        changed(recipes={"own": {"stage": "distill_student"} | recipe})


def test_online_settings_reach_only_the_recipes_that_use_them():
    config = changed()
    assert config.distill_student.online is not None
    assert config.train_settings("student_cast_transfer").online is None
    guided, pais = (
        config.train_settings(f"student_{name}").online for name in ("guided_distillation", "pais")
    )
    assert guided == config.distill_student.online
    assert pais == guided.model_copy(update={"score_threshold": 0.1, "weighting": "quality"})


def test_a_chain_holds_all_that_a_recipe_rests_on():
    config = changed()
    assert set(config.chain("student_cast_refined")) == {
        "student_cast_refined",
        "student_cast_transfer",
        "teacher_cast",
        "teacher_labels_only",
    }
    assert config.chain("foundation") == []


def test_merging_leaves_its_arguments_alone():
    base, changes = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}
    assert merge(base, changes) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert base == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refine_student": {"learning_rate": 1}}, "refine_student.learning_rate: unknown key"),
        ({"refine_student": {"lr": "fast"}}, "refine_student.lr: "),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [-1]}, "seeds.0: "),
        ({"name": "../up"}, "name: "),
        ({"recipes": {"a": {"stage": "refine_student", "start": "nobody"}}}, "recipes.a.start: no recipe"),
        ({"recipes": {"a": {"stage": "refine_student", "start": "teacher_cast"}}}, "is a teacher"),
        ({"recipes": {"a": {"stage": "adapt_teacher", "lambda_semi": 1}}}, "needs pseudo_labels"),
        (
            {"recipes": {"a": {"stage": "adapt_teacher", "train": {"rate": 1}}}},
            "recipes.a.train: rate: unknown",
        ),
        ({"foundation": {"source": None}}, "foundation.detector: training it needs foundation.source"),
        ({"foundation": {"detector": None}}, "foundation.detector: give its training settings"),
        ({"evaluate": {"overlay_recipes": {"Student": "nobody"}}}, "overlay_recipes.Student: no recipe"),
        ({"detector": {"sha256": "0" * 63}}, "detector.sha256: String should match pattern"),
        ({"detector": {"sha256": "0" * 64}}, "detector: `sha256` says which weights `pretrained` means"),
        ({"segmenter": {"revision": "v2"}}, "segmenter: `revision` says which weights `pretrained` means"),
        ({"extends": "nobody.yaml"}, "nobody.yaml: cannot be read"),
        ({"student": "models/nobody.yaml"}, "nobody.yaml: cannot be read"),
    ],
)
def test_wrong_settings_are_named_in_one_line(changes, message):
    with pytest.raises(CastError) as caught:
        changed(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_extends_itself_is_refused(tmp_path):
    (tmp_path / "loop.yaml").write_text("extends: loop.yaml")
    with pytest.raises(CastError, match=r"loop\.yaml: extends itself"):
        load(tmp_path / "loop.yaml")


def test_broken_yaml_is_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(CastError, match=r"broken\.yaml: not valid YAML"):
        load(tmp_path / "broken.yaml")


def test_building_the_graph_imports_no_torch():
    command = "import sys, cast.config, cast.plan, cast.schema; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
