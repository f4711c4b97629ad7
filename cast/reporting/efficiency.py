"""What teacher and student cost an image (arXiv 2505.21904, figure 2): a table, its text and a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from cast.evaluation.efficiency import FLOPS_PER_MAC, Cost
from cast.reporting.figures import COLOURS, DPI

ALL = "all"
MODELS = ("teacher", "student")
COLOUR = {"teacher": COLOURS[6], "student": COLOURS[5]}
REPORTED = ("params_m", "gflops", "latency_ms", "fps")
MEGA, GIGA = 1e6, 1e9
TEXT: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8}


@dataclass(frozen=True)
class Quantity:
    """One thing that is compared.

    Attributes:
        title: what it is.
        unit: label of its axis.
        column: of `efficiency_table`.
        divisor: from the column's unit to the axis's.
        reported: column of what the paper reports, in the axis's unit.
        better: what the student should be.
        more_is_better: then the ratio is student / teacher, otherwise teacher / student.
    """

    title: str
    unit: str
    column: str
    divisor: float
    reported: str | None
    better: str = "less"
    more_is_better: bool = False

    def measured(self, row: pd.Series[Any]) -> float:
        """In the axis's unit."""
        return float(row[self.column]) / self.divisor

    def ratio(self, teacher: float, student: float) -> float:
        """How many times better the student is."""
        return student / teacher if self.more_is_better else teacher / student


PARAMETERS = Quantity("Parameters", "million parameters", "parameters", MEGA, "reported_params_m", "fewer")
FLOPS = Quantity("Compute", "GFLOPs an image, two for each multiply-add", "flops", GIGA, "reported_gflops")
MACS = Quantity("Multiply-adds", "GMACs an image", "flops", FLOPS_PER_MAC * GIGA, None)
LATENCY = Quantity("Latency", "milliseconds an image", "latency_ms", 1.0, "reported_latency_ms")
SPEED = Quantity("Speed", "images per second", "fps", 1.0, "reported_fps", "faster", more_is_better=True)
ROWS = (PARAMETERS, FLOPS, MACS, LATENCY, SPEED)
PANELS = (PARAMETERS, FLOPS, SPEED)


