"""Stage foundation on pretrained weights: every tensor arrives, and what is wrong is said in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from cast.config import PretrainedModel
from cast.data.streets import CLASS_NAMES
from cast.errors import CastError
from cast.stages import foundation, prepare
from cast.teacher.detector import build_detector, load_detector
from cast.teacher.segmenter import build_segmenter, load_segmenter

MODELS = Path(__file__).parents[2] / "config" / "models"
ENCODER = "vit_small_patch14_dinov2.lvd142m"
ENCODER_SIZE = {"img_size": (56, 56), "embed_dim": 32, "depth": 3, "num_heads": 2}
STUDENT = {
    "encoder": ENCODER, "encoder_blocks": [1, 2, 3], "dpt_widths": [8, 8, 16], "feature_dim": 32,
    "decoder_dim": 32, "decoder_heads": 2, "decoder_feedforward": 32, "decoder_layers": 1, "num_queries": 5,
}  # fmt: skip
MEMORY = (
    "mask_downsample", "memory_attention", "memory_encoder", "memory_temporal_positional_encoding",
    "no_memory_positional_encoding", "no_object_pointer", "object_pointer_proj",
    "occlusion_spatial_embedding_parameter", "temporal_positional_encoding_projection_layer",
)  # fmt: skip


def architecture(name: str) -> PretrainedModel:
    return PretrainedModel(architecture=yaml.safe_load((MODELS / f"{name}.yaml").read_text(encoding="utf-8")))


def scatter(model: nn.Module) -> dict[str, torch.Tensor]:
    """Give every weight a value that no initialisation gives; returns them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5, 1.0)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foundation") / "data"
    prepare.run({"format": "streets", "image_size": [48, 48], "train_images": 1}, None, folder)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints as the hub has them: a detector, a segmenter, a SAM 2 for videos, an encoder."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("saved")
    detector = build_detector(architecture("detector_tiny"), CLASS_NAMES)
    segmenter = build_segmenter(architecture("segmenter_tiny"))
    parts = {
        name: getattr(segmenter.model.config, name).to_dict()
        for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    widths = {"memory_attention_hidden_size": 128, "memory_encoder_hidden_size": 128}
    video = Sam2VideoModel(Sam2VideoConfig(**parts, image_size=96, **widths))
    for model in (detector, segmenter, video):
        scatter(model)
    detector.save(root / "detector")
    segmenter.save(root / "segmenter")
    video.save_pretrained(root / "video")
    encoder = timm.create_model(ENCODER, num_classes=0, **ENCODER_SIZE)
    (root / "encoder").mkdir()
    save_file(scatter(encoder), root / "encoder" / "model.safetensors")
    return {path.name: path for path in root.iterdir()}


def run(part: str, model: dict[str, Any], data: Path, out: Path) -> dict[str, Any]:
    """Run the stage; returns what its manifest says of the weights."""
    foundation.run({"model": model, "train": None}, part, data, out)
    return json.loads((out / "manifest.json").read_text())["weights"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in found.items() if not torch.equal(value, expected[name])] == []


@pytest.mark.parametrize(
    ("part", "load"),
    [("detector", load_detector), ("segmenter", load_segmenter)],
    ids=["detector", "segmenter"],
)
def test_the_teachers_parts_arrive_to_the_bit(part, load, saved, data, tmp_path):
    weights = run(part, {"pretrained": str(saved[part])}, data, tmp_path / part)
    file = saved[part] / "model.safetensors"
    assert weights == {"origin": str(saved[part]), "file": str(file), "sha256": sha256(file)}
    assert_equal(load_file(tmp_path / part / "model.safetensors"), load_file(file))
    assert_equal(load(tmp_path / part).state_dict(), load(saved[part]).state_dict())


def test_a_checkpoint_in_several_files_arrives_to_the_bit(saved, data, tmp_path):
    split = shutil.copytree(saved["detector"], tmp_path / "split")
    (split / "model.safetensors").unlink()
    load_detector(saved["detector"]).model.save_pretrained(split, max_shard_size="1MB")
    assert len(list(split.glob("model-*.safetensors"))) > 1
    weights = run("detector", {"pretrained": str(split)}, data, tmp_path / "out")
    assert weights["file"] == str(split / "model.safetensors.index.json")
    assert_equal(
        load_file(tmp_path / "out" / "model.safetensors"), load_file(saved["detector"] / "model.safetensors")
    )


def test_a_video_checkpoint_gives_all_image_tensors(saved, data, tmp_path, capfd):
    """The released SAM 2.1 checkpoints are of this class."""
    assert json.loads((saved["video"] / "config.json").read_text())["model_type"] == "sam2_video"
    run("segmenter", {"pretrained": str(saved["video"])}, data, tmp_path / "segmenter")
    found, video = (
        load_file(path / "model.safetensors") for path in (tmp_path / "segmenter", saved["video"])
    )
    assert {name.split(".")[0] for name in video.keys() - found.keys()} == set(MEMORY)
    assert_equal(found, {name: video[name] for name in video.keys() & found.keys()})
    assert "sam2_video" not in capfd.readouterr().err, "the library's warning would worry the reader"


def test_timms_encoder_arrives_to_the_bit(saved, data, tmp_path):
    file = saved["encoder"] / "model.safetensors"
    arguments = ENCODER_SIZE | {"pretrained_cfg_overlay": {"file": str(file)}}
    weights = run("student_encoder", STUDENT | {"encoder_args": arguments}, data, tmp_path / "encoder")
    assert weights == {"origin": ENCODER, "file": str(file), "sha256": sha256(file)}
    assert_equal(load_file(tmp_path / "encoder" / "model.safetensors"), load_file(file))


def test_random_weights_have_no_origin(data, tmp_path):
    model = architecture("segmenter_tiny").model_dump()
    foundation.run({"model": model, "train": None}, "segmenter", data, tmp_path / "out")
    assert "weights" not in json.loads((tmp_path / "out" / "manifest.json").read_text())


def edit_weights(change):
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def edit_config(change):
    def edit(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return edit


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1000])


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def renumber_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["."], vocabulary["?"] = vocabulary["?"], vocabulary["."]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_weights(lambda t: t.pop("model.level_embed")), r"1 missing \(model\.level_embed\)"),
        (edit_weights(lambda t: t.update(more=torch.ones(2))), r"1 unexpected \(more\)"),
        (
            edit_weights(lambda t: t.update({"model.level_embed": torch.ones(3, 64)})),
            r"1 of another shape \(model\.level_embed\)",
        ),
        (
            edit_config(lambda c: c.update(encoder_layers=2)),
            r"\d\d missing \(.*, …\); set detector\.pretrained",
        ),
        (edit_config(lambda c: c.update(d_model="x")), "not a readable model folder.*d_model"),
        (
            edit_config(lambda c: c.update(model_type="grounding-dino")),
            "model_type is 'grounding-dino', not 'mm-",
        ),
        (remove("config.json"), "not a readable model folder"),
        (cut("model.safetensors"), "not a readable model folder.*not fully covered"),
        (remove("model.safetensors"), r"holds no model\.safetensors"),
        (remove("tokenizer.json"), r"holds no tokenizer \(tokenizer\.json or vocab\.txt\)"),
        (cut("tokenizer.json"), "not a readable model folder"),
        (renumber_tokens, r"its tokenizer numbers '\.' 1029, the detector 1012"),
    ],
)
def test_a_spoilt_detector_is_one_line(spoil, message, saved, data, tmp_path, capfd):
    folder = shutil.copytree(saved["detector"], tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(CastError, match=message) as error:
        run("detector", {"pretrained": str(folder)}, data, tmp_path / "out")
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert "LOAD REPORT" not in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tables_that_older_releases_stored_are_no_error(saved, data, tmp_path):
    folder = shutil.copytree(saved["detector"], tmp_path / "older")
    edit_weights(lambda t: t.update({"model.relative_index": torch.arange(4)}))(folder)
    run("detector", {"pretrained": str(folder)}, data, tmp_path / "out")
    assert_equal(
        load_file(tmp_path / "out" / "model.safetensors"), load_file(saved["detector"] / "model.safetensors")
    )


@pytest.mark.parametrize(("part", "other"), [("detector", "segmenter"), ("segmenter", "detector")])
def test_a_checkpoint_of_another_architecture_is_one_line(part, other, saved, data, tmp_path):
    folder = shutil.copytree(saved[other], tmp_path / "other")
    for path in saved["detector"].glob("tokenizer*"):  # only the model is wrong
        shutil.copy(path, folder)
    with pytest.raises(
        CastError, match=rf"config\.json: its model_type is .*; set {part}\.pretrained"
    ) as error:
        run(part, {"pretrained": str(folder)}, data, tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "model", "message"),
    [
        ("detector", {"pretrained": "someone/absent"}, "'someone/absent' is neither a folder here nor could"),
        (
            "segmenter",
            {"pretrained": "someone/absent"},
            r"segmenter\.pretrained: .*hf download someone/absent ",
        ),
        ("student_encoder", STUDENT, f"weights of {ENCODER} cannot be had .*hf download timm/{ENCODER}"),
    ],
)
def test_offline_is_one_line(part, model, message, data, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CastError, match=message) as error:
        run(part, model, data, tmp_path / "out")
    assert "\n" not in str(error.value)
