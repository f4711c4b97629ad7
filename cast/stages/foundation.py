"""θ_T⁰ and the student encoder's weights: from a hub or folder, or trained on the source domain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cast.artefacts import artefact_folder, digest
from cast.config import (
    ContrastiveSettings,
    CriterionSettings,
    PretrainedModel,
    Reading,
    Settings,
    StudentSettings,
    TeacherLossSettings,
    TrainSettings,
)
from cast.config_files import parse
from cast.data.coco import CocoData, read_coco
from cast.errors import CastError
from cast.losses.mask_classification import MaskClassificationCriterion
from cast.losses.objective import Learner
from cast.stages.training import TrainingData, TrainingRun, fit, seed_run
from cast.student.encoder import save_encoder
from cast.student.learner import StudentLearner
from cast.student.model import Student
from cast.student.timm_weights import locate_encoder, with_file
from cast.teacher.checkpoints import locate, weights_digest, weights_file
from cast.teacher.composite import CompositeTeacher
from cast.teacher.detector import build_detector
from cast.teacher.learner import TeacherLearner
from cast.teacher.segmenter import build_segmenter
from cast.training.loop import Model

FOUNDATION_SEED = 0  # the foundation is given: it does not vary with the seeds of the experiment


class TeacherPart(Settings):
    """Settings of the detector or segmenter; without `train` its weights are fetched."""

    model: PretrainedModel
    train: TrainSettings | None
    teacher_loss: TeacherLossSettings = TeacherLossSettings()
    reading: Reading = Reading()


class EncoderPart(Settings):
    """Settings of the student's encoder; without `train` timm's weights are fetched."""

    model: StudentSettings
    train: TrainSettings | None
    criterion: CriterionSettings = CriterionSettings()
    reading: Reading = Reading()


def run(settings: dict[str, Any], part: str, data: Path, out: Path) -> None:
    """Write one part of the foundation to `out` in Hugging Face layout.

    Args:
        settings: of a `TeacherPart` or `EncoderPart`.
        part: `detector`, `segmenter` or `student_encoder`.
        data: dataset folder: the source domain's where the part is trained here, otherwise the target's,
            whose classes the detector is prompted with.
        out: folder to make.
    """
    makers: dict[str, Callable[[Any, CocoData, Path], None]] = {
        "detector": _detector,
        "segmenter": _segmenter,
        "student_encoder": _student_encoder,
    }
    if part not in makers:
        raise CastError(f"--part {part}: must be one of {', '.join(makers)}")
    part_settings: Any = parse(EncoderPart if part == "student_encoder" else TeacherPart, settings)
    model, weights = fetch(part_settings.model, part)
    part_settings = part_settings.model_copy(update={"model": model})
    with artefact_folder(out, "foundation", settings, [data], FOUNDATION_SEED, weights) as folder:
        seed_run(FOUNDATION_SEED)
        makers[part](part_settings, read_coco(data / "train.json"), folder)


def fetch(
    model: PretrainedModel | StudentSettings, part: str
) -> tuple[PretrainedModel | StudentSettings, dict[str, str] | None]:
    """The weights that a part starts from, as local files.

    Args:
        model: settings of the part's model.
        part: its name.

    Returns:
        The settings with the local folder or file in place of the hub, and for the manifest the weights'
        origin, file and SHA-256: what tells two runs apart. None where no weights are loaded.

    Raises:
        CastError: the weights cannot be had, or are not those that the settings name.
    """
    if isinstance(model, StudentSettings):
        if not model.encoder_pretrained:
            return model, None
        file = locate_encoder(model)
        return with_file(model, file), _described(model.encoder, file, digest(file))
    if model.pretrained is None:
        return model, None
    folder = locate(model, part)
    local = PretrainedModel(pretrained=str(folder))
    return local, _described(model.pretrained, weights_file(folder), weights_digest(folder))


def _described(origin: str, file: Path, sha256: str) -> dict[str, str]:
    return {"origin": origin, "file": str(file), "sha256": sha256}


def _detector(part: TeacherPart, data: CocoData, folder: Path) -> None:
    detector = build_detector(part.model, data.class_names)
    learner = TeacherLearner(CompositeTeacher(detector, None, data.class_names), part.teacher_loss)
    _trained(detector, learner, "foundation detector", part, data, folder).save(folder)


def _segmenter(part: TeacherPart, data: CocoData, folder: Path) -> None:
    segmenter = build_segmenter(part.model)
    learner = TeacherLearner(CompositeTeacher(None, segmenter, data.class_names), part.teacher_loss)
    _trained(segmenter, learner, "foundation segmenter", part, data, folder).save(folder)


def _student_encoder(part: EncoderPart, data: CocoData, folder: Path) -> None:
    student = Student(part.model, len(data.class_names))
    learner = StudentLearner(student, MaskClassificationCriterion(part.criterion, len(data.class_names)))
    save_encoder(_trained(student, learner, "foundation student_encoder", part, data, folder), folder)


def _trained(
    model: Model,
    learner: Learner,
    label: str,
    part: TeacherPart | EncoderPart,
    data: CocoData,
    folder: Path,
) -> Model:
    """The model trained on labels alone, or as it is where the settings ask for no training."""
    if part.train is None:
        return model
    source_run = TrainingRun(
        recipe=label,
        lambda_semi=0.0,
        lambda_pxl=0.0,
        sampling="fusion",
        train=part.train,
        contrastive=ContrastiveSettings(),
        reading=part.reading,
    )
    return fit(model, learner, source_run, TrainingData(data), FOUNDATION_SEED, folder)
