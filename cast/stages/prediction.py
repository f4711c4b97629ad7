"""What pseudo-labelling and evaluation share: a model's predictions on a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from cast.artefacts import MANIFEST
from cast.config import InferenceSettings, Reading
from cast.data.batch import Instances
from cast.data.coco import Annotation, CocoData, write_coco
from cast.data.loader import image_tensors
from cast.data.pseudo_labels import instances_to_annotations
from cast.data.tiling import Predict, predict_dataset
from cast.progress import Progress

LOG_SECONDS = 10.0


class Predictor(Protocol):
    """A teacher or student."""

    def predict(
        self, images: Tensor, inference: InferenceSettings, cores: Tensor | None = None
    ) -> list[Instances]:
        """Instances of images (B, 3, H, W) at that size; those outside the cores (B, 4) may be left out."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The model's parameters."""


def load_model(folder: Path, role: str, class_names: list[str]) -> Predictor:
    """The teacher or student in `folder`, in eval mode on the device at hand.

    Raises:
        CastError: the folder holds no such model, or one of other classes.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Imported where needed: the two roles' libraries take seconds each.
    if role == "teacher":
        from cast.teacher.composite import load_teacher

        return load_teacher(folder / "detector", folder / "segmenter", class_names).eval().to(device)
    from cast.student.model import load_student

    return load_student(folder).eval().to(device)


def model_inputs(folder: Path, role: str) -> list[Path]:
    """What a manifest names as the model: its folder, or of the foundation's teacher those of its parts."""
    folders = [folder, *([folder / "detector", folder / "segmenter"] if role == "teacher" else [])]
    return [path for path in folders if (path / MANIFEST).exists()]


def predict(
    model: Predictor,
    data: CocoData,
    inference: InferenceSettings,
    reading: Reading,
    label: str,
) -> list[Annotation]:
    """Scored annotations of every image of `data`, with progress."""
    progress = Progress(label, len(data.images), LOG_SECONDS, "image")
    images = image_tensors(data, reading, inference.short_side)
    annotations: list[Annotation] = []
    with torch.inference_mode():
        for done, (record, instances) in enumerate(
            predict_dataset(_on_its_device(model, inference), images, inference), start=1
        ):
            annotations += instances_to_annotations(record, instances, first_id=len(annotations) + 1)
            if progress.due(done):
                progress.report(done)
    return annotations


def write_predictions(path: Path, data: CocoData, annotations: list[Annotation]) -> None:
    """Predictions as COCO JSON over the images of `data`."""
    write_coco(path, data.images, annotations, data.categories, data.image_root)


def _on_its_device(model: Predictor, inference: InferenceSettings) -> Predict:
    device = next(model.parameters()).device
    return lambda images, cores: model.predict(
        images.to(device), inference, None if cores is None else cores.to(device)
    )
