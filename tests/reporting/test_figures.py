"""Overlay figures: what is drawn where, which images, how large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from cast.data.coco import Annotation, CocoData, ImageRecord, new_annotation, write_coco
from cast.errors import CastError
from cast.reporting import figures
from cast.reporting.figures import OverlayRow, choose_images, overlay_figure
from cast.stages import overlay

ORANGE, BLUE = (0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)
CATEGORIES = [{"id": 8, "name": "car"}, {"id": 2, "name": "person"}]
NAMES = [category["name"] for category in CATEGORIES]


def square(x: int, y: int, side: int, size: int = 96) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def grey(size: int = 96) -> np.ndarray:
    return np.full((size, size, 3), 60, dtype=np.uint8)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All words drawn."""
    words: list[str] = []
    original = Axes.text

    def text(self: Axes, x: float, y: float, s: str, *args: Any, **kwargs: Any) -> Any:
        words.append(s)
        return original(self, x, y, s, *args, **kwargs)

    monkeypatch.setattr(Axes, "text", text)
    return words


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def coloured(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (pixels == colour).all(-1)


def test_each_column_shows_its_own_instances(tmp_path: Path, written: list[str]) -> None:
    truth = [new_annotation(1, 1, 0, square(20, 30, 30))]
    found = [new_annotation(1, 1, 1, square(40, 30, 30), 0.87)]
    row = OverlayRow(grey(), {"truth": truth, "student": found})
    overlay_figure([row], NAMES, tmp_path / "o.png")
    pixels = read(tmp_path / "o.png")
    top, side, step = figures.HEAD, 288, 288 + figures.GAP
    panels = [pixels[top : top + side, left : left + side] for left in range(figures.GAP, 3 * step, step)]
    assert (panels[0] == 60).all()
    # The outline lies where the mask does: enlarged three times, drawn inside the mask.
    rows, columns = np.nonzero(coloured(panels[1], ORANGE))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (90, 179, 60, 149)
    assert not coloured(panels[1], BLUE).any()
    rows, columns = np.nonzero(coloured(panels[2], BLUE))
    assert (columns.min(), columns.max()) == (120, 209)
    assert {"image", "truth", "student", "car", "person 0.87"} == set(written)


def test_small_images_are_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (96, 96, 1), dtype=np.uint8).repeat(3, 2) * 255
    overlay_figure([OverlayRow(noise, {"truth": []})], NAMES, tmp_path / "o.png")
    panel = read(tmp_path / "o.png")[figures.HEAD : figures.HEAD + 288, figures.GAP : figures.GAP + 288]
    assert np.array_equal(panel, noise.repeat(3, 0).repeat(3, 1))


def test_one_class_colours_instances_apart_and_needs_no_legend(tmp_path: Path, written: list[str]) -> None:
    items = [new_annotation(n, 1, 0, square(10 + 40 * n, 30, 30), 0.5 + 0.1 * n) for n in range(2)]
    overlay_figure([OverlayRow(grey(), {"student": items})], ["nucleus"], tmp_path / "o.png")
    pixels = read(tmp_path / "o.png")
    assert coloured(pixels, ORANGE).any()
    assert coloured(pixels, BLUE).any()
    assert {"0.50", "0.60"} < set(written)
    assert pixels.shape[0] == figures.HEAD + 288 + figures.GAP


def test_words_never_hide_a_crowded_picture(tmp_path: Path, written: list[str]) -> None:
    places = [(x, y) for x in range(0, 90, 16) for y in range(0, 90, 16)]
    items = [new_annotation(n, 1, 0, square(x, y, 12), 0.5) for n, (x, y) in enumerate(places)]
    overlay_figure([OverlayRow(grey(), {"student": items})], NAMES, tmp_path / "o.png")
    assert set(written) == {"image", "student"}


def test_of_two_colliding_labels_the_better_score_wins_the_place(tmp_path: Path, written: list[str]) -> None:
    items = [new_annotation(n, 1, 0, square(0, 0, 96), score) for n, score in enumerate((0.3, 0.9))]
    items += [new_annotation(9, 1, 1, square(30, 30, 40), score) for score in (0.6, 0.8, 0.7)]
    overlay_figure([OverlayRow(grey(), {"student": items})], NAMES, tmp_path / "o.png")
    # Above and below the inner square there is room for two; the outer one fills the panel.
    assert [word for word in written if "." in word] == ["person 0.80", "person 0.70"]


