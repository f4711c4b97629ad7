"""Figure 2: the table's figures, what its text says, and what the figure shows."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from cast.evaluation.efficiency import Cost, Latency
from cast.reporting.efficiency import efficiency_figure, efficiency_table, efficiency_text, totals

COSTS = {
    "teacher": Cost(
        {"a": 300_000_000, "b": 200_000_000}, {"a": 6 * 10**12, "b": 0}, Latency((40.0, 50.0, 90.0))
    ),
    "student": Cost({"c": 50_000_000}, {"c": 10**12}, Latency((10.0, 10.0, 10.0))),
}
REPORTED = {
    "teacher": {"params_m": 560.0, "gflops": 900.0, "latency_ms": 300.0, "fps": 3.0},
    "student": {"params_m": 56.0, "gflops": 300.0, "latency_ms": 60.0, "fps": 15.0},
}
TABLE = efficiency_table(COSTS, REPORTED)


def test_the_table_holds_totals_and_parts():
    assert TABLE[["model", "part"]].to_numpy().tolist() == [
        ["teacher", "all"], ["teacher", "a"], ["teacher", "b"], ["student", "all"], ["student", "c"],
    ]  # fmt: skip
    teacher = totals(TABLE)["teacher"]
    assert (teacher["parameters"], teacher["flops"]) == (500_000_000, 6 * 10**12)
    assert (teacher["latency_ms"], teacher["fps"]) == (50.0, 20.0)
    assert (teacher["latency_min_ms"], teacher["latency_max_ms"]) == (40.0, 90.0)


def test_the_text_gives_ratios_of_both_kinds():
    lines = efficiency_text(TABLE, "Costs", "demo", "somewhere").splitlines()
    rows = {cells[1]: cells[2:-1] for line in lines if len(cells := [c.strip() for c in line.split("|")]) > 2}
    assert rows[""] == [
        "teacher (demo)", "student (demo)", "ratio (demo)",
        "teacher (reported)", "student (reported)", "ratio (reported)",
    ]  # fmt: skip
    assert rows["million parameters"] == ["500", "50.0", "10.0", "560", "56.0", "10.0"]
    assert rows["GFLOPs an image, two for each multiply-add"] == [
        "6,000",
        "1,000",
        "6.00",
        "900",
        "300",
        "3.00",
    ]
    assert rows["GMACs an image"] == ["3,000", "500", "6.00", "–", "–", "–"]
    assert rows["milliseconds an image"][:2] == ["50.0 (40.0 to 90.0)", "10.0 (10.0 to 10.0)"]
    assert rows["images per second"] == ["20.0", "100", "5.00", "3.00", "15.0", "5.00"]
    assert rows["teacher, b"] == ["200", "0", "0"]


def test_the_figure_marks_measured_and_reported_apart(tmp_path, monkeypatch):
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: (saved.append(figure), save(figure, file)))
    efficiency_figure(TABLE, "Costs", "demo", "somewhere", tmp_path / "figure2.png")
    assert {path.name for path in tmp_path.iterdir()} == {"figure2.png", "figure2.pdf"}
    parameters, compute, speed = saved[0].axes
    assert [label.get_text() for label in parameters.get_yticklabels()] == ["demo", "reported"]
    assert [list(line.get_xdata()) for line in compute.lines] == [[6000, 1000], [900, 300]]
    assert [list(line.get_xdata()) for line in speed.lines] == [[20, 100], [3, 15]]
    faces = [tuple(dots.get_facecolor()[0]) for dots in speed.collections]
    assert faces[2:] == [(1.0, 1.0, 1.0, 1.0)] * 2 and len(set(faces)) == 3  # hollow; two colours filled
    words = [text.get_text() for text in speed.texts]
    assert words == ["20.0", "100", "5.00 × faster", "3.00", "15.0", "5.00 × faster"]
    assert all(axes.get_xlabel() and axes.get_xscale() == "log" for axes in saved[0].axes)
    assert [text.get_text() for text in saved[0].legends[0].get_texts()] == ["teacher", "student"]
    assert "somewhere" in saved[0].get_suptitle()


def test_values_keep_three_digits():
    costs = COSTS | {"student": Cost({"c": 51_692}, {"c": 10**9}, Latency((98765.0,)))}
    text = efficiency_text(efficiency_table(costs, REPORTED), "Costs", "demo", "somewhere")
    assert "| million parameters | 500 | 0.0517 | 9,673 |" in text
    assert "98,765 (98,765 to 98,765)" in text and pytest.approx(0.0101, abs=1e-4) == 1000 / 98765
    assert "| 0.0101 |" in text
