"""Results tables from evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cast.artefacts import artefact_folder
from cast.config import Settings, Table
from cast.config_files import parse, read_yaml
from cast.errors import CastError
from cast.reporting.tables import format_text, results_table, write_table


class TabulateRun(Settings):
    """What the results tables hold, and the file of the figures that the paper reports."""

    tables: dict[str, Table]
    provenance: Literal["demo", "measured"]
    reported_dataset: Literal["cityscapes", "ade20k"] | None = None
    paper_results: Path


def run(settings: dict[str, Any], metrics: Sequence[str], out: Path) -> None:
    """Write every table as CSV, Markdown and LaTeX, and print it.

    Args:
        settings: as `TabulateRun`.
        metrics: evaluations as RECIPE:SEED:FILE, FILE being a metrics.json.
        out: folder to create, with <table>.csv, <table>.md and <table>.tex.

    Raises:
        CastError: an entry of `metrics` is malformed, or a file is missing or not a metrics file.
    """
    checked = parse(TabulateRun, settings)
    files = [_parsed(entry) for entry in metrics]
    measured: dict[str, dict[int, dict[str, Any]]] = {}
    for recipe, seed, path in files:
        measured.setdefault(recipe, {})[seed] = _read_metrics(path)
    paper_results = read_yaml(checked.paper_results)
    inputs = [checked.paper_results, *(path for _, _, path in files)]
    dataset, source = checked.reported_dataset, paper_results.get("source", "")
    with artefact_folder(out, "tabulate", settings, inputs) as folder:
        for name, table in checked.tables.items():
            frame = results_table(table, measured, paper_results, dataset, checked.provenance)
            write_table(frame, table.title, folder, name, dataset, source)
            print(format_text(frame, table.title, dataset, source), end="\n\n")


def _parsed(entry: str) -> tuple[str, int, Path]:
    recipe, _, rest = entry.partition(":")
    seed, _, path = rest.partition(":")
    if not recipe or not path or not seed.lstrip("-").isdigit():
        raise CastError(f"{entry}: not an evaluation; write RECIPE:SEED:FILE (metrics.json)")
    return recipe, int(seed), Path(path)


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CastError(f"{path}: cannot be read ({error.strerror}); run `cast evaluate` first") from None
    except json.JSONDecodeError as error:
        raise CastError(f"{path}: not valid JSON ({error}); run `cast evaluate` again") from None
    if not isinstance(content, dict) or not {"mask_ap", "mask_ap50", "by_max_detections"} <= content.keys():
        raise CastError(f"{path}: not a metrics file; give the metrics.json of `cast evaluate`")
    return content
