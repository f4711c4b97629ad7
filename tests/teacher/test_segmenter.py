from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cast.teacher.segmenter import load_segmenter

BOXES = torch.tensor(
    [[[10.0, 10, 50, 30], [60, 50, 80, 90], [0, 0, 96, 96], [5, 40, 25, 60], [30, 2, 90, 70]]]
)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(2))


def test_the_trainable_encoding_is_the_librarys_with_gradient(segmenter, image):
    segmenter.eval()
    torch.nn.init.normal_(segmenter.model.no_memory_embedding)
    embeddings = segmenter.encode(image)
    expected = segmenter.model.get_image_embeddings((image - segmenter.mean) / segmenter.std)
    for ours, theirs in zip(embeddings, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    segmenter.encode(image)[-1].square().sum().backward()
    assert segmenter.model.vision_encoder.backbone.patch_embed.projection.weight.grad.abs().sum() > 0


def test_decoding_in_chunks_equals_decoding_at_once(segmenter, image):
    embeddings = segmenter.eval().encode(image)
    at_once = segmenter.decode(embeddings, BOXES, (96, 96))
    in_chunks = segmenter.decode(embeddings, BOXES, (96, 96), chunk=2)
    assert at_once[0].shape == (1, 5, 24, 24)
    assert at_once[1].shape == (1, 5)
    for whole, parts in zip(at_once, in_chunks, strict=True):
        torch.testing.assert_close(whole, parts)


def test_decoding_equals_the_librarys_single_masks(segmenter, image):
    segmenter.eval()
    pixels = (image - segmenter.mean) / segmenter.std
    output = segmenter.model(pixel_values=pixels, input_boxes=BOXES, multimask_output=False)
    mask_logits, iou = segmenter.decode(segmenter.encode(image), BOXES, (96, 96))
    torch.testing.assert_close(mask_logits, output.pred_masks[:, :, 0])
    torch.testing.assert_close(iou, output.iou_scores[:, :, 0])


def test_training_and_inference_use_the_same_mask(segmenter, image):
    """With the library's default, eval mode would swap unsteady masks for untrained ones."""
    embeddings = segmenter.encode(image)
    training = segmenter.train().decode(embeddings, BOXES, (96, 96))[0]
    torch.testing.assert_close(segmenter.eval().decode(embeddings, BOXES, (96, 96))[0], training)


def test_boxes_are_scaled_by_each_axis(segmenter, image):
    """An image squeezed to half its width, with boxes squeezed alike, is nearly the same to the model."""
    segmenter.eval()
    embeddings = segmenter.encode(image)
    squeezed = BOXES * torch.tensor([0.5, 1, 0.5, 1])
    wanted = segmenter.decode(embeddings, BOXES, (96, 96))[0]
    torch.testing.assert_close(segmenter.decode(embeddings, squeezed, (96, 48))[0], wanted)
    assert not torch.allclose(segmenter.decode(embeddings, squeezed, (96, 96))[0], wanted)


def test_any_image_size_is_resized_to_the_models(segmenter):
    maps = segmenter.encode(torch.rand(2, 3, 64, 160))
    sides = zip(segmenter.widths, (24, 12, 6), strict=True)
    assert [found.shape for found in maps] == [(2, width, side, side) for width, side in sides]
    large = torch.rand(1, 3, 192, 192)
    small = F.interpolate(large, (96, 96), mode="bilinear", antialias=True)
    torch.testing.assert_close(segmenter.encode(large), segmenter.encode(small))


def test_no_boxes_give_no_masks(segmenter, image):
    mask_logits, iou = segmenter.decode(segmenter.encode(image), torch.zeros(1, 0, 4), (96, 96))
    assert mask_logits.shape == (1, 0, 24, 24)
    assert iou.shape == (1, 0)


def test_boxes_and_image_cells_share_their_positions(segmenter):
    model = segmenter.model
    assert torch.equal(
        model.shared_image_embedding.positional_embedding,
        model.prompt_encoder.shared_embedding.positional_embedding,
    )


def test_a_saved_segmenter_comes_back_with_its_options(segmenter, image, tmp_path):
    segmenter.eval().save(tmp_path)
    again = load_segmenter(tmp_path).eval()
    assert not again.model.mask_decoder.dynamic_multimask_via_stability
    wanted = segmenter.decode(segmenter.encode(image), BOXES, (96, 96))
    for ours, theirs in zip(again.decode(again.encode(image), BOXES, (96, 96)), wanted, strict=True):
        assert torch.equal(ours, theirs)
