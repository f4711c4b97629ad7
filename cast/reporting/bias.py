"""What a student makes of its pseudo-labels (arXiv 2505.21904, figure 5): measures, and images to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cast.data.coco import Annotation, CocoData
from cast.evaluation.bias import FALSE, FOUND, MENDED, MISSED, NEW_MISTAKES, Comparison
from cast.reporting.figures import COLOURS, DPI, OverlayRow, Pixels, overlay_figure

BEFORE, AFTER = (COLOURS[0], 8), (COLOURS[6], 5)  # colour and size of dots, both visible where they meet
# A colour says the same in every panel: mended, mended by a right instance, still there, new, right.
GREEN, SKY, RED, PURPLE, GREY = COLOURS[2], COLOURS[1], COLOURS[5], COLOURS[7], "#BBBBBB"
SHOWN = 12  # classes with the most instances: more rows cannot be read
MEASURES = (
    ("per_instance", "Instances", "per true instance", 1.0),
    ("precision", "Precision", "right instances, %", 100.0),
    ("recall", "Recall", "true instances found, %", 100.0),
    ("mean_iou", "Mask IoU", "mean over right instances, %", 100.0),
)
SHARES = (
    ("False pseudo-labels", FALSE, (GREEN, SKY, RED)),
    ("Missed by the pseudo-labels", MISSED, (GREEN, RED)),
    ("Found by the pseudo-labels", FOUND, (GREY, PURPLE)),
)
MEANINGS = (
    (GREEN, "mended: false one gone, or missed one found"),
    (SKY, "mended: right one in the false one's place"),
    (RED, "repeated: false again, or missed again"),
    (PURPLE, "new: right one lost, or another false one"),
    (GREY, "right before and after"),
)
LEGIBLE = 12  # %; narrower parts of a bar carry no number


def bias_figure(table: pd.DataFrame, title: str, provenance: str, names: tuple[str, str], path: Path) -> None:
    """Draw measures before and after (upper row) and what becomes of the mistakes (lower row), by class.

    Args:
        table: of `cast.evaluation.bias.Comparison`.
        title: heading.
        provenance: of `cast.config.Provenance`, said in the heading.
        names: what found the instances before and after.
        path: PNG file to write, the PDF beside it.
    """
    rows = _shown(table)
    figure = Figure(figsize=(12, 3.0 + 0.5 * len(rows)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title} ({provenance}; {_extent(table, rows)})", fontsize=10)
    upper, lower = figure.subplots(2, 4, sharey=True)
    for axes, (column, heading, unit, factor) in zip(upper, MEASURES, strict=True):
        _draw_measure(axes, factor * rows[f"before_{column}"], factor * rows[f"after_{column}"])
        _dress(axes, heading, unit)
    upper[0].axvline(1, color="#444444", linewidth=0.8, linestyle=":")  # as many as there are
    for axes, (heading, outcomes, colours) in zip(lower[:-1], SHARES, strict=True):
        _draw_shares(axes, rows[list(outcomes)], colours)
        _dress(axes, heading, "%, of the number at the right")
    _draw_balance(lower[-1], rows)
    _dress(lower[-1], "Mistakes: new (left), mended (right)", "number per 100 true instances")
    upper[0].set_yticks(range(len(rows)), rows["class"])
    upper[0].set_ylim(len(rows) - 0.5, -0.5)
    _add_legend(figure, names)
    for file in (path, path.with_suffix(".pdf")):
        figure.savefig(file)


def choose_differing(by_image: pd.DataFrame, count: int) -> list[int]:
    """Ids of up to `count` images: half those that gain most, then those that gain least, best first.

    An image's gain is the number of mistakes mended less that of new ones; of equals the first ranks first.

    Args:
        by_image: of `cast.evaluation.bias.Comparison`.
        count: images wanted; of an odd number the larger half gains most.
    """
    mended, new = _mended_and_new(by_image)
    ordered = (mended - new).sort_values(ascending=False, kind="stable").index.tolist()
    count = min(count, len(ordered))
    return ordered[: count - count // 2] + ordered[len(ordered) - count // 2 :]


def bias_overlays(
    comparison: Comparison,
    truth: CocoData,
    images: Mapping[int, Pixels],
    title: str,
    provenance: str,
    names: tuple[str, str],
    path: Path,
) -> None:
    """Draw image, truth, pseudo-labels and student beside each other; mistakes are marked.

    Args:
        comparison: what is drawn.
        truth: of the images.
        images: RGB, uint8 (H, W, 3), by image id, in the order of `choose_differing`.
        title: heading.
        provenance: of `cast.config.Provenance`, said in the heading.
        names: what found the instances before and after.
        path: PNG file to write.
    """
    sides = dict(zip(names, (comparison.before, comparison.after), strict=True))
    mended, new = _mended_and_new(comparison.by_image)
    rows = []
    for key, image in images.items():
        real = [item for item in truth.annotations_of(key) if not item.is_crowd]
        columns = {"truth": real} | {name: _of(key, side.instances) for name, side in sides.items()}
        rows.append(
            OverlayRow(
                image,
                columns,
                f"{mended[key]} mended, {new[key]} new: {mended[key] - new[key]:+d}",
                {name: _of(key, side.false) for name, side in sides.items()},
                {name: _of(key, side.missed) for name, side in sides.items()},
            )
        )
    least = len(rows) // 2
    heading = (
        f"{title} ({provenance})\nOf {len(mended)} images the {len(rows) - least} with the largest and the "
        f"{least} with the smallest gain, mistakes mended minus new ones\n"
        "× false instance     ○ true instance missed"
    )
    overlay_figure(rows, truth.class_names, path, heading)


def _mended_and_new(counts: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Numbers of mended and of new mistakes, from those of the outcomes."""
    return counts[list(MENDED)].sum(axis=1), counts[list(NEW_MISTAKES)].sum(axis=1)


