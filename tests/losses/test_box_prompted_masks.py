from __future__ import annotations

import math

import pytest
import torch

from cast.config import TeacherLossSettings
from cast.losses.box_prompted_masks import BoxPromptedMaskLoss, dice_loss, mask_iou

UNIT = TeacherLossSettings(mask_focal_weight=1.0, mask_dice_weight=1.0, mask_iou_weight=1.0)
VALID = torch.tensor([[True, True], [True, False]])


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 2, 8, 8, generator=generator) > 0.5
    return torch.randn(2, 2, 8, 8, generator=generator), torch.rand(2, 2, generator=generator), masks


def test_values_by_hand():
    """Logit 0 everywhere, half of 4 pixels foreground."""
    masks = torch.tensor([[[[True, True], [False, False]]]])
    losses = BoxPromptedMaskLoss(UNIT)(
        torch.zeros(1, 1, 2, 2), torch.tensor([[0.7]]), masks, torch.tensor([[True]])
    )
    # focal: ½² · ln 2 · (α = ¼ on the foreground half, ¾ on the other); dice: 1 − (2·1 + 1)/(2 + 2 + 1)
    assert losses["mask_focal"].item() == pytest.approx(0.25 * math.log(2) * 0.5, rel=1e-5)
    assert losses["mask_dice"].item() == pytest.approx(0.4, rel=1e-5)
    assert losses["mask_iou"].item() == pytest.approx(0.7), "no logit above 0: the true IoU is 0"


def test_a_perfect_prediction_costs_nothing(batch):
    _, _, masks = batch
    logits = masks.float() * 200 - 100
    losses = BoxPromptedMaskLoss(UNIT)(logits, torch.ones(2, 2), masks, VALID)
    assert all(value.item() == pytest.approx(0, abs=1e-4) for value in losses.values())


def test_padding_has_no_influence(batch):
    logits, iou, masks = batch
    wanted = BoxPromptedMaskLoss(UNIT)(logits, iou, masks, VALID)
    logits, iou, masks = logits.clone(), iou.clone(), masks.clone()
    logits[1, 1], iou[1, 1], masks[1, 1] = 1e4, 0.0, True
    torch.testing.assert_close(BoxPromptedMaskLoss(UNIT)(logits, iou, masks, VALID), wanted)


def test_the_order_of_the_prompts_does_not_matter(batch):
    logits, iou, masks = batch
    swapped = BoxPromptedMaskLoss(UNIT)(logits.flip(1), iou.flip(1), masks.flip(1), VALID.flip(1))
    torch.testing.assert_close(swapped, BoxPromptedMaskLoss(UNIT)(logits, iou, masks, VALID))


def test_gradients_move_masks_and_predicted_iou_to_the_truth(batch):
    logits, iou, masks = (batch[0] * 0.1).requires_grad_(), batch[1].requires_grad_(), batch[2]
    losses = BoxPromptedMaskLoss(UNIT)(logits, iou, masks, VALID)
    mask_part = losses["mask_focal"] + losses["mask_dice"]
    (gradient,) = torch.autograd.grad(mask_part, logits, retain_graph=True)
    assert (gradient[VALID][masks[VALID]] < 0).all()
    assert (gradient[VALID][~masks[VALID]] > 0).all()
    assert (gradient[~VALID] == 0).all()
    (of_iou, of_logits) = torch.autograd.grad(losses["mask_iou"], (iou, logits), allow_unused=True)
    truth = mask_iou(logits.flatten(0, 1).flatten(1), masks.flatten(0, 1).flatten(1)).reshape(2, 2)
    assert torch.equal(of_iou[VALID].sign(), (iou - truth)[VALID].sign())
    assert of_logits is None, "masks do not learn from the IoU term"


def test_no_valid_prompt_gives_zeros_with_gradient(batch):
    logits, iou, masks = batch[0].requires_grad_(), batch[1].requires_grad_(), batch[2]
    losses = BoxPromptedMaskLoss(UNIT)(logits, iou, masks, torch.zeros_like(VALID))
    assert all(value == 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert logits.grad is not None
    assert iou.grad is not None


def test_weights_are_applied(batch):
    plain = BoxPromptedMaskLoss(UNIT)(*batch, VALID)
    weighted = BoxPromptedMaskLoss(TeacherLossSettings())(*batch, VALID)
    settings = TeacherLossSettings()
    torch.testing.assert_close(weighted["mask_focal"], plain["mask_focal"] * settings.mask_focal_weight)
    torch.testing.assert_close(weighted["mask_dice"], plain["mask_dice"] * settings.mask_dice_weight)


def test_half_precision_is_computed_in_float32(batch):
    logits, iou, masks = batch
    losses = BoxPromptedMaskLoss(UNIT)(logits.bfloat16(), iou.bfloat16(), masks, VALID)
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_iou_and_dice_of_empty_masks_are_finite():
    empty = torch.zeros(1, 9, dtype=torch.bool)
    assert mask_iou(torch.full((1, 9), -1.0), empty).tolist() == [0.0]
    assert torch.isfinite(dice_loss(torch.full((1, 9), -1.0), empty)).all()
