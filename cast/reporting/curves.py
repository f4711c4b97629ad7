"""Proposition 3.1 over training (arXiv 2505.21904, figure 3): margin, false negatives and raw loss."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cast.reporting.figures import COLOURS, DPI

LINES = tuple(COLOURS[index] for index in (6, 0, 2, 5, 3, 1, 7, 9, 10))  # dark ones first: thin lines
SMOOTHED = 10  # a curve shows running means over a tenth of the run


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        unit: label of the vertical axis, with its unit.
        columns: of the training log; the first is drawn solid, a second dashed.
        factor: from the log's unit to the axis's.
    """

    title: str
    unit: str
    columns: tuple[str, ...]
    factor: float = 1.0


PANELS = (
    Panel("Margin Δ", "cosine distance, negatives − positives", ("margin",)),
    Panel(
        "False negatives",
        "negatives in the anchor's own instance, %",
        ("false_negative_rate", "false_negative_rate_pseudo"),
        100.0,
    ),
    Panel("Raw loss $L_{pxl}$", "unweighted, nats", ("pxl",)),
)


def curves_figure(logs: pd.DataFrame, title: str, provenance: str, path: Path) -> None:
    """Draw three panels over the optimiser's steps, a colour for each line, as PNG and PDF.

    Curves are means over seeds of running means over a tenth of the run; the band spans the seeds' lowest
    and highest.

    Args:
        logs: rows of training logs with their `line` (words in the legend) and `seed`.
        title: heading.
        provenance: of `cast.config.Provenance`, said in the heading.
        path: PNG file to write, the PDF beside it.
    """
    figure = Figure(figsize=(10.5, 3.9), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    seeds = logs["seed"].nunique()
    spread = f"mean of {seeds} seeds, band: lowest to highest" if seeds > 1 else "one seed"
    figure.suptitle(f"{title} ({provenance}; {spread})", fontsize=10)
    for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for (_, rows), colour in zip(logs.groupby("line", sort=False), cycle(LINES), strict=False):
            for column, style in zip(panel.columns, ("-", "--"), strict=False):
                by_seed = rows.pivot(index="step", columns="seed", values=column)
                _draw(axes, panel.factor * by_seed, colour, style)
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel("optimiser step", fontsize=8)
        axes.set_ylabel(panel.unit, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if len(panel.columns) > 1:
            kinds = [Line2D([], [], color="#444444", linestyle=style) for style in ("-", "--")]
            words = ["labelled images, by truth", "unlabelled, by pseudo-labels"]
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the words
            axes.legend(kinds, words, fontsize=7, frameon=False, loc="upper center")
    words = logs["line"].unique().tolist()
    handles = [Line2D([], [], color=colour) for colour, _ in zip(cycle(LINES), words, strict=False)]
    figure.legend(handles, words, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    for file in (path, path.with_suffix(".pdf")):
        figure.savefig(file)


def _draw(axes: Axes, by_seed: pd.DataFrame, colour: str, style: str) -> None:
    """One curve from a frame of steps × seeds."""
    window = max(1, len(by_seed) // SMOOTHED)
    smooth = by_seed.rolling(window, min_periods=1, center=True).mean()
    axes.plot(smooth.index, smooth.mean(axis=1), color=colour, linestyle=style, linewidth=1.2)
    if smooth.shape[1] > 1:
        low, high = smooth.min(axis=1), smooth.max(axis=1)
        axes.fill_between(smooth.index, low, high, color=colour, alpha=0.12, linewidth=0)
