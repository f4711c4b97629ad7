"""A tiny composite teacher and drawn scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from cast.config import PretrainedModel
from cast.data.batch import Target
from cast.teacher.composite import CompositeTeacher
from cast.teacher.detector import Detector, build_detector
from cast.teacher.segmenter import Segmenter, build_segmenter

MODELS = Path(__file__).parents[2] / "config" / "models"
CLASSES = ["person", "traffic light", "car"]


def architecture(name: str) -> PretrainedModel:
    return PretrainedModel(architecture=yaml.safe_load((MODELS / f"{name}.yaml").read_text(encoding="utf-8")))


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return build_detector(architecture("detector_tiny"), CLASSES)


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(architecture("segmenter_tiny"))


@pytest.fixture
def teacher(detector: Detector, segmenter: Segmenter) -> CompositeTeacher:
    return CompositeTeacher(detector, segmenter, CLASSES)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def targets() -> list[Target]:
    """Two boxes in the first image, none in the second."""
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[0, 10:30, 10:50] = True
    masks[1, 50:90, 60:80] = True
    nothing = Target(torch.zeros(0, 96, 96, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    return [Target(masks, torch.tensor([1, 2])), nothing]
