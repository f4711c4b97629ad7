"""Reading the teacher's model folders: errors in one line, and the class names kept beside the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer

from cast.errors import CastError

CLASS_FILE = "cast.json"
READ_ERRORS = (OSError, ValueError, SafetensorError)


def load_pretrained(model_class: Any, name: str, revision: str | None, key: str) -> Any:
    """Weights from a folder or the Hugging Face hub, complete and in float32.

    Args:
        model_class: transformers class of the model.
        name: folder or hub id.
        revision: commit, tag or branch on the hub; its main branch when None.
        key: configuration key to name in errors.

    Raises:
        CastError: the weights are not there, cannot be downloaded, or do not fill the model.
    """
    options = {"output_loading_info": True, "use_safetensors": True, "dtype": "float32"}
    try:
        model, report = model_class.from_pretrained(name, revision=revision or "main", **options)
    except READ_ERRORS as error:
        raise _unreadable(name, key, error) from None
    missing = sorted(report["missing_keys"]) + sorted(str(item[0]) for item in report["mismatched_keys"])
    if missing:
        raise CastError(
            f"{name}: {len(missing)} tensors of {model_class.__name__} are not in the weights "
            f"({missing[0]}, …); set {key} to a checkpoint of that class"
        )
    return model


def load_tokenizer(name: str, revision: str | None, key: str) -> Any:
    """The tokenizer kept beside a model; arguments and errors as for `load_pretrained`."""
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision or "main")
    except READ_ERRORS as error:
        raise _unreadable(name, key, error) from None


def write_class_names(folder: Path, class_names: Sequence[str]) -> None:
    """Record what the model was trained for."""
    content = json.dumps({"class_names": list(class_names)}, indent=1)
    (folder / CLASS_FILE).write_text(content + "\n", encoding="utf-8")


def read_class_names(folder: Path) -> list[str]:
    """The classes of a model folder of this package.

    Raises:
        CastError: the folder or its class file is missing or broken.
    """
    path = folder / CLASS_FILE
    try:
        return [str(name) for name in json.loads(path.read_text(encoding="utf-8"))["class_names"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CastError(
            f"{path}: cannot be read ({error}); run the stage that makes this model again"
        ) from None


def _unreadable(name: str, key: str, error: Exception) -> CastError:
    if Path(name).is_dir():
        reason = " ".join(str(error).split())
        return CastError(f"{name}: not a readable model folder ({reason}); make or download it again")
    local = f"models/{name.split('/')[-1]}"
    return CastError(
        f"{key}: '{name}' is neither a folder here nor could it be downloaded; where there is internet, run "
        f"`hf download {name} --local-dir {local}`, then set {key} to that folder"
    )
