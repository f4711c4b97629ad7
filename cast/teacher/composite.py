"""The composite teacher: Grounding DINO finds and names objects, SAM 2 draws their masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cast.config import InferenceSettings
from cast.data.batch import Instances
from cast.teacher.detector import Detections, Detector, load_detector
from cast.teacher.segmenter import Segmenter, load_segmenter

DETECTOR_FOLDER, SEGMENTER_FOLDER = "detector", "segmenter"


class CompositeTeacher(nn.Module):
    """Both parts; while they are pretrained side by side one of them may be absent.

    Parameter names begin with `detector.` and `segmenter.`.

    Args:
        detector: boxes and classes.
        segmenter: masks.
        class_names: C names.
    """

    def __init__(
        self, detector: Detector | None, segmenter: Segmenter | None, class_names: Sequence[str]
    ) -> None:
        super().__init__()
        assert detector is not None or segmenter is not None
        self.detector, self.segmenter, self.class_names = detector, segmenter, list(class_names)

    @torch.no_grad()
    def predict(
        self, images: Tensor, inference: InferenceSettings, cores: Tensor | None = None
    ) -> list[Instances]:
        """Instances of each image; score = detector score · √(predicted mask IoU).

        Args:
            images: (B, 3, H, W), RGB in 0 … 1.
            inference: thresholds, and how many boxes to decode at a time.
            cores: (B, 4), x0, y0, x1, y1 in pixels. Boxes that do not reach into them get no mask: its
                centre could not lie there, and overlapping windows would draw most objects several times.

        Returns:
            B sets of instances at H × W, best first, no mask empty, no score below the threshold.
        """
        assert self.detector is not None, "a teacher without detector cannot predict"
        assert self.segmenter is not None, "a teacher without segmenter cannot predict"
        size = (images.shape[-2], images.shape[-1])
        detections = self.detector.detect(images, inference)
        if cores is not None:
            detections = [_reaching(found, core) for found, core in zip(detections, cores, strict=True)]
        boxes = nn.utils.rnn.pad_sequence([found.boxes for found in detections], batch_first=True)
        mask_logits, predicted_iou = self.segmenter.decode(
            self.segmenter.encode(images), boxes, size, inference.prompt_chunk
        )
        return [
            _instances(found, logits[: len(found.boxes)], iou[: len(found.boxes)], size, inference)
            for found, logits, iou in zip(detections, mask_logits, predicted_iou, strict=True)
        ]


def save_teacher(teacher: CompositeTeacher, folder: Path) -> None:
    """Write `folder`/detector and `folder`/segmenter in Hugging Face layout (those that the teacher has)."""
    for name, part in ((DETECTOR_FOLDER, teacher.detector), (SEGMENTER_FOLDER, teacher.segmenter)):
        if part is not None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            part.save(folder / name)


def load_teacher(
    detector_folder: Path, segmenter_folder: Path, class_names: Sequence[str] | None = None
) -> CompositeTeacher:
    """A teacher saved by `save_teacher`, in eval mode.

    Args:
        detector_folder: folder of the detector.
        segmenter_folder: folder of the segmenter.
        class_names: the dataset's classes; taken from the detector's folder when None.

    Raises:
        CastError: a folder is incomplete, or the detector was trained for other classes.
    """
    detector = load_detector(Path(detector_folder), class_names)
    return CompositeTeacher(detector, load_segmenter(Path(segmenter_folder)), detector.class_names).eval()


def _reaching(detections: Detections, core: Tensor) -> Detections:
    """The detections whose box overlaps the core."""
    boxes = detections.boxes
    return detections[((boxes[:, :2] < core[2:]) & (boxes[:, 2:] > core[:2])).all(1)]


def _instances(
    detections: Detections,
    mask_logits: Tensor,
    predicted_iou: Tensor,
    size: tuple[int, int],
    inference: InferenceSettings,
) -> Instances:
    """One image's instances: masks brought to the image's size, a chunk at a time, and scored."""
    threshold = inference.mask_threshold
    masks = torch.cat(
        [
            F.interpolate(part[:, None].float(), size, mode="bilinear")[:, 0].sigmoid() > threshold
            for part in mask_logits.split(inference.prompt_chunk)
        ]
    )
    quality = predicted_iou.float().clamp(0, 1)
    scores = detections.scores * quality.sqrt()
    keep = (masks.flatten(1).any(1) & (scores >= inference.score_threshold)).nonzero()[:, 0]
    order = keep[scores[keep].argsort(descending=True, stable=True)]
    confidences = torch.stack([detections.scores, quality], 1)
    return Instances(masks, detections.labels, scores, confidences)[order]
