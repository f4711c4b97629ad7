from __future__ import annotations

import pytest
import torch

from cast.config import InferenceSettings
from cast.errors import CastError
from cast.teacher.composite import load_teacher, save_teacher
from cast.teacher.detector import Detections

LOW = InferenceSettings(score_threshold=0.0, mask_threshold=0.0, nms_iou=1.0)


def found(boxes: list[list[float]], scores: list[float]) -> Detections:
    labels = torch.arange(len(boxes)) % 3
    probabilities = torch.full((len(boxes), 4), 0.25)
    return Detections(torch.tensor(boxes).reshape(-1, 4), labels, torch.tensor(scores), probabilities)


def script(teacher, monkeypatch, detections, mask_logits, iou) -> None:
    """Fix what both parts answer, to test what is made of it."""
    monkeypatch.setattr(teacher.detector, "detect", lambda images, settings: detections)
    monkeypatch.setattr(teacher.segmenter, "decode", lambda *arguments: (mask_logits, iou))


def test_predictions_have_the_size_of_the_image_even_if_not_square(teacher):
    instances = teacher.eval().predict(torch.rand(2, 3, 64, 128), LOW)
    assert len(instances) == 2
    assert len(instances[0]) > 0
    assert instances[0].masks.shape[1:] == (64, 128)


def test_score_is_detection_score_times_root_of_predicted_iou(teacher, monkeypatch):
    logits = torch.ones(1, 3, 24, 24)
    iou = torch.tensor([[0.25, 0.81, 1.44]])
    script(teacher, monkeypatch, [found([[0, 0, 9, 9]] * 3, [0.8, 0.6, 0.1])], logits, iou)
    instances = teacher.predict(torch.rand(1, 3, 96, 96), LOW)[0]
    torch.testing.assert_close(instances.scores, torch.tensor([0.54, 0.4, 0.1]))
    assert instances.labels.tolist() == [1, 0, 2], "best first, labels following"


def test_empty_masks_and_low_scores_are_dropped(teacher, monkeypatch):
    logits = torch.ones(1, 3, 24, 24)
    logits[0, 0] = -1
    script(
        teacher, monkeypatch, [found([[0, 0, 9, 9]] * 3, [0.9, 0.8, 0.3])], logits, torch.full((1, 3), 0.25)
    )
    settings = InferenceSettings(score_threshold=0.2)
    assert teacher.predict(torch.rand(1, 3, 96, 96), settings)[0].labels.tolist() == [1]


def test_only_boxes_that_reach_into_their_windows_core_get_masks(teacher):
    images = torch.rand(2, 3, 96, 96)
    cores = torch.tensor([[0.0, 0.0, 48.0, 96.0], [48.0, 48.0, 96.0, 96.0]])
    everything, cored = teacher.eval().predict(images, LOW), teacher.predict(images, LOW, cores)
    boxes = teacher.detector.detect(images, LOW)
    for whole, kept, found_boxes, core in zip(everything, cored, boxes, cores, strict=True):
        x0, y0, x1, y1 = found_boxes.boxes.unbind(1)
        outside = (x1 <= core[0]) | (y1 <= core[1]) | (x0 >= core[2]) | (y0 >= core[3])
        assert 0 < len(kept) == (~outside).sum() < len(whole)
        for score, mask in zip(kept.scores, kept.masks, strict=True):
            same = (whole.scores - score).abs() < 1e-6
            assert any(torch.equal(mask, other) for other in whole.masks[same])


def test_images_without_detections_are_empty_beside_others_and_alone(teacher, monkeypatch):
    some, none = found([[0, 0, 9, 9], [4, 4, 50, 50]], [0.9, 0.8]), found([], [])
    logits, iou = torch.ones(2, 2, 24, 24), torch.ones(2, 2)
    script(teacher, monkeypatch, [none, some], logits, iou)
    assert [len(instances) for instances in teacher.predict(torch.rand(2, 3, 96, 96), LOW)] == [0, 2]
    monkeypatch.undo()
    nothing = teacher.eval().predict(torch.rand(1, 3, 48, 96), InferenceSettings(score_threshold=1.0))[0]
    assert nothing.masks.shape == (0, 48, 96)


def test_masks_do_not_depend_on_the_chunk(teacher, images):
    teacher.eval()
    whole = teacher.predict(images, LOW)
    chunked = teacher.predict(images, LOW.model_copy(update={"prompt_chunk": 3}))
    for one, other in zip(whole, chunked, strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        assert torch.equal(one.masks, other.masks)


def test_a_saved_teacher_predicts_the_same(teacher, images, tmp_path):
    teacher.eval()
    save_teacher(teacher, tmp_path)
    again = load_teacher(tmp_path / "detector", tmp_path / "segmenter", teacher.class_names)
    for one, other in zip(teacher.predict(images, LOW), again.predict(images, LOW), strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.masks, other.masks)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert {"detector/config.json", "detector/model.safetensors", "segmenter/model.safetensors"} <= files


def test_a_teacher_of_other_classes_is_refused(teacher, tmp_path):
    save_teacher(teacher, tmp_path)
    with pytest.raises(
        CastError, match="trained for the classes person, traffic light, car, but the dataset has car"
    ):
        load_teacher(tmp_path / "detector", tmp_path / "segmenter", ["car"])


def test_a_folder_without_class_names_is_named(tmp_path):
    with pytest.raises(CastError, match=r"cast\.json: cannot be read"):
        load_teacher(tmp_path, tmp_path)


def test_parameter_names_begin_with_the_part(teacher):
    assert {name.split(".")[0] for name, _ in teacher.named_parameters()} == {"detector", "segmenter"}
    assert any(
        name.startswith("detector.model.model.text_backbone.") for name, _ in teacher.named_parameters()
    )
    assert any(name.startswith("segmenter.model.prompt_encoder.") for name, _ in teacher.named_parameters())
