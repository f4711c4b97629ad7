"""Figure 5: what its panels show, which images its overlays take, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from cast.data.coco import Annotation, ImageRecord, new_annotation, write_coco
from cast.errors import CastError
from cast.evaluation.bias import OUTCOMES
from cast.reporting import figures
from cast.reporting.bias import SHOWN, bias_figure, choose_differing
from cast.stages import bias

SIZE = 96
CATEGORIES = [{"id": 8, "name": "car"}, {"id": 2, "name": "person"}]
SETTINGS = {"title": "Bias", "provenance": "demo", "before_name": "teacher", "images": 2}
FILES = {"figure5.png", "figure5.pdf", "figure5.csv", "figure5.manifest.json", "figure5_overlays.png"}


def square(number: int, image: int, label: int, x: int, score: float | None = None) -> Annotation:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[40:60, x : x + 20] = True
    return new_annotation(number, image, label, mask, score)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Three images. The student mends two mistakes in the first and makes two in the last."""
    records = [ImageRecord(number, f"{number}.png", SIZE, SIZE) for number in (1, 2, 3)]
    for record in records:
        Image.new("RGB", (SIZE, SIZE), (60, 60, 60)).save(tmp_path / record.file_name)
    content = {
        "truth": [square(number, number, 0, 10) for number in (1, 2, 3)],
        "before": [square(1, 1, 0, 60, 0.5), square(2, 2, 0, 10, 0.5), square(3, 3, 0, 10, 0.4)],
        "after": [
            square(1, 1, 0, 10, 0.9),
            square(2, 2, 0, 10, 0.8),
            square(3, 3, 1, 60, 0.7),
            square(4, 3, 0, 10, 0.1),  # surer ones are as many as the pseudo-labels
        ],
        "unknown": [],
        "unscored": [square(1, 1, 0, 10)],
    }
    for name, instances in content.items():
        write_coco(tmp_path / f"{name}.json", records, instances, CATEGORIES, tmp_path)
    write_coco(tmp_path / "others.json", records[:2], content["after"][:2], CATEGORIES, tmp_path)
    return {path.stem: path for path in tmp_path.glob("*.json")}