def test_large_images_are_reduced_and_the_file_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1024, 2048, 3), dtype=np.uint8)
    mask = np.zeros((1024, 2048), dtype=bool)
    mask[200:600, 300:900] = True
    row = OverlayRow(noise, {"truth": [new_annotation(1, 1, 0, mask)], "student": []})
    overlay_figure([row] * 4, NAMES, tmp_path / "o.png")
    assert read(tmp_path / "o.png").shape[1] == 3 * (288 + figures.GAP) + figures.GAP
    assert (tmp_path / "o.png").stat().st_size < figures.MAX_BYTES


def test_large_files_keep_the_class_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_BYTES", 0)
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    items = [new_annotation(1, 1, 0, square(20, 30, 30)), new_annotation(2, 1, 1, square(60, 60, 30))]
    overlay_figure([OverlayRow(noise, {"truth": items})], NAMES, tmp_path / "o.png")
    assert Image.open(tmp_path / "o.png").mode == "P"
    difference = np.abs(read(tmp_path / "o.png").astype(int) - ORANGE).max(-1)
    assert (difference < 12).sum() > 100


def dataset(folder: Path, with_instances: list[int], images: int = 12) -> CocoData:
    records = [ImageRecord(10 + n, f"{n}.png", 96, 96) for n in range(images)]
    items = {10 + n: [new_annotation(n + 1, 10 + n, 0, square(20, 20, 30))] for n in with_instances}
    return CocoData(records, CATEGORIES, folder, items)


def test_chosen_images_are_spread_and_hold_instances(tmp_path: Path) -> None:
    data = dataset(tmp_path, [1, 3, 5, 7, 9, 11])
    assert choose_images(data, 3) == [11, 15, 21]  # first, middle, last with instances
    assert choose_images(data, 20) == [11, 13, 15, 17, 19, 21]
    assert choose_images(dataset(tmp_path, []), 3) == []


def prepared(folder: Path, scores: list[float]) -> tuple[Path, Path]:
    data = dataset(folder, [0, 1], images=2)
    for record in data.images:
        Image.fromarray(grey()).save(folder / record.file_name)
    write_coco(folder / "truth.json", data.images, data.annotations, CATEGORIES, folder)
    found: list[Annotation] = [
        new_annotation(n + 1, 10, 1, square(10 + 16 * n, 40, 16), score) for n, score in enumerate(scores)
    ]
    write_coco(folder / "predictions.json", data.images, found, CATEGORIES, folder)
    return folder / "truth.json", folder / "predictions.json"


def test_stage_draws_as_many_instances_as_the_truth_holds(tmp_path: Path, written: list[str]) -> None:
    truth, predictions = prepared(tmp_path, [0.2, 0.4, 0.3, 0.1])
    overlay.run({"overlay_images": 2}, truth, [f"student={predictions}"], tmp_path / "figures" / "o.png")
    assert {word for word in written if "." in word} <= {"person 0.40", "person 0.30"}
    assert "person 0.40" in written
    assert "car" in written


def test_stage_obeys_a_given_score(tmp_path: Path, written: list[str]) -> None:
    truth, predictions = prepared(tmp_path, [0.2, 0.4])
    overlay.run({"overlay_score": 0.35}, truth, [f"student={predictions}"], tmp_path / "o.png")
    assert [word for word in written if "." in word] == ["person 0.40"]


def test_stage_errors(tmp_path: Path) -> None:
    truth, predictions = prepared(tmp_path, [0.5])
    with pytest.raises(CastError, match="TITLE=FILE"):
        overlay.run({}, truth, [str(predictions)], tmp_path / "o.png")
    with pytest.raises(CastError, match="score"):
        overlay.run({}, truth, [f"student={truth}"], tmp_path / "o.png")
    write_coco(tmp_path / "none.json", dataset(tmp_path, []).images, [], CATEGORIES, tmp_path)
    with pytest.raises(CastError, match="no instance"):
        overlay.run({}, tmp_path / "none.json", [f"student={predictions}"], tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()