def _of(image_id: int, items: Sequence[Annotation]) -> list[Annotation]:
    return [item for item in items if item.image_id == image_id]


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """All classes together and those with the most instances; one row where there is one class only."""
    classes = table.iloc[1:]
    if len(classes) == 1:
        return classes.reset_index(drop=True)
    most = classes["instances"].sort_values(ascending=False, kind="stable").index[:SHOWN]
    return pd.concat([table.iloc[:1], classes.loc[sorted(most)]], ignore_index=True)


def _extent(table: pd.DataFrame, rows: pd.DataFrame) -> str:
    """How many instances the figure compares, and of how many classes it shows a row."""
    before, after, instances = table.loc[0, ["before_count", "after_count", "instances"]]
    words = f"{before} and {after} instances, {instances} true ones"
    classes, shown = len(table) - 1, len(rows) - 1
    return f"{words}; the {shown} most frequent of {classes} classes" if classes > max(shown, 1) else words


def _draw_measure(axes: Axes, before: pd.Series, after: pd.Series) -> None:
    """A line from before to after for each row, the larger dot before."""
    axes.hlines(before.index, before, after, color="#888888", linewidth=1.2, zorder=1)
    for values, (colour, size) in ((before, BEFORE), (after, AFTER)):
        axes.plot(values, values.index, "o", color=colour, markersize=size)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=5)


def _draw_shares(axes: Axes, counts: pd.DataFrame, colours: Sequence[str]) -> None:
    """Bars that fill 100 % with a row's outcomes, and the number that is 100 % beside them."""
    totals = counts.sum(axis=1)
    left = pd.Series(0.0, index=counts.index)
    for outcome, colour in zip(counts, colours, strict=True):
        shares = (100 * counts[outcome] / totals).fillna(0)  # no bar where there is none
        axes.barh(counts.index, shares, left=left, height=0.65, color=colour)
        ink = "black" if colour in (SKY, GREY) else "white"
        for row, share in enumerate(shares):
            if share >= LEGIBLE:
                place = left[row] + share / 2
                axes.text(place, row, f"{share:.0f}", fontsize=7, color=ink, ha="center", va="center")
        left += shares
    for row, total in enumerate(totals):
        axes.text(103, row, f"{total}", fontsize=7, va="center", color="#444444")
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))


def _draw_balance(axes: Axes, rows: pd.DataFrame) -> None:
    """Bars of new mistakes to the left and mended ones to the right, and their difference."""
    per_true = 100 / rows["instances"].where(rows["instances"] > 0)
    mended, new = (per_true * counts for counts in _mended_and_new(rows))
    axes.barh(rows.index, mended, height=0.65, color=GREEN)
    corrected = per_true * rows["false_corrected"]
    axes.barh(rows.index, corrected, left=mended - corrected, height=0.65, color=SKY)
    axes.barh(rows.index, -new, height=0.65, color=PURPLE)
    axes.plot(mended - new, rows.index, "D", color="black", markersize=4)
    axes.axvline(0, color="#444444", linewidth=0.8)


def _add_legend(figure: Figure, names: tuple[str, str]) -> None:
    dots = [
        Line2D([], [], color=colour, marker="o", markersize=size, linestyle="")
        for colour, size in (BEFORE, AFTER)
    ]
    patches = [Patch(color=colour) for colour, _ in MEANINGS]
    net = Line2D([], [], color="black", marker="D", markersize=4, linestyle="")
    words = [*names, *(meaning for _, meaning in MEANINGS), "mended minus new"]
    figure.legend(
        [*dots, *patches, net], words, loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )


def _dress(axes: Axes, heading: str, unit: str) -> None:
    axes.set_title(heading, fontsize=9)
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
