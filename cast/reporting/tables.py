"""Results tables: measured figures beside those the paper reports, as CSV, Markdown, LaTeX and plain text.

The data frame holds raw figures for machines. People read `readable`, where a column's heading says where its
figures come from, so that a demo's figure is never taken for a reported one.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cast.config import Table, TableRow
from cast.errors import CastError

METRICS = ("mask_ap", "mask_ap50")
RECALLS = ("recall50_touching", "recall50_apart")
COLUMNS = [
    "role", "method", "data", "mask_ap", "mask_ap50", "seeds", "reported_mask_ap", "reported_mask_ap50",
    "mask_ap_sd", "mask_ap50_sd", "provenance",
    *(f"{recall}{end}" for recall in RECALLS for end in ("", "_sd")),
]  # fmt: skip
# The paper's ablations name no data set in paper_results.yaml: all of them are on this one.
ABLATION_DATASET = "cityscapes"
CITED = "cited"  # provenance of a row that only repeats a reported figure
MetricsByRecipe = Mapping[str, Mapping[int, Mapping[str, Any]]]
Reported = tuple[float | None, float | None]


def results_table(
    table: Table,
    metrics_by_recipe: MetricsByRecipe,
    paper_results: Mapping[str, Any],
    reported_dataset: str | None,
    provenance: str,
) -> pd.DataFrame:
    """One row per row of the table's definition, measured and reported figures beside each other.

    A row without a recipe cites a method; it is left out where the paper has no figure for this data set.

    Args:
        table: the definition.
        metrics_by_recipe: {recipe or recipe@percent: {seed: metrics of `evaluate_masks`}}.
        paper_results: contents of paper_results.yaml.
        reported_dataset: whose reported figures stand beside; None for data the paper does not report.
        provenance: of `cast.config.Provenance`, of the measured figures.

    Returns:
        Columns `COLUMNS`, after `data` the labelled `percent` where a row names it, and at the end
        ``mask_ap_at_M`` and ``mask_ap50_at_M`` for every further cap M on detections.
        Percent; means over seeds, sample standard deviations from two seeds on; NaN where there is no figure.

    Raises:
        CastError: the table names a section that `paper_results` lacks.
    """
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        runs = list(metrics_by_recipe.get(row.run or "", {}).values())
        reported = reported_figures(paper_results, table.reported, row, reported_dataset)
        if row.recipe is None and reported == (None, None):
            continue  # cited for another data set
        rows.append(
            row.model_dump(include={"role", "method", "data", "percent"})
            | {"seeds": len(runs)}
            | dict(zip(("reported_mask_ap", "reported_mask_ap50"), reported, strict=True))
            | {"provenance": provenance if row.recipe is not None else CITED}
            | _statistics(runs)
        )
    further = sorted({key for row in rows for key in row if "_at_" in key}, key=_cap_order)
    columns = [*COLUMNS, *further]
    if any(row.percent is not None for row in table.rows):
        columns.insert(columns.index("data") + 1, "percent")
    frame = pd.DataFrame(rows, columns=columns)
    figures = [name for name in frame.columns if name.startswith(("mask_ap", "recall", "reported"))]
    return frame.astype(dict.fromkeys(figures, float))


def reported_figures(
    paper_results: Mapping[str, Any], section: str | None, row: TableRow, dataset: str | None
) -> Reported:
    """AP and AP50 that the paper reports for a row, None each where it reports nothing.

    An entry of the main table belongs to a row of the same role, method and data. An ablation's entry is
    known by its `sampling` or `name`, or by the flags that are true, joined: ``sup+semi``. An entry for a
    labelled `fraction` holds a figure by method.

    Raises:
        CastError: there is no such section.
    """
    if section is None:
        return None, None
    if section not in paper_results:
        raise CastError(f"tables: reported: '{section}' is no section of the paper's results; correct it")
    if dataset is None:
        return None, None
    groups = paper_results[section]
    groups = groups if isinstance(groups, dict) else {"": groups}
    for group, entries in groups.items():
        for entry in entries:
            if "method" in entry:
                identity = (entry["method"], entry["data"])
                same = group.startswith(row.role) and identity == (row.method, row.data)
                value = entry.get(dataset)
            elif "fraction" in entry:
                same = dataset == ABLATION_DATASET and entry["fraction"] == row.percent
                value = entry.get(row.method)
            else:
                same = dataset == ABLATION_DATASET and _ablation_name(entry) == row.method
                value = entry.get(row.role)
            if same:
                return _pair(value)
    return None, None


def write_table(
    frame: pd.DataFrame, title: str, folder: Path, name: str, reported_dataset: str | None, source: str
) -> None:
    """Write ``<name>.csv`` (raw), ``<name>.md`` and ``<name>.tex`` (for readers) into `folder`, each at once.

    Args:
        frame: as made by `results_table`.
        title: heading.
        folder: existing folder.
        name: file stem.
        reported_dataset: data set of the reported figures, None without any.
        source: where the reported figures were published.
    """
    view = readable(frame, reported_dataset)
    note = caption(frame, reported_dataset, source)
    _write(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.2f"))
    _write(folder / f"{name}.md", f"### {title}\n\n{_markdown(view)}\n\n{note}\n")
    _write(folder / f"{name}.tex", _latex(view, f"{title}. {note}", name))


def format_text(frame: pd.DataFrame, title: str, reported_dataset: str | None, source: str) -> str:
    """The table as aligned plain text with title and caption, for a terminal."""
    view = readable(frame, reported_dataset)
    # A heading's origin, in brackets, goes to a second line: the table fits a terminal.
    headings = [str(column).replace(" (", "\n(").split("\n") for column in view]
    lines = [[heading[line] if line < len(heading) else "" for heading in headings] for line in range(2)]
    lines += view.to_numpy().tolist()
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    note = textwrap.fill(caption(frame, reported_dataset, source), len(rule))
    return "\n".join([title, rule, *text[:2], rule, *text[2:], rule, note])


def readable(frame: pd.DataFrame, reported_dataset: str | None) -> pd.DataFrame:
    """Strings for people: mean ± standard deviation, headings that name the origin of each figure."""
    origin = _provenance(frame)
    view = frame[["role", "method", "data"]].replace("_", " ", regex=True)
    if "percent" in frame:
        view["labelled"] = [f"{percent:.0f} %" for percent in frame["percent"]]
    for metric, label in zip(METRICS, ("mask AP", "mask AP50"), strict=True):
        deviations = frame[f"{metric}_sd"]
        view[f"{label} ({origin})"] = [
            _mean_and_deviation(*pair) for pair in zip(frame[metric], deviations, strict=True)
        ]
    for column in (str(column) for column in frame.columns if "_at_" in column):
        metric, cap = column.split("_at_")
        label = "mask AP" if metric == METRICS[0] else "mask AP50"
        view[f"{label} at {cap} ({origin})"] = [_number(value) for value in frame[column]]
    view["seeds"] = frame["seeds"].astype(str).where(frame["provenance"] != CITED, CITED)
    if reported_dataset is not None:
        for metric, label in zip(METRICS, ("mask AP", "mask AP50"), strict=True):
            view[f"reported {label} ({reported_dataset})"] = [_number(v) for v in frame[f"reported_{metric}"]]
    return view


def caption(frame: pd.DataFrame, reported_dataset: str | None, source: str) -> str:
    """One sentence or two on what the figures are."""
    spread = " (mean ± standard deviation over seeds)" if (frame["seeds"] > 1).any() else ""
    origin = _provenance(frame)
    if origin.startswith("demo"):
        few = ", trained for a fraction of the demo's steps" if origin != "demo" else ""
        measured = f"{origin}: measured by this software on the demo's toy-size data and models{few}{spread}."
    else:
        measured = f"measured: by this software with this experiment's own configuration{spread}."
    if reported_dataset is None:
        return f"Percent. {measured}"
    return (
        f"Percent. {measured} reported: the paper's full-size runs on {reported_dataset} ({source}); "
        "they show the expected order of the rows, not the expected level."
    )


def _statistics(runs: list[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means and deviations over runs (seeds), then means at the further caps on detections."""
    statistics: dict[str, float | None] = {}
    for metric in (*METRICS, *RECALLS):
        values = pd.Series([run[metric] for run in runs], dtype=float)
        statistics |= {metric: values.mean(), f"{metric}_sd": values.std(ddof=1)}
    further = {str(cap) for run in runs for cap in run["max_detections"][1:]}
    for cap in further:
        for metric in METRICS:
            values = pd.Series([run["by_max_detections"][cap][metric] for run in runs], dtype=float)
            statistics[f"{metric}_at_{cap}"] = values.mean()
    return statistics


