"""What a model costs per image: parameters, FLOPs and latency, of untrained models just as of trained ones.

FLOPs are what torch counts (torch.utils.flop_counter): matrix products, convolutions and attention, **two for
each multiply-add**; half of them are the multiply-adds (MACs) that many papers call FLOPs. Element-wise
operations, norms, softmax, resizing and the sampling of deformable attention count nothing. Batch size is 1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cast.config import InferenceSettings, Precision, PretrainedModel, StudentSettings
from cast.student.model import Student, num_parameters
from cast.teacher.composite import CompositeTeacher
from cast.teacher.detector import Detections, Detector, random_detector
from cast.teacher.segmenter import random_segmenter

FLOPS_PER_MAC = 2  # torch's convention
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
Size = tuple[int, int]


@dataclass(frozen=True)
class Latency:
    """Times of one prediction in several rounds.

    Attributes:
        milliseconds: one for each round, none of the warm-up.
    """

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds."""
        return median(self.milliseconds)

    @property
    def fps(self) -> float:
        """Images per second, by the median."""
        return 1000.0 / self.median


@dataclass(frozen=True)
class Cost:
    """What one model costs.

    Attributes:
        parameters: count by part.
        flops: FLOPs of one image by part; the same parts.
        latency: from image to instances.
    """

    parameters: dict[str, int]
    flops: dict[str, int]
    latency: Latency


# --- models -------------------------------------------------------------------------------------------------


class PromptingDetector(Detector):
    """A detector that works like any other but reports a set number of boxes.

    With random weights, how many boxes it finds means nothing, and the masks' cost depends on it.

    Args:
        detector: whose parts are taken.
        boxes: N, how many it reports for each image.
    """

    def __init__(self, detector: Detector, boxes: int) -> None:
        super().__init__(detector.model, detector.tokenizer, detector.class_names)
        self.boxes = boxes

    @torch.no_grad()
    def detect(self, images: Tensor, settings: InferenceSettings) -> list[Detections]:
        """Detect and select in full, then put N boxes, side by side, in the place of what was found."""
        super().detect(images, settings)
        height, width = images.shape[-2:]
        left = torch.arange(self.boxes, device=images.device) * (width / self.boxes)
        boxes = torch.stack(
            [left, torch.zeros_like(left), left + width / self.boxes, torch.full_like(left, height)], 1
        )
        scores = images.new_ones(self.boxes)
        labels = torch.zeros(self.boxes, dtype=torch.int64, device=images.device)
        probabilities = images.new_zeros(self.boxes, len(self.class_names) + 1)
        return [Detections(boxes, labels, scores, probabilities) for _ in images]


def untrained_teacher(
    detector: PretrainedModel, segmenter: PretrainedModel, class_names: Sequence[str], boxes: int
) -> CompositeTeacher:
    """The composite teacher with random weights, in eval mode, that prompts with `boxes` boxes an image.

    Raises:
        CastError: a description of a part that cannot be had or is wrong.
    """
    prompting = PromptingDetector(random_detector(detector, class_names), boxes)
    return CompositeTeacher(prompting, random_segmenter(segmenter), class_names).eval().requires_grad_(False)


def untrained_student(settings: StudentSettings, num_classes: int) -> Student:
    """The student with random weights, in eval mode; nothing is downloaded.

    Raises:
        CastError: settings that name no model or do not fit each other.
    """
    settings = settings.model_copy(update={"encoder_pretrained": False})
    return Student(settings, num_classes).eval().requires_grad_(False)


# --- parameters ---------------------------------------------------------------------------------------------


def teacher_parameters(teacher: CompositeTeacher) -> dict[str, int]:
    """Parameters by the parts of `teacher_flops`."""
    assert teacher.detector is not None and teacher.segmenter is not None
    inner, segmenter = teacher.detector.model.model, teacher.segmenter
    backbone, text = num_parameters(inner.backbone), num_parameters(inner.text_backbone)
    image_encoder = num_parameters(segmenter.model.vision_encoder)
    return {
        "detector: backbone": backbone,
        "detector: text encoder": text,
        "detector: transformer": num_parameters(teacher.detector) - backbone - text,
        "segmenter: image encoder": image_encoder,
        "segmenter: mask decoder": num_parameters(segmenter) - image_encoder,
    }


def student_parameters(student: Student) -> dict[str, int]:
    """Parameters by the parts of `student_flops`."""
    return {_words(name): num_parameters(part) for name, part in student.named_children()}


# --- FLOPs --------------------------------------------------------------------------------------------------


