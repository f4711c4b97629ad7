"""The assembled student: shapes at any size, predictions, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from cast.config import InferenceSettings, StudentSettings
from cast.errors import CastError
from cast.student.dpt import DPT
from cast.student.fpn import FPN
from cast.student.model import Student, _instances, load_student, num_parameters, save_student

NAMES = ["car", "bus", "person"]
TINY = yaml.safe_load(
    (Path(__file__).parents[2] / "config/models/student_tiny.yaml").read_text(encoding="utf-8")
)
SMALL = TINY | {
    "encoder_args": TINY["encoder_args"] | {"embed_dim": 16, "img_size": [32, 32]},
    "dpt_widths": [8, 8, 8], "feature_dim": 16, "decoder_dim": 16, "decoder_heads": 2,
    "decoder_feedforward": 16, "decoder_layers": 2, "num_queries": 6,
}  # fmt: skip


def student(**changes) -> Student:
    torch.manual_seed(0)
    return Student(StudentSettings(**(SMALL | changes)), len(NAMES))


def test_default_student_has_the_papers_size():
    with torch.device("meta"):
        model = Student(StudentSettings(encoder_pretrained=False), 8)
    assert num_parameters(model.encoder) / 1e6 == pytest.approx(22.0, abs=0.1)
    assert num_parameters(model) / 1e6 == pytest.approx(52.0, abs=1.0)


def test_tiny_student_is_a_ninth_of_the_tiny_teacher():
    assert num_parameters(Student(StudentSettings(**TINY), 5)) < 0.25e6


@pytest.mark.parametrize("size", [(32, 32), (40, 24), (37, 51), (9, 70)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_images_of_any_size(size, stride):
    model = student(mask_stride=stride)
    output = model(torch.rand(1, 3, *size))
    height, width = (-(-side // stride) for side in size)
    assert [tuple(mask.shape) for mask in output.mask_logits] == [(1, 6, height, width)] * 3
    assert [tuple(logits.shape) for logits in output.class_logits] == [(1, 6, 4)] * 3
    assert output.semantic_logits.shape == (1, 4, height, width)
    assert output.features.shape[1] == model.feature_dim


def test_plain_student_has_none_of_the_aids():
    model = student(query_prior=False, convolutional_stem=False, semantic_head=False)
    assert model.query_prior is None and model.pixel_decoder.stem is None
    assert model(torch.rand(2, 3, 32, 32)).semantic_logits is None


RESNET = {
    "encoder": "resnet10t", "encoder_args": {"stem_width": 8, "channels": [8, 16, 24, 32]},
    "encoder_blocks": [1, 2, 3],
}  # fmt: skip
SAM2 = {
    "encoder": "sam2_hiera_tiny", "encoder_blocks": [1, 2, 3],
    "encoder_args": {"embed_dim": 8, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
}  # fmt: skip


@pytest.mark.parametrize("pixel_decoder", ["dpt", "fpn"])
@pytest.mark.parametrize("encoder", [{}, RESNET, SAM2], ids=["vit", "resnet", "sam2"])
def test_every_encoder_with_every_pixel_decoder_and_the_aids(encoder, pixel_decoder):
    model = student(**encoder, pixel_decoder=pixel_decoder)
    assert model.settings.query_prior and model.settings.convolutional_stem and model.settings.semantic_head
    output = model(torch.rand(2, 3, 50, 70))
    assert output.mask_logits[-1].shape == (2, 6, 13, 18)
    assert output.semantic_logits.shape == (2, 4, 13, 18)
    assert output.features.shape[1] == model.feature_dim == model.encoder.channels[-1]
    tensors = (*output.mask_logits, *output.class_logits, output.semantic_logits)
    sum(tensor.square().mean() for tensor in tensors).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    found = model.eval().predict(torch.rand(1, 3, 33, 47), InferenceSettings(score_threshold=0.0))
    assert found[0].masks.shape[1:] == (33, 47)


def test_images_do_not_influence_each_other():
    model = student().train()
    images = torch.rand(3, 3, 32, 32)
    together, alone = model(images), model(images[1:2])
    torch.testing.assert_close(together.mask_logits[-1][1:2], alone.mask_logits[-1], rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    model = student()
    output = model(torch.rand(2, 3, 32, 32))
    sum(
        t.square().mean() for t in (*output.mask_logits, *output.class_logits, output.semantic_logits)
    ).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_encode_is_the_deepest_map():
    model = student()
    images = torch.rand(2, 3, 32, 40)
    torch.testing.assert_close(model.encode(images), model(images).features)
    assert model.encode(images).requires_grad


def test_scores_labels_and_masks_of_predictions():
    masks = torch.full((3, 4, 4), -8.0)
    masks[0, :2] = 8.0
    masks[1, :, :2] = 0.4
    probabilities = torch.tensor([[0.1, 0.8], [0.9, 0.0], [0.7, 0.2]])  # the third mask is empty
    found = _instances(masks, probabilities, (8, 8), InferenceSettings(score_threshold=0.3))
    quality = torch.tensor(0.4).sigmoid()
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.stack([0.8 * torch.tensor(8.0).sigmoid(), 0.9 * quality]))
    assert found.masks[0, :3].all() and not found.masks[0, 5:].any()
    assert found.masks[1, :, :3].all() and not found.masks[1, :, 5:].any()


def test_a_pixel_is_in_the_mask_above_the_threshold():
    masks = torch.tensor([0.2, 0.4, 0.6, 0.8]).logit().expand(1, 4, 4)
    for threshold, columns in [(0.0, 4), (0.3, 3), (0.5, 2), (0.7, 1)]:
        settings = InferenceSettings(score_threshold=0.0, mask_threshold=threshold)
        (found,) = _instances(masks, torch.ones(1, 1), (4, 4), settings).masks
        assert found.any(0).sum() == columns and found[:, 4 - columns :].all()


def test_limits_of_predictions():
    masks, probabilities = torch.full((5, 4, 4), 5.0), torch.rand(5, 3)
    everything = _instances(masks, probabilities, (4, 4), InferenceSettings(score_threshold=0.0))
    assert len(everything) == 15
    assert (everything.scores.diff() <= 0).all()
    two = _instances(masks, probabilities, (4, 4), InferenceSettings(score_threshold=0.0, max_instances=2))
    torch.testing.assert_close(two.scores, everything.scores[:2])
    none = _instances(masks, probabilities, (4, 7), InferenceSettings(score_threshold=1.0))
    assert none.masks.shape == (0, 4, 7) and len(none) == 0


def test_predict_gives_one_result_per_image_at_its_size():
    results = student().eval().predict(torch.rand(2, 3, 30, 45), InferenceSettings(score_threshold=0.0))
    assert len(results) == 2
    for found in results:
        assert found.masks.shape[1:] == (30, 45) and found.masks.dtype == torch.bool
        assert found.masks.flatten(1).any(1).all()


def test_round_trip(tmp_path):
    model = student().eval()
    save_student(model, tmp_path / "s", NAMES)
    again = load_student(tmp_path / "s")
    assert again.class_names == NAMES and not again.training and again.settings == model.settings
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again(images).mask_logits[-1], model(images).mask_logits[-1])


@pytest.mark.parametrize("encoder", [{}, RESNET, SAM2], ids=["vit", "resnet", "sam2"])
def test_round_trip_with_fpn(tmp_path, encoder):
    model = student(**encoder, pixel_decoder="fpn").eval()
    save_student(model, tmp_path, NAMES)
    again = load_student(tmp_path)
    assert again.settings == model.settings and isinstance(again.pixel_decoder, FPN)
    images = torch.rand(1, 3, 40, 56)
    assert torch.equal(again(images).mask_logits[-1], model(images).mask_logits[-1])


def test_a_folder_older_than_the_choice_of_pixel_decoders(tmp_path):
    model = student().eval()
    save_student(model, tmp_path, NAMES)
    _edit(tmp_path / "config.json", lambda config: config["settings"].pop("pixel_decoder"))
    again = load_student(tmp_path)
    assert again.settings.pixel_decoder == "dpt" and isinstance(again.pixel_decoder, DPT)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images).mask_logits[-1], model(images).mask_logits[-1])


def test_loading_downloads_nothing(tmp_path):
    model = student()
    model.settings = model.settings.model_copy(update={"encoder_pretrained": True})
    save_student(model, tmp_path, NAMES)
    assert load_student(tmp_path).settings.encoder_pretrained


def _edit(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "model.safetensors: cannot be read"),
        (lambda f: (f / "config.json").unlink(), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: _edit(f / "config.json", lambda c: c.update(model_type="bert")), "model_type is 'bert'"),
        (lambda f: _edit(f / "config.json", lambda c: c.pop("class_names")), "class_names"),
        (lambda f: _edit(f / "config.json", lambda c: c["settings"].update(novel=1)), "novel"),
        (lambda f: _edit(f / "config.json", lambda c: c["class_names"].append("x")), "of another shape"),
        (lambda f: _edit(f / "config.json", lambda c: c["settings"].update(decoder_layers=3)), "missing"),
        (lambda f: _edit(f / "config.json", lambda c: c["settings"].update(decoder_layers=1)), "unexpected"),
    ],
)
def test_damaged_folders_are_named(tmp_path, damage, message):
    save_student(student(), tmp_path, NAMES)
    damage(tmp_path)
    with pytest.raises(CastError, match=message) as error:
        load_student(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "no_such_model"}, "timm has no model"),
        ({"encoder_args": {"nonsense": 1}}, "encoder_args"),
        ({"encoder_blocks": (1, 2, 9)}, "encoder_blocks"),
        ({"encoder_blocks": (1, 2, 3, 4)}, "dpt_widths"),
        ({"decoder_heads": 3}, "decoder_dim"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(CastError, match=message):
        student(**changes)
