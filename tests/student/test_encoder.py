"""The encoder: which maps it gives, and its files."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
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


# --- pyramid networks ---------------------------------------------------------------------------------------

PYRAMIDS = {
    "resnet": ("resnet10t", {"stem_width": 8, "channels": [8, 16, 24, 32]}, [8, 16, 24, 32]),
    "sam2": (
        "sam2_hiera_tiny",
        {"embed_dim": 8, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]},
        [8, 16, 32, 64],
    ),
}


class PyramidHolder(nn.Module):
    """As `Holder`, with a pyramid network."""

    def __init__(self, family, blocks=(1, 2, 3, 4), **changes):
        super().__init__()
        name, arguments, _ = PYRAMIDS[family]
        settings = {"encoder": name, "encoder_args": arguments, "encoder_pretrained": False}
        self.encoder = Encoder(StudentSettings(**(settings | {"encoder_blocks": blocks} | changes)))


@pytest.mark.parametrize("family", PYRAMIDS)
@pytest.mark.parametrize(
    ("size", "cells"), [((64, 96), (2, 3)), ((75, 131), (2, 4)), ((518, 70), (16, 2)), ((9, 33), (1, 1))]
)
def test_a_pyramid_at_any_size(family, size, cells):
    encoder = PyramidHolder(family).encoder.eval()
    assert encoder.strides == [4, 8, 16, 32] and encoder.channels == PYRAMIDS[family][2]
    maps = encoder(torch.rand(2, 3, *size))
    shapes = [(2, c, cells[0] * n, cells[1] * n) for c, n in zip(encoder.channels, (8, 4, 2, 1), strict=True)]
    assert [tuple(one.shape) for one in maps] == shapes


@pytest.mark.parametrize("family", PYRAMIDS)
def test_stages_are_counted_from_one(family):
    whole, part = PyramidHolder(family).encoder.eval(), PyramidHolder(family, (2, 3)).encoder.eval()
    assert part.strides == [8, 16] and part.channels == PYRAMIDS[family][2][1:3]
    own = part.model.state_dict()
    assert len(own) < len(whole.model.state_dict())  # nothing deeper than stage 3 is kept
    part.model.load_state_dict({name: whole.model.state_dict()[name] for name in own})
    images = torch.rand(1, 3, 64, 64)
    for ours, expected in zip(part(images), whole(images)[1:3], strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("family", PYRAMIDS)
def test_round_trip_of_a_pyramid(tmp_path, family):
    first, second = PyramidHolder(family), PyramidHolder(family)
    first.train()
    first.encoder(torch.rand(2, 3, 64, 64))  # moves the statistics of batch norms
    save_encoder(first, tmp_path)
    load_encoder_weights(second, tmp_path)
    images = torch.rand(1, 3, 50, 70)
    for ours, expected in zip(second.eval().encoder(images), first.eval().encoder(images), strict=True):
        assert torch.equal(ours, expected)
    other = PyramidHolder({"resnet": "sam2", "sam2": "resnet"}[family])
    with pytest.raises(CastError, match="weights do not fit"):
        load_encoder_weights(other, tmp_path)


@pytest.mark.parametrize("family", PYRAMIDS)
def test_weights_from_a_file_of_timm(tmp_path, family):
    name, arguments, _ = PYRAMIDS[family]
    published = timm.create_model(name, pretrained=False, **arguments)  # with its classifier, if it has one
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "model.safetensors")}}
    encoder = PyramidHolder(family, encoder_pretrained=True, encoder_args=arguments | overlay).encoder
    loaded = {key.removeprefix("model."): value for key, value in encoder.model.state_dict().items()}
    assert len(loaded) > 20
    assert all(torch.equal(value, published.state_dict()[key]) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"blocks": (3, 6, 9, 12)},
            r"encoder_blocks: \[3, 6, 9, 12\] must .* end at 4 at most, .* stages",
        ),
        ({"blocks": ()}, "encoder_blocks"),
        ({"encoder_args": {"output_stride": 16}}, r"have strides \[4, 8, 16, 16\], not \[4, 8, 16, 32\]"),
    ],
)
def test_stages_that_do_not_exist(changes, message):
    with pytest.raises(CastError, match=message):
        PyramidHolder("resnet", **changes)


@pytest.mark.parametrize(
    ("name", "blocks", "millions", "channels"),
    [
        ("resnet50.a1_in1k", (1, 2, 3, 4), 24, [256, 512, 1024, 2048]),
        ("sam2_hiera_small.fb_r896", (1, 2, 3, 4), 35, [96, 192, 384, 768]),
        ("vit_small_patch14_dinov2.lvd142m", (3, 6, 9, 12), 22, [384] * 4),
    ],
)
def test_the_papers_encoders(name, blocks, millions, channels):
    with torch.device("meta"):
        encoder = Encoder(StudentSettings(encoder=name, encoder_blocks=blocks, encoder_pretrained=False))
    assert encoder.channels == channels
    # As reported in the paper's table 5, whose 35 M of SAM 2-S may count a little more than the encoder.
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=1.1)
