"""Qualitative overlays: image, truth and predictions side by side, as one PNG small enough for a README."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from cast.data.coco import Annotation, CocoData, decode

# Okabe and Ito's colours, told apart with every common kind of colour blindness, on dark and bright images;
# then some of Paul Tol's for data sets with more classes, over again after the last.
COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2",
    "#AA4499", "#88CCEE", "#DDCC77", "#882255",
)  # fmt: skip
DPI = 100
PANEL = 288  # pixels of a panel's longer side; small images: the nearest whole multiple of theirs
LINE = 20  # pixels of a line of the heading
GAP, HEAD, LEGEND = 8, 26, 30  # pixels: between panels, above them for the titles, below for the classes
LEGEND_COLUMNS = 8
OUTLINE = 2  # pixels in enlarged images, where a mask's own pixels are several wide; 1 in others
LABELLED = 20  # instances in a panel beyond which words would hide the picture
MAX_BYTES = 400_000  # of a picture in a README with all its colours
FILL = 0.3  # opacity of an instance's inside
FONT = 6.5  # points
CHARACTER = (0.64 * FONT * DPI / 72, 1.5 * FONT * DPI / 72)  # pixels of an average character: width, height
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class OverlayRow:
    """One image with the instances that each column shows.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        columns: {title: annotations at the image's size}; every row has the same titles.
        note: words written onto the plain image.
        crossed: {title: annotations marked with a cross in that column}.
        ringed: {title: annotations, of that column or not, marked with a ring there}.
    """

    image: Pixels
    columns: Mapping[str, Sequence[Annotation]]
    note: str = ""
    crossed: Mapping[str, Sequence[Annotation]] = field(default_factory=dict)
    ringed: Mapping[str, Sequence[Annotation]] = field(default_factory=dict)


def choose_images(truth: CocoData, count: int) -> list[int]:
    """Ids of up to `count` images, evenly spaced among those with at least one instance."""
    candidates = [
        image.id
        for image in truth.images
        if any(not item.is_crowd for item in truth.annotations_of(image.id))
    ]
    places = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [candidates[place] for place in places]


def overlay_figure(
    rows: Sequence[OverlayRow], class_names: Sequence[str], path: Path, heading: str = ""
) -> None:
    """Draw rows of panels (the plain image, then one panel for each column) into a PNG.

    Instances are outlined and tinted in the colour of their class, or each in its own where there is one
    class only. Small images are enlarged by whole factors without smoothing. Class names and scores stand
    beside the instances that have room for them, best scores first.

    Args:
        rows: at least one row.
        class_names: names by class index.
        path: PNG file to write.
        heading: words above all panels.
    """
    titles = ["image", *rows[0].columns]
    head = HEAD + LINE * len(heading.splitlines())
    canvas, corners = _compose(rows, class_names, head)
    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    agg = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.set_axis_off()
    for place, line in enumerate(heading.splitlines()):
        axes.text(width / 2, LINE * (place + 0.75), line, fontsize=9, ha="center", va="center")
    for title, (left, top, right, _) in zip(titles, corners[0], strict=True):
        axes.text((left + right) / 2, top - HEAD / 2, title, fontsize=9, ha="center", va="center")
    for row, panels in zip(rows, corners, strict=True):
        for (title, items), panel in zip(row.columns.items(), panels[1:], strict=True):
            _write_labels(axes, items, class_names, panel, row.image.shape[1])
            _mark(axes, row.crossed.get(title, ()), "x", panel, row.image.shape[1])
            _mark(axes, row.ringed.get(title, ()), "o", panel, row.image.shape[1])
        if row.note:
            _write(axes, panels[0][0] + GAP, panels[0][3] - GAP - CHARACTER[1] / 2, row.note)
    if len(class_names) > 1:
        _add_legend(figure, rows, class_names)
    agg.draw()
    _save(Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3].copy()), path)


def _compose(
    rows: Sequence[OverlayRow], class_names: Sequence[str], head: int
) -> tuple[Pixels, list[list[tuple[int, int, int, int]]]]:
    """All panels on one white canvas below its head, and the box (left, top, right, bottom) of each."""
    panels = [
        [_enlarged(row.image), *(_tinted(row, a, class_names) for a in row.columns.values())] for row in rows
    ]
    column = max(images[0].shape[1] for images in panels) + GAP
    width = GAP + column * len(panels[0])
    legend = LEGEND * -(-len(_shown(rows)) // LEGEND_COLUMNS) if len(class_names) > 1 else 0
    height = head + sum(images[0].shape[0] + GAP for images in panels) + legend
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    corners, top = [], head
    for images in panels:
        panel_height, panel_width = images[0].shape[:2]
        lefts = [GAP + index * column + (column - GAP - panel_width) // 2 for index in range(len(images))]
        for image, left in zip(images, lefts, strict=True):
            canvas[top : top + panel_height, left : left + panel_width] = image
        corners.append([(left, top, left + panel_width, top + panel_height) for left in lefts])
        top += panel_height + GAP
    return canvas, corners


def _save(drawn: Image.Image, path: Path) -> None:
    """Write a PNG; a large one with 256 colours, whose octree keeps the flat class colours."""
    file = io.BytesIO()
    drawn.save(file, format="PNG", optimize=True)
    if file.tell() > MAX_BYTES:
        file = io.BytesIO()
        quantised = drawn.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        quantised.save(file, format="PNG", optimize=True)
    path.write_bytes(file.getvalue())


def _enlarged(image: Pixels) -> Pixels:
    """The image at its panel's size: whole pixels up, smooth down."""
    factor = PANEL / max(image.shape[:2])
    if factor >= 1:
        return image.repeat(round(factor), 0).repeat(round(factor), 1)
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _tinted(row: OverlayRow, annotations: Sequence[Annotation], class_names: Sequence[str]) -> Pixels:
    """The enlarged image with its instances, largest first so that small ones stay visible."""
    pixels = _enlarged(row.image).astype(np.float32)
    sides = zip(row.image.shape[:2], pixels.shape[:2], strict=True)
    nearest = np.ix_(*(((np.arange(panel) + 0.5) * side / panel).astype(int) for side, panel in sides))
    outline = OUTLINE if len(pixels) > len(row.image) else 1
    for index in sorted(range(len(annotations)), key=lambda index: -annotations[index].area):
        annotation = annotations[index]
        key = annotation.label if len(class_names) > 1 else index
        colour = 255 * np.array(to_rgb(_colour(key)), dtype=np.float32)
        mask = decode(annotation.rle)[nearest]
        inside = mask
        for _ in range(outline):
            inside = _eroded(inside)
        pixels[mask] = (1 - FILL) * pixels[mask] + FILL * colour
        pixels[mask & ~inside] = colour
    return pixels.round().astype(np.uint8)


def _colour(key: int) -> str:
    return COLOURS[key % len(COLOURS)]


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without its outermost pixels; what lies beyond the image counts as outside."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & mask


def _write_labels(
    axes: Axes, annotations: Sequence[Annotation], class_names: Sequence[str], panel: Box, image_width: int
) -> None:
    """Class and score above each instance, or below it, where the words cover no other words."""
    if len(annotations) > LABELLED:
        return
    left, top, right, bottom = panel
    factor = (right - left) / image_width
    taken: list[Box] = []
    for annotation in sorted(annotations, key=lambda item: -(item.score or 0.0)):
        words = _words(annotation, class_names)
        width, height = CHARACTER[0] * len(words), CHARACTER[1]
        x, y, box_width, box_height = (factor * value for value in annotation.box)
        if not words or width > right - left or width > 2 * max(box_width, box_height) + 10:
            continue  # the words would hide the instance rather than name it
        x = min(max(left + x + (box_width - width) / 2, left), right - width)
        for y0 in (top + y - height, top + y + box_height):
            place = (x, y0, x + width, y0 + height)
            inside = top <= place[1] and place[3] <= bottom
            if inside and not any(_overlap(place, other) for other in taken):
                taken.append(place)
                _write(axes, x, (place[1] + place[3]) / 2, words)
                break


def _mark(axes: Axes, annotations: Sequence[Annotation], marker: str, panel: Box, image_width: int) -> None:
    """A white mark with a dark edge in the middle of each instance's box."""
    factor = (panel[2] - panel[0]) / image_width
    for x, y, width, height in (item.box for item in annotations):
        place = ([panel[0] + factor * (x + width / 2)], [panel[1] + factor * (y + height / 2)])
        for colour, edge in (("black", 3.2), ("white", 1.6)):
            line = Line2D(*place, marker=marker, color=colour, markersize=8, markeredgewidth=edge)
            line.set(fillstyle="none", zorder=4)  # above all words
            axes.add_line(line)


def _write(axes: Axes, left: float, middle: float, words: str) -> None:
    box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 0.8}
    axes.text(
        left + 1, middle, words, fontsize=FONT, color="white", ha="left", va="center_baseline", bbox=box
    )


def _words(annotation: Annotation, class_names: Sequence[str]) -> str:
    """Class (where there are several) and score (of predictions)."""
    name = class_names[annotation.label] if len(class_names) > 1 else ""
    score = "" if annotation.score is None else f"{annotation.score:.2f}"
    return f"{name} {score}".strip()


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _shown(rows: Sequence[OverlayRow]) -> list[int]:
    """Class indices that occur anywhere in the figure."""
    return sorted({item.label for row in rows for items in row.columns.values() for item in items})


def _add_legend(figure: Figure, rows: Sequence[OverlayRow], class_names: Sequence[str]) -> None:
    handles = [
        Patch(facecolor=_colour(label), edgecolor="#444444", label=class_names[label])
        for label in _shown(rows)
    ]
    columns = min(len(handles), LEGEND_COLUMNS) or 1
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=8)
