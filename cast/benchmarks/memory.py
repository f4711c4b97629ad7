"""What a training step at the paper's size holds in memory for the backward pass, counted on any device.

Counted are the tensors that autograd saves during the forward pass, each storage once, parameters apart, in
float32 and under bf16 autocast. Weights, gradients and AdamW's moments come on top: 16 bytes a learnt
parameter, 4 a frozen one. A GPU's allocator, workspaces and the peaks of the backward pass add to the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cast.benchmarks.report import DOCS, write_section
from cast.config import Config
from cast.config_files import read_yaml, resolve
from cast.data.batch import Target
from cast.data.cityscapes import CLASSES
from cast.evaluation.efficiency import untrained_student, untrained_teacher
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.student.learner import StudentLearner
from cast.teacher.composite import CompositeTeacher
from cast.teacher.learner import TeacherLearner
from cast.training.recomputation import recomputed

CONFIG = Path(__file__).parents[2] / "config"
GIGABYTE = 10**9
INSTANCES = 18  # in an image of Cityscapes, about
NAMES = [label.name for label in CLASSES]


def saved_bytes(run: Callable[[], object], model: nn.Module) -> int:
    """Bytes that autograd saves while `run` runs, each storage once, without the model's parameters.

    Args:
        run: a forward pass with gradients.
        model: whose parameters and buffers do not count.
    """
    own = {part.untyped_storage().data_ptr() for part in (*model.parameters(), *model.buffers())}
    found: dict[int, Tensor] = {}  # kept alive, so that no address is used twice

    def save(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            found.setdefault(address, tensor.detach())
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def target(height: int, width: int) -> Target:
    """Upright rectangles side by side."""
    masks = torch.zeros(INSTANCES, height, width, dtype=torch.bool)
    for index, mask in enumerate(masks):
        mask[height // 4 : height // 2, index * width // INSTANCES : (index + 1) * width // INSTANCES] = True
    return Target(masks, torch.arange(INSTANCES) % len(NAMES))


def student_memory(config: Config, half: bool) -> int:
    """Bytes saved for an image of the student's training crop, in float32 or under bf16 autocast."""
    student = untrained_student(config.student, len(NAMES)).requires_grad_(True)
    learner = StudentLearner(student, MaskClassificationCriterion(config.criterion, len(NAMES)))
    return _memory(
        learner, student, config.distill_student.image_size, half, config.distill_student.recompute
    )


def teacher_memory(config: Config) -> int:
    """Bytes saved in float32 for an image of the teacher's training crop, by detector and segmenter.

    Measured at half the height and width, of which it is four times: whole crops take more memory than small
    machines have, and nearly all of it grows with the pixels.
    """
    teacher = untrained_teacher(config.detector, config.segmenter, NAMES, boxes=1).requires_grad_(True)
    height, width = config.adapt_teacher.image_size
    total = 0
    for detector, segmenter in ((teacher.detector, None), (None, teacher.segmenter)):
        part = CompositeTeacher(detector, segmenter, NAMES)
        learner = TeacherLearner(part, config.teacher_loss)
        size = (height // 2, width // 2)
        total += 4 * _memory(learner, part, size, half=False, recompute=config.adapt_teacher.recompute)
    return total


def _memory(learner: nn.Module, model: nn.Module, size: tuple[int, int], half: bool, recompute: bool) -> int:
    torch.manual_seed(0)
    learner.train()
    images, targets = torch.rand(1, 3, *size), [target(*size)]

    def run() -> object:
        with recomputed(model, recompute), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            return learner(images, targets)

    return saved_bytes(run, model)


def report(config: Config) -> str:
    """The section of docs/reproduce.md."""
    student, halved = (student_memory(config, half) / GIGABYTE for half in (False, True))
    teacher = teacher_memory(config) / GIGABYTE
    crops = [
        " × ".join(map(str, size))
        for size in (config.distill_student.image_size, config.adapt_teacher.image_size)
    ]
    recomputing = ", `recompute: true`" if config.adapt_teacher.recompute else ""
    return "\n".join(
        [
            f"`make bench-memory`, {date.today()}: what autograd keeps of an image's forward pass.",
            "",
            "| model | training crop | float32 | bf16 autocast |",
            "|---|---|---|---|",
            f"| student | {crops[0]} | {student:.1f} GB | {halved:.1f} GB |",
            f"| teacher{recomputing} | {crops[1]} | {teacher:.1f} GB | – |",
        ]
    )


def main() -> None:
    """Count, and write the section of docs/reproduce.md."""
    settings = read_yaml(CONFIG / "cityscapes.yaml") | {"data_root": "."}
    text = report(resolve(settings, CONFIG))
    print(text)
    write_section(text, "bench-memory", DOCS.with_name("reproduce.md"))


if __name__ == "__main__":
    main()
