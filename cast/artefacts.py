"""Artefact folders: written aside, renamed when complete, each with a manifest of what made it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cast.errors import CastError

MANIFEST = "manifest.json"
PACKAGES = ("cast-segmentation", "torch", "torchvision", "timm", "transformers", "numpy", "pycocotools")


@contextmanager
def artefact_folder(
    out: Path,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Sequence[Path],
    seed: int | None = None,
    weights: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; on success add its manifest and rename it to `out`.

    Nothing is left behind when the body fails, so an artefact either exists whole or not at all.

    Args:
        out: final folder; an older one is replaced.
        stage: name of the stage, for the manifest.
        settings: the stage's resolved settings.
        inputs: files and artefact folders that the stage read.
        seed: the run's seed, if it has one.
        weights: origin, file and SHA-256 of pretrained weights that the stage loads, if it does.

    Raises:
        CastError: an input is missing or `out` cannot be written.
    """
    started = time.time()
    digests = {str(path): digest(path) for path in inputs}
    temporary = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise CastError(
            f"{out}: cannot be written ({error.strerror}); check the folder's permissions"
        ) from None
    try:
        yield temporary
        manifest = describe_run(stage, settings, digests, started, seed)
        if weights is not None:
            manifest["weights"] = dict(weights)
        write_json(temporary / MANIFEST, manifest)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe_run(
    stage: str,
    settings: Mapping[str, Any],
    digests: Mapping[str, str],
    started: float,
    seed: int | None = None,
) -> dict[str, Any]:
    """A manifest: what made an artefact, from what, with which packages, in which time and memory.

    Args:
        stage: name of the stage.
        settings: its resolved settings.
        digests: `digest` of each input, by path.
        started: time.time() at the start.
        seed: the run's seed, if it has one.
    """
    return {
        "stage": stage,
        "seed": seed,
        "settings": settings,
        "inputs": digests,
        "packages": _versions(),
        "python": platform.python_version(),
        "git_commit": _git_commit(),
        "wall_seconds": round(time.time() - started, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a temporary file beside `path` and rename it: readers never see half a file."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def digest(path: Path) -> str:
    """SHA-256 of a file; of an artefact folder, that of its manifest (which holds its own inputs' digests).

    Raises:
        CastError: the path does not exist, or a folder holds no manifest.
    """
    target = path / MANIFEST if path.is_dir() else path
    try:
        with target.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise CastError(f"{target}: not found; run the stage that makes it first") from None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git_commit() -> str | None:
    """Commit of the source tree, None outside a checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