def efficiency_table(costs: Mapping[str, Cost], reported: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """For each model a row of totals (part `all`), then one for each of its parts.

    Args:
        costs: of `teacher` and `student`.
        reported: for each of them the paper's figures `REPORTED`.

    Returns:
        Columns model, part, parameters, flops (two for each multiply-add), latency_ms (median),
        latency_min_ms, latency_max_ms, fps and reported_*; NaN where a part has no figure.
    """
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        cost, times = costs[model], costs[model].latency
        total: dict[str, float] = {
            "parameters": sum(cost.parameters.values()),
            "flops": sum(cost.flops.values()),
        }
        total |= {"latency_ms": times.median, "fps": times.fps}
        total |= {"latency_min_ms": min(times.milliseconds), "latency_max_ms": max(times.milliseconds)}
        total |= {f"reported_{key}": reported[model][key] for key in REPORTED}
        rows.append({"model": model, "part": ALL} | total)
        for part, parameters in cost.parameters.items():
            found = {"parameters": parameters, "flops": cost.flops[part]}
            rows.append({"model": model, "part": part} | found)
    order = [
        "latency_ms",
        "latency_min_ms",
        "latency_max_ms",
        "fps",
        *(f"reported_{key}" for key in REPORTED),
    ]
    return pd.DataFrame(rows, columns=["model", "part", "parameters", "flops", *order])


def totals(table: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """The rows of whole models by their name."""
    whole = table[table["part"] == ALL].set_index("model")
    return {str(model): row for model, row in whole.iterrows()}


def efficiency_text(table: pd.DataFrame, title: str, provenance: str, conditions: str) -> str:
    """Markdown: measured beside reported with the ratios, then the parts.

    Args:
        table: of `efficiency_table`.
        title: heading.
        provenance: of `cast.config.Provenance`, of what stands under it.
        conditions: where and how it was measured.
    """
    heads = [f"{model} ({kind})" for kind in (provenance, "reported") for model in (*MODELS, "ratio")]
    lines = [f"{title}: {conditions}.", "", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    rows = totals(table)
    for quantity in ROWS:
        measured = [quantity.measured(rows[model]) for model in MODELS]
        cells = [_significant(value) for value in measured]
        if quantity is LATENCY:
            cells = [f"{cell} ({_spread(rows[model])})" for cell, model in zip(cells, MODELS, strict=True)]
        cells.append(_significant(quantity.ratio(*measured)))
        if quantity.reported is None:
            cells += ["–"] * 3
        else:
            reported = [float(rows[model][quantity.reported]) for model in MODELS]
            cells += [_significant(value) for value in (*reported, quantity.ratio(*reported))]
        lines.append(f"| {quantity.unit} | {' | '.join(cells)} |")
    lines += [
        "",
        "Ratio: how many times smaller or faster the student is. Latency: median (lowest to highest).",
    ]
    lines += ["", "| part | million parameters | GFLOPs | GMACs |", "|---|---|---|---|"]
    for _, row in table[table["part"] != ALL].iterrows():
        cells = [_significant(quantity.measured(row)) for quantity in (PARAMETERS, FLOPS, MACS)]
        lines.append(f"| {row['model']}, {row['part']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def efficiency_figure(table: pd.DataFrame, title: str, provenance: str, conditions: str, path: Path) -> None:
    """Draw parameters, FLOPs and speed of both models on logarithmic axes, as PNG and PDF.

    Equal ratios are equal lengths there, so that measured ones (filled) and reported ones (hollow) compare.

    Args:
        table: of `efficiency_table`.
        title: heading.
        provenance: of `cast.config.Provenance`, names what is measured.
        conditions: where and how it was measured.
        path: PNG file to write, the PDF beside it.
    """
    figure = Figure(figsize=(10.5, 3.1), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n{conditions}", fontsize=9)
    rows = totals(table)
    for index, (axes, quantity) in enumerate(zip(figure.subplots(1, len(PANELS)), PANELS, strict=True)):
        assert quantity.reported is not None
        _draw(axes, quantity, [quantity.measured(rows[model]) for model in MODELS], 1, filled=True)
        _draw(axes, quantity, [float(rows[model][quantity.reported]) for model in MODELS], 0, filled=False)
        axes.set_title(quantity.title, fontsize=9)
        axes.set_xlabel(quantity.unit, fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())  # less than a decade would show crowded labels
        axes.margins(x=0.3)  # room for the values
        axes.set_ylim(-0.6, 1.6)
        axes.set_yticks([1, 0], [provenance, "reported"] if index == 0 else ["", ""], fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Line2D([], [], color=COLOUR[model], marker="o", linestyle="") for model in MODELS]
    figure.legend(handles, MODELS, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    for file in (path, path.with_suffix(".pdf")):
        figure.savefig(file)


def _draw(axes: Axes, quantity: Quantity, values: list[float], height: float, filled: bool) -> None:
    """Teacher and student on one line, with their values and how many times better the student is."""
    style = "-" if filled else "--"
    axes.plot(values, [height] * 2, color="#999999", linewidth=1.2, linestyle=style, zorder=1)
    for model, value in zip(MODELS, values, strict=True):
        colour = COLOUR[model]
        face = colour if filled else "white"
        axes.scatter([value], [height], s=52, color=face, edgecolor=colour, linewidth=1.4, zorder=2)
        right = value == max(values)  # outwards: values may lie close together
        side, shift = ("left", (7, 0)) if right else ("right", (-7, 0))
        axes.annotate(_significant(value), (value, height), shift, **TEXT, ha=side, color=colour)
    words = f"{_significant(quantity.ratio(*values))} × {quantity.better}"
    middle = math.sqrt(values[0] * values[1])
    axes.annotate(words, (middle, height), (0, 11), **TEXT, ha="center")


def _significant(value: float) -> str:
    """Three digits, or all before the point."""
    if value == 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _spread(row: pd.Series[Any]) -> str:
    low, high = (_significant(float(row[f"latency_{end}_ms"])) for end in ("min", "max"))
    return f"{low} to {high}"
