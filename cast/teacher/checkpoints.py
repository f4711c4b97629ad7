"""Where the teacher's weights come from, a folder or a hub id, and which weights they are."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from cast.artefacts import digest
from cast.config import PretrainedModel
from cast.errors import CastError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name
HUB_FILES = ["*.json", "*.txt", "model*.safetensors"]  # configuration, tokenizer, weights


def locate(settings: PretrainedModel, part: str) -> Path:
    """The folder of a checkpoint, downloaded where it is a hub id; its SHA-256 is checked where one is given.

    Args:
        settings: with `pretrained`.
        part: section of the configuration, to be named in errors: `detector` or `segmenter`.

    Raises:
        CastError: neither a folder nor to be downloaded, a `revision` of a folder, or other weights than
            `sha256` says.
    """
    name = settings.pretrained
    assert name is not None
    folder = Path(name)
    if not folder.is_dir():
        folder = _downloaded(name, settings.revision, part)
    elif settings.revision is not None:
        raise CastError(
            f"{part}.revision: it selects a version on the hub, but {part}.pretrained, {name}, is a folder; "
            f"remove it ({part}.sha256 can pin the folder's weights)"
        )
    if settings.sha256 is not None:
        found = weights_digest(folder)
        if found != settings.sha256.lower():
            raise CastError(
                f"{weights_file(folder)}: its SHA-256 is {found}, but {part}.sha256 says "
                f"{settings.sha256.lower()}; download the checkpoint again or correct that key"
            )
    return folder


def weights_file(folder: Path) -> Path:
    """model.safetensors, or the index of a checkpoint in several files.

    Raises:
        CastError: the folder has neither.
    """
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    raise CastError(f"{folder}: holds no {WEIGHTS}; download or make the whole checkpoint again")


def weights_files(folder: Path) -> list[Path]:
    """The files that hold the tensors: model.safetensors, or those that the index names.

    Raises:
        CastError: a file is missing, or the index cannot be read.
    """
    path = weights_file(folder)
    if path.name == WEIGHTS:
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CastError(f"{path}: not a readable index of weights; download the checkpoint again") from None
    return [folder / name for name in names]


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights: what the hub shows beside model.safetensors, and sha256sum prints.

    The index of a checkpoint in several files does not change with their content: it counts what
    `sha256sum model-*.safetensors | sha256sum` prints.

    Raises:
        CastError: a file is missing.
    """
    files = weights_files(folder)
    for path in files:
        if not path.is_file():
            raise CastError(f"{path}: is missing; download or make the whole checkpoint again")
    if weights_file(folder).name == WEIGHTS:
        return digest(files[0])
    listing = "".join(f"{digest(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def read_architecture(settings: PretrainedModel, model_types: Sequence[str], part: str) -> dict[str, Any]:
    """What the config.json of a checkpoint says, nested; of a hub id that file alone is downloaded.

    Args:
        settings: with `pretrained`.
        model_types: the `model_type`s that will do.
        part: section of the configuration, to be named in errors.

    Raises:
        CastError: the file cannot be had or read, or describes another kind of model.
    """
    name = settings.pretrained
    assert name is not None
    folder = Path(name) if Path(name).is_dir() else _downloaded(name, settings.revision, part, [CONFIG])
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CastError(f"{path}: cannot be read ({error}); download the checkpoint again") from None
    if found not in model_types:
        raise CastError(
            f"{path}: its model_type is {found!r}, not {' or '.join(map(repr, model_types))}; "
            f"correct {part}.pretrained"
        )
    return dict(content)


def _downloaded(name: str, revision: str | None, part: str, files: Sequence[str] = HUB_FILES) -> Path:
    """The hub's checkpoint in the local cache."""
    if not HUB_ID.fullmatch(name):
        raise CastError(
            f"{part}.pretrained: '{name}' is no folder; give a checkpoint's folder or a hub id (owner/name)"
        )
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        local = f"models/{name.split('/')[-1]}"
        option = f"--revision {revision} " if revision is not None else ""
        unset = f" and remove {part}.revision" if revision is not None else ""
        raise CastError(
            f"{part}.pretrained: '{name}' is neither a folder here nor could it be downloaded "
            f"({type(error).__name__}); where there is internet, run `hf download {name} {option}--local-dir "
            f"{local}`, then set {part}.pretrained to that folder{unset}"
        ) from None
