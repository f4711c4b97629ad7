"""config/cityscapes.yaml and config/ade20k.yaml from checkpoints to table: only sizes and paths are changed.

The datasets are drawn in the official layouts. The checkpoints are tiny ones of the production classes, in
the layout of those on the hub.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from official_trees import write_ade20k_image, write_cityscapes_frame
from safetensors.torch import load_file, save_file

from cast.artefacts import digest
from cast.config import PretrainedModel
from cast.config_files import load
from cast.data.ade20k import categories as ade20k_categories
from cast.data.cityscapes import CATEGORIES as CITYSCAPES_CATEGORIES
from cast.data.coco import read_coco
from cast.evaluation.cityscapes import evaluate_cityscapes
from cast.evaluation.coco import evaluate_masks
from cast.stages import evaluate
from cast.teacher.detector import build_detector
from cast.teacher.segmenter import build_segmenter

CONFIG = Path(__file__).parents[2] / "config"
PUBLISHED = CONFIG / "splits" / "cityscapes"
CATEGORIES = {"cityscapes": CITYSCAPES_CATEGORIES, "ade20k": ade20k_categories()}
ENCODER = "vit_small_patch14_dinov2.lvd142m"
ENCODER_SIZES = {"embed_dim": 32, "num_heads": 2}
MORE = 8  # unlabelled images beside those of the published list
SURE = 4.0  # a bias that makes tiny checkpoints predict above the paper's threshold of 0.7

# What differs from the paper's files, beside the paths of the weights.
SIZES: dict[str, Any] = {
    "student": {
        "dpt_widths": [16, 16, 16, 16],
        "feature_dim": 32,
        "decoder_dim": 32,
        "decoder_heads": 2,
        "decoder_feedforward": 32,
    },
    "criterion": {"num_points": 112},
    "contrastive": {"num_negatives": 16},
    "adapt_teacher": {"steps": 2, "image_size": [64, 128], "workers": 0, "online": {"burn_in_steps": 1}},
    "distill_student": {
        "steps": 2,
        "labelled_batch": 2,
        "unlabelled_batch": 2,
        "image_size": [56, 112],
        "workers": 0,
        "online": {"burn_in_steps": 1},
    },
    "refine_student": {"steps": 2, "labelled_batch": 2, "image_size": [56, 112], "workers": 0},
    "inference": {
        "teacher": {"short_side": 64},
        "student": {"short_side": 56, "score_threshold": 0.0},  # after two steps it is sure of nothing
    },
    "resources": {"threads": 1, "gpu": 0},
}
# Its published names are too many to draw; those of Cityscapes are drawn.
DRAWN_SPLIT = {"ade20k": {"split": {"labelled_list": None, "labelled_fraction": 0.1}}}


@dataclass
class Run:
    """A run of the workflow."""

    name: str
    workflow: Any
    data_root: Path
    targets: tuple[str, ...]

    @property
    def results(self) -> Path:
        return self.workflow.folder / "results" / self.name

    def snakemake(self, *arguments: str) -> str:
        """Run the workflow as a user would, from the configuration in config/; what it prints."""
        options = ["--cores", "2", *arguments, *self.targets, "--config", f"data_root={self.data_root}"]
        run = self.workflow.snakemake(*options, config=CONFIG / f"{self.name}.yaml")
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout + run.stderr

    def read(self, path: str) -> Any:
        return json.loads((self.results / path).read_text(encoding="utf-8"))


# --- what a user has on disk ------------------------------------------------------------------------------


def draw_cityscapes(root: Path) -> None:
    """The 296 images of the published list for 10 %, eight more, and four for validation."""
    listed, more = ((PUBLISHED / name).read_text().split() for name in ("10.txt", "20.txt"))
    names = [("train", stem) for stem in [*listed, *[stem for stem in more if stem not in listed][:MORE]]]
    names += [("val", f"frankfurt_{index:06d}_000019") for index in range(4)]
    labels = [entry["name"] for entry in CITYSCAPES_CATEGORIES]
    for number, (split, stem) in enumerate(names):
        objects = [("road", [[0, 0], [128, 0], [128, 64], [0, 64]], False)]
        for place, x in enumerate((4, 46, 88)):
            label = labels[(3 * number + place) % len(labels)]
            objects.append((label, [[x, 8], [x + 27, 8], [x + 27, 35], [x, 35]], False))
        objects.append(("cargroup", [[4, 44], [31, 44], [31, 60], [4, 60]], False))
        write_cityscapes_frame(root, split, stem, objects, (64, 128))


def draw_ade20k(root: Path) -> None:
    """Twenty images to train on and eight for validation, upright and lying."""
    for split, short, count in (("training", "train", 20), ("validation", "val", 8)):
        for number in range(count):
            boxes = []
            for place in range(6):
                row, column = divmod(place, 3 if number % 2 else 2)
                boxes.append(((6 * number + place) % 100 + 1, place + 1, 4 + 27 * column, 4 + 27 * row, 22))
            size = (56, 84) if number % 2 else (84, 56)
            write_ade20k_image(root, split, f"ADE_{short}_{number + 1:08d}", boxes, size)


def write_checkpoints(folder: Path) -> None:
    """`detector`, `segmenter` and `encoder.safetensors`: random weights that are sure of what they see."""
    torch.manual_seed(0)
    names = sorted({entry["name"] for entries in CATEGORIES.values() for entry in entries})
    tiny = load(CONFIG / "smoke.yaml")
    text = {"vocab_size": 1200, "max_position_embeddings": 256}
    architecture = dict(tiny.detector.architecture or {}) | {"max_text_len": 256}
    architecture["text_config"] = architecture["text_config"] | text
    detector = build_detector(PretrainedModel(architecture=architecture), names)
    segmenter = build_segmenter(tiny.segmenter)
    encoder = timm.create_model(ENCODER, pretrained=False, num_classes=0, img_size=70, **ENCODER_SIZES)
    with torch.no_grad():
        for layer in (*detector.model.class_embed, detector.model.model.encoder_output_class_embed):
            layer.bias.fill_(SURE)
        segmenter.model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(SURE)
    detector.model.save_pretrained(folder / "detector")
    detector.tokenizer.save_pretrained(folder / "detector")
    segmenter.model.save_pretrained(folder / "segmenter")
    save_file(encoder.state_dict(), folder / "encoder.safetensors")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    draw_cityscapes(root / "cityscapes")
    draw_ade20k(root / "ade20k")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_checkpoints(folder)
    return folder


@pytest.fixture(scope="module")
def make(data_root: Path, weights: Path, tmp_path_factory, workflow_in) -> Callable[..., Run]:
    """Runs the workflow of a configuration with this environment's `cast`."""
    overlay = {"file": str(weights / "encoder.safetensors")}
    paths = {
        "detector": {"pretrained": str(weights / "detector")},
        "segmenter": {"pretrained": str(weights / "segmenter")},
        "student": {"encoder_args": {**ENCODER_SIZES, "img_size": 70, "pretrained_cfg_overlay": overlay}},
    }

    def run_workflow(name: str, *targets: str) -> Run:
        workflow = workflow_in(tmp_path_factory.mktemp(name), Path(sys.executable).parent)
        workflow = workflow.changed(SIZES).changed(paths).changed(DRAWN_SPLIT.get(name, {}))
        run = Run(name, workflow, data_root / name, targets)
        run.snakemake()
        return run

    return run_workflow


