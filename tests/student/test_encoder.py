"""The encoder: which maps it gives, its files, and what it says when weights cannot be had."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cast.config import StudentSettings
from cast.errors import CastError
from cast.student.encoder import Encoder, load_encoder_weights, save_encoder


class Holder(nn.Module):
    """Stands for a student: only its encoder matters here."""

    def __init__(self, **changes):
        super().__init__()
        arguments = {"img_size": (32, 32), "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
        settings = {
            "encoder": "vit_tiny_patch16_224", "encoder_args": arguments | changes.pop("encoder_args", {}),
            "encoder_pretrained": False, "encoder_blocks": (1, 2, 3),
        }  # fmt: skip
        self.encoder = Encoder(StudentSettings(**(settings | changes)))


def test_maps_of_the_named_blocks():
    torch.manual_seed(0)
    encoder = Holder().encoder.eval()
    images = torch.rand(2, 3, 32, 48)
    maps = encoder(images)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 6)] * 3
    whole = encoder.model.forward_features((images - encoder.mean) / encoder.std)
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), whole[:, 1:])
    other = Holder(encoder_blocks=(1, 2)).encoder
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other.eval()(images)[-1], maps[1])


def test_odd_sizes_go_to_the_nearest_multiple():
    encoder = Holder().encoder
    assert encoder(torch.rand(1, 3, 35, 37))[-1].shape[-2:] == (4, 5)
    assert encoder(torch.rand(1, 3, 3, 8))[-1].shape[-2:] == (1, 1)


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    first, second = Holder(), Holder()
    save_encoder(first, tmp_path)
    load_encoder_weights(second, tmp_path)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(second.encoder(images)[-1], first.encoder(images)[-1])


def test_position_embeddings_are_resampled(tmp_path):
    source, larger = Holder(encoder_args={"img_size": (32, 48)}), Holder(encoder_args={"img_size": (64, 64)})
    embedding = source.encoder.model.pos_embed.data
    embedding[:, 1:] = torch.arange(4.0).repeat_interleave(6)[None, :, None]  # grows downwards only
    save_encoder(source, tmp_path)
    load_encoder_weights(larger, tmp_path)
    grid = larger.encoder.model.pos_embed[0, 1:].view(8, 8, 16)
    torch.testing.assert_close(grid[:, 0], grid[:, 7], rtol=1e-4, atol=1e-4)
    assert (grid[1:7, 0].diff(dim=0) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"depth": 4}, "missing"), ({"depth": 2}, "unexpected"), ({"embed_dim": 32}, "of another shape")],
)
def test_weights_of_another_architecture(tmp_path, arguments, message):
    save_encoder(Holder(), tmp_path)
    blocks = tuple(range(1, arguments.get("depth", 3) + 1))
    with pytest.raises(CastError, match=message):
        load_encoder_weights(Holder(encoder_args=arguments, encoder_blocks=blocks), tmp_path)


def test_no_weights_in_the_folder(tmp_path):
    with pytest.raises(CastError, match=r"config\.json: cannot be read"):
        load_encoder_weights(Holder(), tmp_path)


def test_offline_says_what_to_download(monkeypatch):
    def create(name, pretrained, **_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("timm.create_model", create)
    with pytest.raises(CastError, match="hf download timm/vit_tiny_patch16_224") as error:
        Holder(encoder_pretrained=True)
    assert "\n" not in str(error.value)
