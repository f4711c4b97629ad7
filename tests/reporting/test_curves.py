"""Figure 3: what its curves show, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cast.errors import CastError
from cast.stages import curves

SETTINGS = {
    "figure": {"kind": "curves", "title": "Margins", "lines": {"λ = 0.1": "low", "λ = 0.5": "high"}},
    "provenance": "demo",
}


def log(path: Path, margin: float, pseudo: bool = True) -> Path:
    frame = pd.DataFrame({"step": [10, 20, 30], "lr": 0.1, "sup": 2.0, "pxl": [3.0, 2.0, 1.0]})
    frame = frame.assign(margin=margin, false_negative_rate=[0.3, np.nan, 0.1])
    if pseudo:
        frame["false_negative_rate_pseudo"] = 0.2
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    low = [f"low:{seed}:{log(tmp_path / f'low{seed}.csv', 0.2 + 0.1 * seed)}" for seed in (0, 1)]
    return [*low, f"high:0:{log(tmp_path / 'high0.csv', 0.9, pseudo=False)}"]


def drawn(runs: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure that the stage saves."""
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: (saved.append(figure), save(figure, file)))
    curves.run(SETTINGS, runs, out)
    assert len({id(figure) for figure in saved}) == 1
    return saved[0]


def test_the_figure_shows_means_over_seeds(runs, tmp_path, monkeypatch):
    figure = drawn(runs, tmp_path / "figures" / "figure3.png", monkeypatch)
    margin, rates, loss = figure.axes
    low, high = margin.lines
    assert low.get_xdata().tolist() == [10, 20, 30]
    np.testing.assert_allclose(low.get_ydata(), 0.25)
    np.testing.assert_allclose(high.get_ydata(), 0.9)
    np.testing.assert_allclose(rates.lines[0].get_ydata(), [30, np.nan, 10])  # percent
    np.testing.assert_allclose(rates.lines[1].get_ydata(), 20)
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [3, 2, 1])
    band = margin.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.2, 0.3))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["λ = 0.1", "λ = 0.5"]
    assert all(axes.get_xlabel() == "optimiser step" and axes.get_ylabel() for axes in figure.axes)
    assert "demo" in figure.get_suptitle()
    assert low.get_color() != high.get_color()


def test_files(runs, tmp_path):
    out = tmp_path / "figures" / "figure3.png"
    curves.run(SETTINGS, runs, out)
    assert {path.name for path in out.parent.iterdir()} == {
        f"figure3.{suffix}" for suffix in ("png", "pdf", "csv", "manifest.json")
    }
    assert Image.open(out).width >= 1000
    shown = pd.read_csv(out.with_suffix(".csv"))
    assert set(map(tuple, shown[["line", "seed"]].to_numpy().tolist())) == {
        ("λ = 0.1", 0),
        ("λ = 0.1", 1),
        ("λ = 0.5", 0),
    }
    manifest = json.loads(out.with_suffix(".manifest.json").read_text())
    assert set(manifest["inputs"]) == {run.split(":")[2] for run in runs}


@pytest.mark.parametrize("content", [None, "", "step,sup\n1,2.0\n"])
def test_an_unfit_log_is_named(tmp_path, content):
    path = tmp_path / "training.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CastError, match=r"training\.csv"):
        curves.run(SETTINGS, [f"low:0:{path}"], tmp_path / "figures" / "figure3.png")
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("entries", "message"), [(["low"], "RECIPE:SEED:FILE"), (["other:0:x.csv"], "other"), ([], "none")]
)
def test_malformed_entries_are_refused(tmp_path, entries, message):
    with pytest.raises(CastError, match=message):
        curves.run(SETTINGS, entries, tmp_path / "figure3.png")
