"""Reading the teacher's model folders: errors in one line, and the class names kept beside the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer
from transformers.utils import logging

from cast.errors import CastError
from cast.teacher.checkpoints import weights_files
from cast.teacher.prompts import HARD_CODED_IDS

CLASS_FILE = "cast.json"
CONFIG_FILE = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # either will do
READ_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
NAMED = 3  # tensors of a kind named in an error


def load_pretrained(model_class: Any, model_types: Sequence[str], folder: Path, key: str) -> Any:
    """Weights from a folder, complete and in float32.

    Args:
        model_class: transformers class of the model.
        model_types: `model_type` of the configurations whose weights that class holds.
        folder: its folder, in Hugging Face layout.
        key: configuration key to name in errors.

    Raises:
        CastError: the folder is incomplete or damaged, holds another kind of model, or its weights are not
            exactly the model's: tensors are missing, of another shape, or left over.
    """
    _check_type(model_class, model_types, folder, key)
    options = {"output_loading_info": True, "use_safetensors": True, "dtype": "float32"}
    try:
        with _quiet():  # our own error says in one line what transformers' table would
            model, report = model_class.from_pretrained(folder, ignore_mismatched_sizes=True, **options)
    except READ_ERRORS as error:
        raise _unreadable(folder, error) from None
    problems = {
        "missing": sorted(report["missing_keys"]),
        "of another shape": sorted(str(item[0]) for item in report["mismatched_keys"]),
        "unexpected": _learned(folder, sorted(report["unexpected_keys"])),
    }
    found = [
        f"{len(names)} {kind} ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})"
        for kind, names in problems.items()
        if names
    ]
    if found:
        raise CastError(
            f"{folder}: its tensors are not those of its config.json as {model_class.__name__}: "
            f"{'; '.join(found)}; set {key} to a whole checkpoint of that class"
        )
    return model


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer kept beside a detector.

    Raises:
        CastError: it is missing or damaged, or numbers its tokens otherwise than the detector does.
    """
    # Without these files transformers makes an empty tokenizer, to which every word is unknown.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CastError(
            f"{folder}: holds no tokenizer ({' or '.join(TOKENIZER_FILES)}); "
            "download or make the whole checkpoint again"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise _unreadable(folder, error) from None
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in HARD_CODED_IDS}
    for token, index in HARD_CODED_IDS.items():
        if found[token] != index:
            raise CastError(
                f"{folder}: its tokenizer numbers '{token}' {found[token]}, the detector {index} as "
                "bert-base-uncased does; use the tokenizer that the checkpoint was published with"
            )
    return tokenizer


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


def _check_type(model_class: Any, model_types: Sequence[str], folder: Path, key: str) -> None:
    """Where config.json is missing or says something else, transformers would fill in its defaults."""
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(folder, error) from None
    if found not in model_types:
        raise CastError(
            f"{path}: its model_type is {found!r}, not {' or '.join(map(repr, model_types))}; "
            f"set {key} to a checkpoint of {model_class.__name__}"
        )


def _learned(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of the unexpected tensors that may be weights.

    Whole numbers are tables that older releases stored and newer ones compute (position ids, index tables):
    leaving them out changes nothing. A tensor of real numbers was learned: the checkpoint is of a larger
    model than its config.json says, and cutting it short would go unseen.
    """
    tables: set[str] = set()
    for path in weights_files(folder) if names else []:
        with safe_open(path, framework="pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        tables |= {name for name, kind in kinds.items() if kind.startswith(("I", "U", "BOOL"))}
    return [name for name in names if name not in tables]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _unreadable(folder: Path, error: Exception) -> CastError:
    reason = " ".join(str(error).split())
    return CastError(f"{folder}: not a readable model folder ({reason}); make or download it again")