@pytest.fixture(scope="module")
def cityscapes(make) -> Run:
    """Everything that plain `snakemake` makes: table 1 and the overlays."""
    return make("cityscapes")


@pytest.fixture(scope="module")
def ade20k(make) -> Run:
    """The method itself, without the table's controls: each job costs seconds to start."""
    return make("ade20k", "results/ade20k/figures/overlays.png", "results/ade20k/seed0/evaluate/foundation")


@pytest.fixture(params=["cityscapes", "ade20k"])
def run(request) -> Run:
    return request.getfixturevalue(request.param)


# --- what must come out ------------------------------------------------------------------------------------


def test_the_table_has_the_ap_of_every_recipe(cityscapes):
    wanted = yaml.safe_load((CONFIG / "tables.yaml").read_text())["table1"]["rows"]
    with (cityscapes.results / "tables" / "table1.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(wanted) == 13
    for row, entry in zip(rows, wanted, strict=True):
        if "recipe" not in entry:
            assert (row["method"], row["provenance"]) == (entry["method"], "cited")
            continue
        measured = cityscapes.read(f"seed0/evaluate/{entry['recipe']}/metrics.json")["mask_ap"]
        assert (row["role"], row["method"], row["provenance"]) == (entry["role"], entry["method"], "measured")
        assert float(row["mask_ap"]) == pytest.approx(measured, abs=0.005)
        assert 0 <= float(row["mask_ap"]) <= 100 and float(row["reported_mask_ap"]) > 0
    assert (cityscapes.results / "figures" / "overlays.png").stat().st_size > 0


def test_the_method_runs_on_a_hundred_classes(ade20k):
    for recipe in ("foundation", "teacher_cast", "student_cast_refined"):
        metrics = ade20k.read(f"seed0/evaluate/{recipe}/metrics.json")
        assert 0 <= metrics["mask_ap"] <= 100
        assert metrics["per_class"].keys() == {entry["name"] for entry in CATEGORIES["ade20k"]}
    assert ade20k.read("foundation/teacher/detector/cast.json")["class_names"][-1] == "flag"
    assert (ade20k.results / "figures" / "overlays.png").stat().st_size > 0


def test_the_published_split_is_the_labelled_one(cityscapes):
    images = cityscapes.read("seed0/split/labelled.json")["images"]
    stems = [Path(image["file_name"]).name.removesuffix("_leftImg8bit.png") for image in images]
    assert sorted(stems) == sorted((PUBLISHED / "10.txt").read_text().split())
    assert len(cityscapes.read("seed0/split/unlabelled.json")["images"]) == MORE


def test_a_tenth_is_labelled_without_a_list(ade20k):
    assert len(ade20k.read("seed0/split/labelled.json")["images"]) == 2
    assert len(ade20k.read("seed0/split/unlabelled.json")["images"]) == 18


def test_category_ids_are_the_public_ones(run):
    public = [(entry["id"], entry["name"]) for entry in CATEGORIES[run.name]]
    made = ["data/target/train", "seed0/split/labelled", "seed0/pseudo_label/teacher_cast/pseudo_labels"]
    for path in (*made, "seed0/evaluate/student_cast_refined/predictions"):
        found = run.read(f"{path}.json")["categories"]
        assert [(entry["id"], entry["name"]) for entry in found] == public, path


def test_pseudo_labels_pass_the_papers_threshold_and_are_learnt_from(run):
    for teacher in ("teacher_labels_only", "teacher_cast"):
        scores = [
            item["score"]
            for item in run.read(f"seed0/pseudo_label/{teacher}/pseudo_labels.json")["annotations"]
        ]
        assert scores and min(scores) >= 0.7
    for recipe in ("adapt_teacher/teacher_cast", "distill_student/student_cast_transfer"):
        with (run.results / "seed0" / recipe / "training.csv").open(encoding="utf-8") as stream:
            (row,) = csv.DictReader(stream)
        assert all(float(row[term]) > 0 for term in ("sup", "semi", "pxl")), recipe


def test_the_figures_are_the_benchmarks_own(cityscapes):
    truth = read_coco(cityscapes.results / "data/target/validation.json")
    folder = cityscapes.results / "seed0/evaluate/teacher_cast"
    predictions = read_coco(folder / "predictions.json").annotations
    metrics = cityscapes.read("seed0/evaluate/teacher_cast/metrics.json")
    official = evaluate_cityscapes(truth, cityscapes.data_root, "val", predictions)
    assert {key: metrics[key] for key in official} == official
    assert metrics["coco"] == evaluate_masks(truth, predictions, (100,))["by_max_detections"]


def test_perfect_predictions_score_100(run, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load_model", lambda *_: None)
    monkeypatch.setattr(
        evaluate,
        "predict",
        lambda _, truth, *__: [replace(item, score=0.9) for item in truth.annotations if not item.is_crowd],
    )
    settings = run.read("seed0/evaluate/student_cast_refined/manifest.json")["settings"]
    evaluate.run(settings, tmp_path, run.results / "data/target/validation.json", tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [metrics["mask_ap"], metrics["mask_ap50"]] == pytest.approx([100.0, 100.0])
    assert metrics["by_max_detections"]["100"]["mask_ap"] == pytest.approx(100.0)


def test_training_starts_from_the_checkpoints_and_leaves_the_frozen_parts(run, weights):
    foundation = run.results / "foundation"
    parts = {
        "teacher/detector": "detector/model",
        "teacher/segmenter": "segmenter/model",
        "student_encoder": "encoder",
    }
    for part, name in parts.items():
        given, kept = (
            load_file(weights / f"{name}.safetensors"),
            load_file(foundation / part / "model.safetensors"),
        )
        assert given.keys() == kept.keys()
        assert all(torch.equal(given[key], kept[key]) for key in given), part
    for part, frozen in (("detector", "model.text_backbone."), ("segmenter", "prompt_encoder.")):
        before = load_file(foundation / "teacher" / part / "model.safetensors")
        after = load_file(run.results / "seed0/adapt_teacher/teacher_cast" / part / "model.safetensors")
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed and not any(key.startswith(frozen) for key in changed), part
        assert any(key.startswith(frozen) for key in before), part


def test_manifests_lead_from_the_student_back_to_data_and_weights(run, weights):
    trail = {
        "seed0/evaluate/student_cast_refined": [
            "data/target/validation.json",
            "seed0/refine_student/student_cast_refined",
        ],
        "seed0/refine_student/student_cast_refined": [
            "seed0/distill_student/student_cast_transfer",
            "seed0/split",
        ],
        "seed0/distill_student/student_cast_transfer": [
            "foundation/student_encoder",
            "seed0/split",
            "seed0/pseudo_label/teacher_cast/pseudo_labels.json",
        ],
        "seed0/pseudo_label/teacher_cast": ["seed0/adapt_teacher/teacher_cast", "seed0/split"],
        "seed0/adapt_teacher/teacher_cast": ["foundation/teacher/detector", "foundation/teacher/segmenter"],
        "seed0/split": ["data/target"],
    }
    for made, sources in trail.items():
        inputs = run.read(f"{made}/manifest.json")["inputs"]
        for source in sources:
            assert inputs[f"results/{run.name}/{source}"] == digest(run.results / source), made
    for part, name in (
        ("teacher/detector", "detector/model"),
        ("teacher/segmenter", "segmenter/model"),
        ("student_encoder", "encoder"),
    ):
        file = weights / f"{name}.safetensors"
        recorded = run.read(f"foundation/{part}/manifest.json")["weights"]
        assert (recorded["file"], recorded["sha256"]) == (str(file), digest(file))
    assert str(run.data_root) in run.read("data/target/train.json")["info"]["annotations"]


def test_a_second_run_has_nothing_to_do(run):
    assert "Nothing to be done" in run.snakemake("--dry-run")
