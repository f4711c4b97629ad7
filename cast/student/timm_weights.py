"""timm's weights for the student's encoder: one file, on disk or from the hub, that has to fit exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
from huggingface_hub import hf_hub_download
from timm.models import load_state_dict
from torch import Tensor

from cast.config import StudentSettings
from cast.errors import CastError

# timm's names: what replaces its own record of the weights.
OVERLAY, FILE = "pretrained_cfg_overlay", "file"
KEY = f"student.encoder_args.{OVERLAY}.{FILE}"
HUB_FILE = "model.safetensors"
REASON_LENGTH = 300  # characters of a library's error that are passed on


def locate_encoder(settings: StudentSettings) -> Path:
    """The file of the encoder's weights: the one that `encoder_args` names, or timm's, downloaded.

    Raises:
        CastError: there is no such file, or it cannot be downloaded.
    """
    named = _overlay(settings.encoder_args).get(FILE)
    if named is not None:
        if not Path(named).is_file():
            raise CastError(f"{named}: is not a file; correct {KEY}")
        return Path(named)
    hub_id = getattr(timm.get_pretrained_cfg(settings.encoder), "hf_hub_id", None)
    if hub_id is None:
        raise CastError(
            f"student.encoder: the hub has no weights of {settings.encoder}; name a file in {KEY}"
        )
    try:
        return Path(hf_hub_download(hub_id, HUB_FILE))
    except (OSError, ValueError) as error:
        raise CastError(
            f"student.encoder: weights of {settings.encoder} cannot be had ({type(error).__name__}); run "
            f"`hf download {hub_id}` where there is a network and copy the hub cache here "
            f"(HF_HOME), or name the downloaded file in student.encoder_args: {{{OVERLAY}: {{{FILE}: PATH}}}}"
        ) from None


def with_file(settings: StudentSettings, file: Path) -> StudentSettings:
    """The same settings with a file in place of the hub."""
    overlay = _overlay(settings.encoder_args) | {FILE: str(file)}
    return settings.model_copy(update={"encoder_args": settings.encoder_args | {OVERLAY: overlay}})


def create_filled(name: str, arguments: Mapping[str, Any], file: Path) -> Any:
    """A timm model with the weights of a file; position embeddings are resampled to the model's grid.

    timm forgives missing and unknown tensors as soon as it drops a classifier, so that a file of another
    architecture would leave the weights random without a word. Here the classifier is dropped first, and the
    rest must fit.

    Args:
        name: of the model.
        arguments: of timm.create_model, without `pretrained`.
        file: safetensors, or a PyTorch file of tensors.

    Raises:
        CastError: the file is damaged or of another architecture.
    """
    state = _without_classifier(_read(file), name)
    overlay = _overlay(arguments) | {FILE: None, "state_dict": state}
    exact = overlay | {"num_classes": 0, "classifier": None}
    try:
        if arguments.get("features_only"):
            # A pyramid lacks the last layers and is filled leniently: the whole model is the test.
            own = {key: arguments[key] for key in arguments.keys() - {"features_only", "out_indices"}}
            timm.create_model(name, pretrained=True, **(own | {"num_classes": 0, OVERLAY: exact}))
            model = timm.create_model(name, pretrained=True, **(dict(arguments) | {OVERLAY: overlay}))
        else:
            model = timm.create_model(name, pretrained=True, **(dict(arguments) | {OVERLAY: exact}))
    except Exception as error:  # timm's converters fail in many ways on tensors that are not theirs
        raise CastError(
            f"{file}: its tensors are not those of {name} ({_reason(error)}); name its own file in {KEY}"
        ) from None
    record: Any = model.pretrained_cfg
    record.pop("state_dict", None)  # it would keep a second copy of the weights in memory
    return model


def _read(file: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_state_dict(str(file))
    except Exception as error:  # of safetensors, of pickle, of zip archives
        raise CastError(f"{file}: cannot be read as weights ({_reason(error)}); download it again") from None
    return state


def _without_classifier(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    classifiers = getattr(timm.get_pretrained_cfg(name), "classifier", None) or ()
    names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    ends = tuple(f"{classifier}.{part}" for classifier in names for part in ("weight", "bias"))
    return {key: value for key, value in state.items() if key not in ends}


def _overlay(arguments: Mapping[str, Any]) -> dict[str, Any]:
    found = arguments.get(OVERLAY)
    return dict(found) if isinstance(found, Mapping) else {}


def _reason(error: Exception) -> str:
    return shorten(" ".join(str(error).split()) or type(error).__name__, REASON_LENGTH, placeholder=" …")
