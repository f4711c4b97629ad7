"""A figure of how L_pxl fares over training, from the logs of training runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cast.artefacts import describe_run, digest, write_json
from cast.config import CurvesFigure, Provenance, Settings
from cast.config_files import parse
from cast.errors import CastError
from cast.reporting.curves import PANELS, curves_figure
from cast.stages.runs import parse_run


class CurvesRun(Settings):
    """What a figure shows."""

    figure: CurvesFigure
    provenance: Provenance


def run(settings: dict[str, Any], logs: Sequence[str], out: Path) -> None:
    """Draw a figure as PNG and PDF and write what it shows as CSV, with its manifest.

    Args:
        settings: as `CurvesRun`.
        logs: training logs as RECIPE:SEED:FILE, FILE being a training.csv.
        out: PNG file to write; .pdf, .csv and .manifest.json go beside it.

    Raises:
        CastError: an entry of `logs` is malformed, or a file is missing or holds no diagnostics of L_pxl.
    """
    started = time.time()
    checked = parse(CurvesRun, settings)
    titles = {recipe: words for words, recipe in checked.figure.lines.items()}
    frames, digests = [], {}
    for recipe, seed, path in map(parse_run, logs):
        if recipe not in titles:
            raise CastError(f"{recipe}: no line of this figure shows that recipe")
        frames.append(_read_log(path).assign(line=titles[recipe], seed=seed))
        digests[str(path)] = digest(path)
    if not frames:
        raise CastError("logs: none given; name training logs as RECIPE:SEED:FILE")
    shown = pd.concat(frames, ignore_index=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shown.to_csv(out.with_suffix(".csv"), index=False)
    curves_figure(shown, checked.figure.title, checked.provenance, out)
    write_json(out.with_suffix(".manifest.json"), describe_run("curves", settings, digests, started))


def _read_log(path: Path) -> pd.DataFrame:
    """The columns of a training log that the figure shows."""
    try:
        log = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise CastError(f"{path}: cannot be read ({error}); run the training stage that writes it") from None
    missing = [column for column in ("step", *(panel.columns[0] for panel in PANELS)) if column not in log]
    if missing:
        raise CastError(f"{path}: has no column '{missing[0]}'; the run must have lambda_pxl > 0")
    return log.reindex(columns=["step", *(column for panel in PANELS for column in panel.columns)])
