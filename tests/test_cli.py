import json
import subprocess
import sys

import pytest

STAGES = (
    "prepare",
    "split",
    "foundation",
    "adapt_teacher",
    "pseudo_label",
    "distill_student",
    "refine_student",
    "evaluate",
    "tabulate",
    "bias",
    "overlay",
    "efficiency",
)
SCENES = {"format": "streets", "domain": "source", "train_images": 2}


def run(*arguments):
    command = [sys.executable, "-m", "cast.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_stage():
    result = run("--help")
    assert result.returncode == 0
    assert all(stage in result.stdout for stage in STAGES)


def test_a_stage_runs_by_hand_and_its_manifest_repeats_it(tmp_path):
    assert run("prepare", "--settings", json.dumps(SCENES), "--out", tmp_path / "a").returncode == 0
    manifest = tmp_path / "a/manifest.json"
    assert run("prepare", "--settings", manifest, "--out", tmp_path / "b").returncode == 0
    assert (tmp_path / "a/train.json").read_bytes() == (tmp_path / "b/train.json").read_bytes()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("{", "--settings: not valid JSON"),
        ("absent.json", "absent.json: cannot be read"),
        (json.dumps(SCENES | {"colour": 1}), "colour: unknown key"),
        (json.dumps(SCENES | {"train_images": "many"}), "train_images"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, settings, problem):
    result = run("prepare", "--settings", settings, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert problem in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (None, "absent"),
        ({"images": []}, "images"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 2, 2]}]}, "7"),
    ],
)
def test_a_wrong_coco_folder_is_one_line_and_leaves_nothing(tmp_path, change, problem):
    root, out = tmp_path / ("absent" if change is None else "data"), tmp_path / "out"
    if change is not None:
        (root / "images").mkdir(parents=True)
        coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nucleus"}]}
        (root / "instances.json").write_text(json.dumps(coco | change))
    settings = json.dumps({"format": "coco", "validation_images": 1})
    result = run("prepare", "--settings", settings, "--data-root", root, "--out", out)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert problem in result.stderr and not out.exists()
