"""Reading configurations: YAML files, what they extend, and one line for everything that is wrong in them.

``load(path)`` reads one experiment, ``resolve(mapping)`` validates a mapping that Snakemake has read, and
``parse`` the part of it that one stage receives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from cast.config import Config, Settings, describe
from cast.errors import CastError

S = TypeVar("S", bound=Settings)


def load(path: str | Path) -> Config:
    """Read and validate one configuration file.

    Raises:
        CastError: the file is missing, is not YAML, or holds an unknown key or a wrong value.
    """
    path = Path(path)
    return resolve(read_yaml(path), path.parent, str(path))


def resolve(settings: dict[str, Any], folder: str | Path = "config", origin: str = "configuration") -> Config:
    """Validate a mapping, completing it from `extends` and the recipes, tables and figures in `folder`.

    An experiment's own `recipes`, `tables` and `figures` are laid over recipes.yaml, tables.yaml and
    figures.yaml.
    A string for `student`, `detector.architecture` or `segmenter.architecture` names a YAML file in `folder`.

    Raises:
        CastError: an unknown key, a wrong type or value, or a recipe that does not exist.
    """
    folder = Path(folder)
    merged = _extended(dict(settings), folder)
    for part in ("recipes", "tables", "figures"):
        merged[part] = merge(read_yaml(folder / f"{part}.yaml"), merged.get(part, {}))
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise CastError(f"{origin}: {describe(error)}") from None


def parse(kind: type[S], settings: dict[str, Any]) -> S:
    """Validate the settings handed to one stage.

    Raises:
        CastError: an unknown key, a missing key or a wrong type.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise CastError(f"--settings: {describe(error)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        CastError: the file is missing or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CastError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except yaml.YAMLError as error:
        raise CastError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise CastError(f"{path}: must be a mapping of settings")
    return content


def _extended(settings: dict[str, Any], folder: Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    settings = _with_model_files(settings, folder)
    base_name = settings.pop("extends", None)
    if base_name is None:
        return settings
    base = str(base_name)
    if base in seen:
        raise CastError(f"{folder / base}: extends itself ({' > '.join((*seen, base))})")
    return merge(_extended(read_yaml(folder / base), folder, (*seen, base)), settings)


def _with_model_files(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`settings` with the files that describe models read in.

    This comes before merging, so that a file that extends this one can change single keys of a model.
    """
    settings = dict(settings)
    if isinstance(settings.get("student"), str):
        settings["student"] = _model(folder / settings["student"])
    for part in ("detector", "segmenter"):
        model = settings.get(part)
        if isinstance(model, dict) and isinstance(model.get("architecture"), str):
            settings[part] = model | {"architecture": _model(folder / model["architecture"])}
    return settings


def _model(path: Path) -> dict[str, Any]:
    """A model's file, completed from the one beside it that it `extends`."""
    return _extended(read_yaml(path), path.parent, (path.name,))


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping; `changes` wins."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