def draw(files: dict[str, Path], out: Path, **changed: object) -> None:
    bias.run(SETTINGS | changed, files["truth"], files["before"], files["after"], out)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All words drawn with `Axes.text`."""
    words: list[str] = []
    original = Axes.text

    def text(self, x, y, s, *args, **kwargs):
        words.append(s)
        return original(self, x, y, s, *args, **kwargs)

    monkeypatch.setattr(Axes, "text", text)
    return words


def drawn(table: pd.DataFrame, out: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: (saved.append(figure), save(figure, file)))
    bias_figure(table, "Bias", "measured", ("teacher", "student"), out)
    return saved[0]


def table(classes: int) -> pd.DataFrame:
    """`all` and classes of ever more instances, which differ in their measures."""
    numbers = np.arange(classes + 1)
    frame = pd.DataFrame({"class": ["all", *(f"c{n}" for n in numbers[1:])], "instances": 10 + numbers})
    frame.loc[0, "instances"] = frame["instances"][1:].sum()
    for side, shift in (("before", 0.0), ("after", 0.1)):
        frame[f"{side}_count"] = 5
        for measure in ("per_instance", "precision", "recall", "mean_iou"):
            frame[f"{side}_{measure}"] = 0.3 + shift + numbers / 100
    return frame.assign(**{name: place + 1 for place, name in enumerate(OUTCOMES)})


def test_panels_show_the_table(tmp_path, monkeypatch):
    figure = drawn(table(2), tmp_path / "f.png", monkeypatch)
    instances, precision, _, _, false, missed, found, balance = figure.axes
    before, after = precision.lines
    np.testing.assert_allclose(before.get_xdata(), [30, 31, 32])  # percent
    np.testing.assert_allclose(after.get_xdata(), [40, 41, 42])
    np.testing.assert_allclose(instances.lines[0].get_xdata(), [0.3, 0.31, 0.32])
    assert before.get_color() != after.get_color()
    assert [label.get_text() for label in instances.get_yticklabels()] == ["all", "c1", "c2"]
    # The outcomes number 1, 2, 3 | 4, 5 | 6, 7 | 8 in every class.
    widths = [[bar.get_width() for bar in axes.patches[::3]] for axes in (false, missed, found)]
    assert widths == [
        pytest.approx([100 / 6, 200 / 6, 300 / 6]),
        pytest.approx([400 / 9, 500 / 9]),
        pytest.approx([600 / 13, 700 / 13]),
    ]
    # Per 100 of the first class's 11 instances: mended 1 + 2 + 4, new 7 + 8.
    mended, corrected, new = (bars[1].get_width() for bars in balance.containers)
    assert (mended, corrected, new) == pytest.approx((700 / 11, 200 / 11, -1500 / 11))
    assert balance.lines[0].get_xdata()[1] == pytest.approx(-800 / 11)
    assert all(axes.get_xlabel() and axes.get_title() for axes in figure.axes)
    assert "measured" in figure.get_suptitle()
    assert {"teacher", "student"} <= {text.get_text() for text in figure.legends[0].get_texts()}


def test_rows_of_one_class_and_of_many(tmp_path, monkeypatch):
    one = drawn(table(1), tmp_path / "one.png", monkeypatch)
    assert [label.get_text() for label in one.axes[0].get_yticklabels()] == ["c1"]
    many = drawn(table(SHOWN + 3), tmp_path / "many.png", monkeypatch)
    labels = [label.get_text() for label in many.axes[0].get_yticklabels()]
    assert labels == ["all", *(f"c{number}" for number in range(4, SHOWN + 4))]  # in the file's order
    assert f"{SHOWN} most frequent of {SHOWN + 3}" in many.get_suptitle()


def test_a_class_without_any_instance_is_drawn(tmp_path, monkeypatch):
    frame = table(2)
    frame.loc[1, frame.columns[1:]] = 0
    frame.loc[1, ["before_precision", "after_precision"]] = np.nan
    figure = drawn(frame, tmp_path / "f.png", monkeypatch)
    assert [bar.get_width() for bar in figure.axes[4].patches[1::3]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [5]), (2, [5, 7]), (3, [5, 8, 7]), (4, [5, 8, 6, 7]), (9, [5, 8, 6, 7])]
)
def test_images_are_chosen_at_both_ends(count, chosen):
    counts = pd.DataFrame(0, index=[5, 6, 7, 8], columns=list(OUTCOMES))
    counts["missed_found"] = [9, 0, 3, 3]
    counts["false_corrected"] = [0, 0, 1, 0]
    counts["found_lost"] = [1, 1, 2, 0]
    counts["false_new"] = [0, 0, 4, 0]
    counts["found_kept"] = [0, 50, 0, 0]  # neither mended nor new
    assert choose_differing(counts, count) == chosen


def test_files(files, tmp_path, written):
    out = tmp_path / "figures" / "figure5.png"
    draw(files, out)
    assert {path.name for path in out.parent.iterdir()} == FILES
    row = pd.read_csv(out.with_suffix(".csv")).set_index("class").loc["all"]
    assert row["before_count"] == row["after_count"] == 3
    assert (row["false_dropped"], row["missed_found"], row["found_lost"], row["false_new"]) == (1, 1, 1, 1)
    manifest = json.loads(out.with_suffix(".manifest.json").read_text())
    assert set(manifest["inputs"]) == {str(files[name]) for name in ("truth", "before", "after")}
    assert manifest["settings"] == SETTINGS
    assert {"2 mended, 0 new: +2", "0 mended, 2 new: -2"} <= set(written)
    assert {"image", "truth", "teacher", "refined student"} <= set(written)
    assert any("demo" in words for words in written)
    assert any(words.startswith("Of 3 images the 1 with") for words in written)


def test_overlays_mark_mistakes_where_they_are(files, tmp_path):
    draw(files, tmp_path / "f.png")
    pixels = np.asarray(Image.open(tmp_path / "f_overlays.png").convert("RGB"))
    factor, side, gap = 3, 3 * SIZE, figures.GAP
    top = figures.HEAD + 3 * figures.LINE
    truth, before, after = (
        (pixels[top : top + side, left : left + side] > 250).all(-1)
        for left in range(gap + side + gap, 4 * (side + gap), side + gap)
    )
    false, missed = ((factor * 50, factor * (x + 10)) for x in (60, 10))

    def marked(panel: np.ndarray, centre: tuple[int, int]) -> bool:
        y, x = centre
        return bool(panel[y - 6 : y + 7, x - 6 : x + 7].any())

    assert marked(before, false) and marked(before, missed)
    assert before[false[0], false[1]] and not before[missed[0], missed[1]]  # a cross, and a ring
    assert not any(marked(panel, place) for panel in (truth, after) for place in (false, missed))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"truth": "unknown"}, r"unknown\.json: holds no instance.*truth is known"),
        ({"after": "unscored"}, r"unscored\.json: holds instances without a score"),
        ({"before": "others"}, r"others\.json: has other images"),
        ({"before": "absent"}, r"absent\.json: cannot be read"),
    ],
)
def test_unfit_files_are_named(files, tmp_path, wrong, message):
    files["absent"] = tmp_path / "absent.json"
    given = files | {role: files[name] for role, name in wrong.items()}
    with pytest.raises(CastError, match=message):
        draw(given, tmp_path / "figures" / "figure5.png")
    assert not (tmp_path / "figures").exists()


def test_columns_need_names_of_their_own(files, tmp_path):
    with pytest.raises(CastError, match="before_name"):
        draw(files, tmp_path / "f.png", after_name="teacher")


def test_a_student_that_finds_nothing_is_drawn(files, tmp_path):
    bias.run(SETTINGS, files["truth"], files["before"], files["unknown"], tmp_path / "f.png")
    assert pd.read_csv(tmp_path / "f.csv")["found_lost"][0] == 2
