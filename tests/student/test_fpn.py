"""The Feature Pyramid Network against the paper's words, and its shapes and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cast.errors import CastError
from cast.student.fpn import FPN


def pyramid_maps(channels, height, width):
    """Maps of strides 4, 8, 16, … of images of `height` × `width`, multiples of the deepest stride."""
    return [torch.randn(2, c, height // (4 << n), width // (4 << n)) for n, c in enumerate(channels)]


def from_the_paper(fpn, maps):
    """Section 3, for maps that halve from one to the next: mask features and pyramid, finest first."""
    merged = []
    for number in reversed(range(len(maps))):
        weight, bias = fpn.lateral[number].weight[:, :, 0, 0], fpn.lateral[number].bias
        features = torch.einsum("oc,bchw->bohw", weight, maps[number]) + bias[:, None, None]
        if merged:
            batch, dim, height, width = features.shape
            for y in range(height):
                for x in range(width):
                    features[:, :, y, x] += merged[0][:, :, y // 2, x // 2]
            assert merged[0].shape == (batch, dim, height // 2, width // 2)
        merged.insert(0, features)
    outputs = []
    for number, features in enumerate(merged):
        convolution, padded = fpn.output[str(number)], F.pad(features, (1, 1, 1, 1))
        height, width = features.shape[-2:]
        outputs.append(convolution.bias[:, None, None].expand(len(features), -1, height, width))
        for y in range(3):
            for x in range(3):
                window = padded[:, :, y : y + height, x : x + width]
                taps = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, y, x], window)
                outputs[-1] = outputs[-1] + taps
    head = fpn.mask_head.weight[:, :, 0, 0]
    return torch.einsum("oc,bchw->bohw", head, outputs[0]) + fpn.mask_head.bias[:, None, None], outputs


@torch.no_grad()
def test_a_pyramid_is_merged_as_in_the_paper():
    channels = [3, 5, 6, 7]
    fpn, maps = FPN(channels, [4, 8, 16, 32], 8, 6, mask_stride=4), pyramid_maps(channels, 64, 96)
    mask_features, pyramid = fpn(maps, torch.zeros(2, 3, 64, 96))
    expected_masks, outputs = from_the_paper(fpn, maps)
    torch.testing.assert_close(mask_features, expected_masks, rtol=1e-4, atol=1e-5)
    assert len(pyramid) == 3
    for ours, expected in zip(pyramid, [outputs[3], outputs[2], outputs[1]], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_transformers_maps_become_a_pyramid_by_plain_interpolation():
    fpn = FPN([5] * 3, [14] * 3, 8, 6, mask_stride=4)
    maps = [torch.randn(2, 5, 8, 16) for _ in range(3)]  # 112 × 224 pixels
    resampled = [
        F.interpolate(one, scale_factor=14 / stride, mode="bilinear", align_corners=False)
        for one, stride in zip(maps, (4, 8, 16), strict=True)
    ]
    assert [tuple(one.shape[-2:]) for one in resampled] == [(28, 56), (14, 28), (7, 14)]
    mask_features, pyramid = fpn(maps, torch.zeros(2, 3, 112, 224))
    expected_masks, outputs = from_the_paper(fpn, resampled)
    torch.testing.assert_close(mask_features, expected_masks, rtol=1e-4, atol=1e-5)
    for ours, expected in zip(pyramid, reversed(outputs), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(56, 112), (37, 51)])
def test_levels_follow_the_mask_stride(stride, height, width):
    fpn = FPN([5] * 4, [14] * 4, 8, 6, mask_stride=stride)
    grid = (round(height / 14), round(width / 14))
    mask_features, pyramid = fpn(
        [torch.randn(1, 5, *grid) for _ in range(4)], torch.zeros(1, 3, height, width)
    )
    assert mask_features.shape == (1, 6, -(-height // stride), -(-width // stride))
    sizes = [(1, 8, -(-height // (stride * n)), -(-width // (stride * n))) for n in (8, 4, 2)]
    assert [tuple(one.shape) for one in pyramid] == sizes


def test_a_pyramids_own_maps_are_not_resampled():
    fpn = FPN([4, 5, 6], [4, 8, 16], 8, 6, mask_stride=4)
    # The encoder saw 64 × 96 pixels of an image that is a little larger.
    mask_features, pyramid = fpn(pyramid_maps([4, 5, 6], 64, 96), torch.zeros(2, 3, 69, 99))
    assert [tuple(one.shape[-2:]) for one in pyramid] == [(4, 6), (8, 12), (16, 24)]
    assert mask_features.shape == (2, 6, 18, 25)


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_every_parameter_gets_a_gradient(levels):
    fpn = FPN([4] * levels, [8] * levels, 8, 6, mask_stride=4, convolutional_stem=True)
    maps = [torch.randn(1, 4, 8, 8) for _ in range(levels)]
    mask_features, pyramid = fpn(maps, torch.rand(1, 3, 64, 64))
    assert len(pyramid) == 3
    sum(one.square().mean() for one in (mask_features, *pyramid)).backward()
    assert [name for name, p in fpn.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_too_few_maps():
    with pytest.raises(CastError, match=r"student\.encoder_blocks: 2 maps; give 3 at least"):
        FPN([4, 4], [8, 8], 8, 6, mask_stride=4)
