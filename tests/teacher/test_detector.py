from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torchvision.ops import box_iou

from cast.config import InferenceSettings, PretrainedModel
from cast.errors import CastError
from cast.teacher.detector import _select, build_detector, class_distribution

MODELS = Path(__file__).parents[2] / "config" / "models"
PROPOSAL_HEAD = ("enc_output.", "enc_output_norm.", "encoder_output_bbox_embed.")
EVERYTHING = InferenceSettings(score_threshold=0.0, nms_iou=1.0)


def gradient_norms(detector) -> dict[str, float]:
    """Largest gradient of each module of the head that proposes queries."""
    return {
        module: max(
            0.0 if parameter.grad is None else parameter.grad.abs().max().item()
            for name, parameter in detector.model.model.named_parameters()
            if name.startswith(module)
        )
        for module in PROPOSAL_HEAD
    }


def test_the_proposal_head_learns_from_the_mended_loss(detector, images, targets):
    torch.stack(list(detector.losses(images, targets).values())).sum().backward()
    assert all(norm > 0 for norm in gradient_norms(detector).values()), gradient_norms(detector)


def test_the_library_still_needs_mending(detector, images, targets):
    """When this fails, transformers trains the proposal head itself: use its `*_enc` terms again."""
    labels = [
        {"class_labels": target.labels, "boxes": torch.full((len(target.labels), 4), 0.4)}
        for target in targets
    ]
    input_ids = detector.input_ids.expand(len(images), -1)
    detector.model(images, input_ids, labels=labels).loss.backward()
    assert all(norm == 0 for norm in gradient_norms(detector).values()), gradient_norms(detector)


def test_losses_without_the_encoder_are_the_librarys(detector, images, targets):
    detector.eval()
    losses = detector.losses(images, targets)
    scaled = [target.boxes / 96 for target in targets]
    labels = [
        {
            "class_labels": target.labels,
            "boxes": torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], 1),
        }
        for target, box in zip(targets, scaled, strict=True)
    ]
    normalised = (images - detector.mean) / detector.std
    output = detector.model(normalised, detector.input_ids.expand(2, -1), labels=labels)
    weights = {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    of_encoder = sum(weights[key] * output.loss_dict[f"{key}_enc"] for key in weights)
    ours = losses["class"] + losses["box"] + losses["giou"]
    torch.testing.assert_close(ours, output.loss - of_encoder)


def test_images_without_instances_give_a_loss_with_gradient(detector, images, targets):
    losses = detector.losses(images, [targets[1], targets[1]])
    assert losses["box"] == 0
    assert all(torch.isfinite(value) for value in losses.values())
    losses["class"].backward()
    assert detector.model.class_embed[0].bias.grad.abs() > 0


def test_class_scores_average_the_tokens_of_each_class(detector):
    logits = torch.full((1, 1, 32), -torch.inf)
    first, second = detector.class_tokens[1].nonzero()[:, 0].tolist()
    logits[0, 0, first], logits[0, 0, second] = torch.logit(torch.tensor([0.9, 0.3]))
    torch.testing.assert_close(detector._class_scores(logits), torch.tensor([[[0.0, 0.6, 0.0]]]))


def test_class_distribution_of_known_scores():
    torch.testing.assert_close(class_distribution(torch.tensor([0.5])), torch.tensor([0.5, 0.5]))
    # P(one of two) given at most one: 0.8·0.5 : 0.2·0.5 : 0.2·0.5
    torch.testing.assert_close(
        class_distribution(torch.tensor([0.8, 0.5])), torch.tensor([4.0, 1.0, 1.0]) / 6
    )
    assert torch.isfinite(class_distribution(torch.tensor([0.0, 1.0]))).all()


def test_one_object_keeps_its_best_class_only():
    boxes = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 31], [50, 50, 90, 90]])
    class_scores = torch.tensor([[0.6, 0.1], [0.2, 0.7], [0.3, 0.1]])
    found = _select(boxes, class_scores, (96, 96), InferenceSettings(score_threshold=0.2, nms_iou=0.7))
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.7, 0.3]))
    assert found.class_probabilities.shape == (2, 3)


def test_selection_respects_threshold_number_and_image():
    boxes = torch.tensor([[-5.0, 0, 30, 30], [40, 40, 200, 60], [200, 0, 230, 20], [0, 50, 30, 90]])
    class_scores = torch.tensor([[0.5], [0.6], [0.9], [0.1]])
    settings = InferenceSettings(score_threshold=0.2)
    found = _select(boxes, class_scores, (64, 96), settings)
    assert found.boxes.tolist() == [[40, 40, 96, 60], [0, 0, 30, 30]]
    one = _select(boxes, class_scores, (64, 96), settings.model_copy(update={"max_instances": 1}))
    assert one.scores.tolist() == pytest.approx([0.6])


def test_detections_are_boxes_inside_the_image(detector):
    found = detector.eval().detect(torch.rand(1, 3, 64, 128), EVERYTHING)[0]
    assert len(found.boxes) > 0
    inside = box_iou(found.boxes, torch.tensor([[0.0, 0, 128, 64]]))
    areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    torch.testing.assert_close(inside[:, 0], areas / (128 * 64))
    assert (found.scores.diff() <= 0).all()


def test_more_queries_than_feature_tokens_is_an_error_in_words(detector):
    with pytest.raises(CastError, match="20 queries, more than feature tokens in an image of 16 x 16"):
        detector(torch.rand(1, 3, 16, 16))


def test_a_prompt_longer_than_the_checkpoint_reads_makes_room(detector, images, targets):
    """100 classes may pass the released checkpoints' 256 tokens; their text encoders have 512 positions."""
    tiny = yaml.safe_load((MODELS / "detector_tiny.yaml").read_text(encoding="utf-8"))
    short = PretrainedModel(architecture=tiny | {"max_text_len": 4})
    other = build_detector(short, detector.class_names)
    assert other.model.config.max_text_len == len(other.input_ids) == 9
    other.load_state_dict(detector.state_dict())
    ours, same = other.eval()(images, targets), detector.eval()(images, targets)
    assert torch.equal(ours.boxes, same.boxes)
    torch.testing.assert_close(ours.class_scores, same.class_scores)
    for name, loss in same.losses.items():
        torch.testing.assert_close(ours.losses[name], loss)