@torch.no_grad()
def student_flops(settings: StudentSettings, num_classes: int, image_size: Size) -> dict[str, int]:
    """FLOPs of one forward pass by part, in about a second: on torch's `meta` device, without weights.

    Args:
        settings: of the student.
        num_classes: C.
        image_size: height and width of the image that the model sees.

    Raises:
        CastError: settings that name no model or do not fit each other.
    """
    with torch.device("meta"):
        student = untrained_student(settings, num_classes)
        with FlopCounterMode(display=False) as counter:
            student(torch.zeros(1, 3, *image_size))
    return {_words(name): _flops(counter, f"Student.{name}") for name, _ in student.named_children()}


@torch.no_grad()
def teacher_flops(
    detector: PretrainedModel,
    segmenter: PretrainedModel,
    class_names: Sequence[str],
    image_size: Size,
    boxes: int,
) -> dict[str, int]:
    """FLOPs of one image by part, in a few seconds: on torch's `meta` device, without weights.

    Only the mask decoder's depend on the number of boxes, in proportion.

    Args:
        detector: its architecture, or where the config.json is.
        segmenter: the same.
        class_names: C names; the prompt.
        image_size: height and width of the image that the teacher sees.
        boxes: prompted in the image.

    Raises:
        CastError: a description of a part that cannot be had or is wrong, or an image that is too small.
    """
    # The library's checks read values, and tensors without data have none.
    with torch.device("meta"), mock.patch.dict(os.environ, TRANSFORMERS_DISABLE_TORCH_CHECK="1"):
        # To meta once more: transformers makes a parameter that heeds no default device.
        teacher = untrained_teacher(detector, segmenter, class_names, boxes).to("meta")
        run = _BoxesToMasks(teacher)
        with FlopCounterMode(display=False) as counter:
            run(torch.zeros(1, 3, *image_size), torch.zeros(1, boxes, 4))
    inner = "_BoxesToMasks.teacher.detector.model.model"
    found = _flops(counter, "_BoxesToMasks.teacher.detector")
    backbone, text = _flops(counter, f"{inner}.backbone"), _flops(counter, f"{inner}.text_backbone")
    image_encoder = _flops(counter, "_BoxesToMasks.teacher.segmenter.model.vision_encoder")
    return {
        "detector: backbone": backbone,
        "detector: text encoder": text,
        "detector: transformer": found - backbone - text,
        "segmenter: image encoder": image_encoder,
        "segmenter: mask decoder": counter.get_total_flops() - found - image_encoder,
    }


class _BoxesToMasks(nn.Module):
    """All of a teacher's prediction that counts as FLOPs: its choice of boxes needs values."""

    def __init__(self, teacher: CompositeTeacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor, boxes: Tensor) -> None:
        """Detect in images (1, 3, H, W) and decode boxes (1, N, 4)."""
        assert self.teacher.detector is not None and self.teacher.segmenter is not None
        self.teacher.detector(images)
        segmenter, size = self.teacher.segmenter, (images.shape[-2], images.shape[-1])
        segmenter.decode(segmenter.encode(images), boxes, size, InferenceSettings().prompt_chunk)


def _flops(counter: FlopCounterMode, module: str) -> int:
    """Of a module named from the class of the outermost one on."""
    return sum(counter.get_flop_counts().get(module, {}).values())


def _words(name: str) -> str:
    return name.replace("_", " ")


# --- latency ------------------------------------------------------------------------------------------------


def measure_latencies(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, Latency]:
    """Time each of `runs` in turn, each time until the device has done all its work.

    In turn, so that whatever else the machine does falls on all of them alike.

    Args:
        runs: one prediction each.
        repeats: how many rounds are timed.
        device: where the work is done.
        warm_up: rounds before that are not timed: memory, kernels and caches are made ready in them.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + repeats):
        for name, run in runs.items():
            started = _clock(device)
            run()
            spent = 1000.0 * (_clock(device) - started)
            if turn >= warm_up:
                milliseconds[name].append(spent)
    return {name: Latency(tuple(times)) for name, times in milliseconds.items()}


def prediction(
    model: CompositeTeacher | Student, image: Tensor, instances: int, precision: Precision
) -> Callable[[], object]:
    """A function that predicts one image, image to masks on the CPU, all instances kept.

    Args:
        model: an untrained model; a teacher prompts with its own number of boxes.
        image: (3, H, W), on the model's device, at the size that the model sees.
        instances: how many a student draws at full size.
        precision: as in training; mixed ones are torch's autocast.
    """
    # Thresholds of 0 keep all of them: random weights would make some empty, and spare their cost.
    inference = InferenceSettings(score_threshold=0.0, mask_threshold=0.0, max_instances=instances)
    dtype = AUTOCAST.get(precision)

    def run() -> object:
        mixed = nullcontext() if dtype is None else torch.autocast(image.device.type, dtype=dtype)
        with torch.inference_mode(), mixed:
            return [found.masks.cpu() for found in model.predict(image[None], inference)]

    return run


def _clock(device: torch.device) -> float:
    """Seconds, when all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
