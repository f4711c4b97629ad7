"""A file of timm's weights fills the encoder wholly, or is refused in one line."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from cast.config import StudentSettings
from cast.errors import CastError
from cast.student.encoder import Encoder

SIZE = {"img_size": (32, 32), "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def encoder(file, name="vit_tiny_patch16_224", **changes):
    arguments = SIZE | changes if name.startswith("vit") else changes
    arguments |= {"pretrained_cfg_overlay": {"file": str(file)}}
    blocks = (1, 2, 3) if name.startswith("vit") else (1, 2, 3, 4)
    return Encoder(StudentSettings(encoder=name, encoder_args=arguments, encoder_blocks=blocks))


def saved(path, name="vit_tiny_patch16_224", **arguments):
    """A file as timm publishes it, with its classifier."""
    model = timm.create_model(name, **(SIZE | arguments if name.startswith("vit") else arguments))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    save_file(model.state_dict(), path)
    return model


def test_every_tensor_but_the_classifiers_is_loaded(tmp_path):
    published = saved(tmp_path / "file.safetensors").state_dict()
    found = encoder(tmp_path / "file.safetensors").model
    assert published.keys() - found.state_dict().keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(value, published[name]) for name, value in found.state_dict().items())
    assert "state_dict" not in found.pretrained_cfg


def test_position_embeddings_are_resampled_to_the_configured_size(tmp_path):
    saved(tmp_path / "file.safetensors")
    assert encoder(tmp_path / "file.safetensors", img_size=(64, 32)).model.pos_embed.shape == (1, 33, 16)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_a_pyramid_is_filled_or_refused(tmp_path, name):
    published = saved(tmp_path / "file.safetensors", name)
    found = encoder(tmp_path / "file.safetensors", name)
    images = torch.rand(1, 3, 64, 64)
    whole = published.eval().forward_intermediates((images - found.mean) / found.std, intermediates_only=True)
    torch.testing.assert_close(found.eval()(images)[-1], whole[-1])
    saved(tmp_path / "other.safetensors")
    with pytest.raises(CastError, match=rf"other\.safetensors: its tensors are not those of {name}"):
        encoder(tmp_path / "other.safetensors", name)


@pytest.mark.parametrize(
    "arguments", [{"depth": 2}, {"depth": 4}, {"embed_dim": 32}, {"class_token": False, "global_pool": "avg"}]
)
def test_a_file_of_another_architecture_is_one_line(tmp_path, arguments):
    saved(tmp_path / "file.safetensors", **arguments)
    with pytest.raises(CastError, match=r"file\.safetensors: its tensors are not those of vit_tiny") as error:
        encoder(tmp_path / "file.safetensors")
    assert "\n" not in str(error.value)


def test_a_file_of_unrelated_tensors_is_refused(tmp_path):
    """timm alone would leave every weight random here, without an error."""
    save_file({"weight": torch.ones(2)}, tmp_path / "file.safetensors")
    with pytest.raises(CastError, match="its tensors are not those of"):
        encoder(tmp_path / "file.safetensors")


@pytest.mark.parametrize("name", ["file.safetensors", "file.pth"])
def test_a_damaged_file_is_one_line(tmp_path, name):
    saved(tmp_path / "whole")
    (tmp_path / name).write_bytes((tmp_path / "whole").read_bytes()[:-100])
    with pytest.raises(CastError, match=rf"{name}: cannot be read as weights") as error:
        encoder(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_key(tmp_path):
    key = r"absent\.safetensors: is not a file; correct student\.encoder_args\.pretrained_cfg_overlay\.file"
    with pytest.raises(CastError, match=key):
        encoder(tmp_path / "absent.safetensors")