def _cap_order(column: str) -> tuple[int, str]:
    metric, cap = column.split("_at_")
    return int(cap), metric


def _ablation_name(entry: Mapping[str, Any]) -> str | None:
    flags = {key: value for key, value in entry.items() if isinstance(value, bool)}
    if flags:
        return "+".join(key for key, value in flags.items() if value)
    name = entry.get("sampling", entry.get("name"))
    return None if name is None else str(name)


def _pair(value: float | list[float] | None) -> Reported:
    if isinstance(value, list):
        return value[0], value[1]
    return value, None


def _provenance(frame: pd.DataFrame) -> str:
    return next((name for name in frame["provenance"] if name != CITED), "measured")


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.1f}"


def _mean_and_deviation(mean: float, deviation: float) -> str:
    return _number(mean) if pd.isna(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _markdown(view: pd.DataFrame) -> str:
    lines = [list(view.columns), ["---"] * len(view.columns), *view.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex(view: pd.DataFrame, note: str, name: str) -> str:
    escaped = note.replace("_", r"\_").replace("%", r"\%")
    text = view.to_latex(
        index=False, escape=True, caption=escaped, label=f"tab:{name}", column_format="l" * len(view.columns)
    )
    for character, command in (("±", r"$\pm$"), ("–", "--"), ("λ", r"$\lambda$")):
        text = text.replace(character, command)
    return text


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
