"""A results table from evaluations."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cast.artefacts import describe_run, digest, write_json
from cast.config import Provenance, Settings, Table
from cast.config_files import parse, read_yaml
from cast.errors import CastError
from cast.reporting.tables import METRICS, RECALLS, format_text, results_table, write_table
from cast.stages.runs import parse_run


class TabulateRun(Settings):
    """What the results table holds, and the file of the figures that the paper reports."""

    table: Table
    provenance: Provenance
    reported_dataset: Literal["cityscapes", "ade20k"] | None = None
    paper_results: Path


def run(settings: dict[str, Any], metrics: Sequence[str], out: Path) -> None:
    """Write a table as CSV, Markdown and LaTeX with its manifest, and print it.

    Args:
        settings: as `TabulateRun`.
        metrics: evaluations as RECIPE:SEED:FILE, FILE being a metrics.json.
        out: CSV file to write; .md, .tex and .manifest.json go beside it.

    Raises:
        CastError: an entry of `metrics` is malformed, or a file is missing or not a metrics file.
    """
    started = time.time()
    checked = parse(TabulateRun, settings)
    measured: dict[str, dict[int, dict[str, Any]]] = {}
    digests = {}
    for recipe, seed, path in map(parse_run, metrics):
        measured.setdefault(recipe, {})[seed] = _read_metrics(path)
        digests[str(path)] = digest(path)
    paper_results = read_yaml(checked.paper_results)
    digests[str(checked.paper_results)] = digest(checked.paper_results)
    source, title = paper_results.get("source", ""), checked.table.title
    dataset = checked.reported_dataset if checked.table.reported else None
    frame = results_table(checked.table, measured, paper_results, dataset, checked.provenance)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(frame, title, out.parent, out.stem, dataset, source)
    write_json(out.with_suffix(".manifest.json"), describe_run("tabulate", settings, digests, started))
    print(format_text(frame, title, dataset, source), end="\n\n")


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CastError(f"{path}: cannot be read ({error.strerror}); run `cast evaluate` first") from None
    except json.JSONDecodeError as error:
        raise CastError(f"{path}: not valid JSON ({error}); run `cast evaluate` again") from None
    if not isinstance(content, dict) or not {*METRICS, *RECALLS, "by_max_detections"} <= content.keys():
        raise CastError(f"{path}: not a metrics file; give the metrics.json of `cast evaluate`")
    return content
