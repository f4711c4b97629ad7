"""Results tables: columns, statistics, reported figures and the three files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cast.config import Table, TableRow
from cast.config_files import load, read_yaml
from cast.errors import CastError
from cast.reporting.tables import caption, format_text, reported_figures, results_table, write_table
from cast.stages import tabulate

CONFIG = Path(__file__).parents[2] / "config"
PAPER_RESULTS = CONFIG / "paper_results.yaml"
FIRST_COLUMNS = [
    "role", "method", "data", "mask_ap", "mask_ap50", "seeds", "reported_mask_ap", "reported_mask_ap50",
]  # fmt: skip


def row(role: str, method: str, data: str, recipe: str) -> TableRow:
    return TableRow.model_validate({"role": role, "method": method, "data": data, "recipe": recipe})


TABLE = Table(
    title="Main_results at 10 % labels",
    reported="table1_main",
    rows=(
        row("teacher", "zero_shot", "none", "foundation"),
        row("student", "supervised_finetune", "labelled", "student_supervised"),
        row("student", "cast_refined", "labelled", "cast_refined"),
    ),
)


def metrics(mask_ap: float | None, mask_ap50: float | None) -> dict[str, Any]:
    first, second = ({"mask_ap": mask_ap, "mask_ap50": mask_ap50} for _ in range(2))
    if mask_ap is not None:
        second = {"mask_ap": mask_ap + 5, "mask_ap50": mask_ap50 + 5}
    recalls = {"recall50_touching": mask_ap50, "recall50_apart": 90.0}
    return {
        **first,
        **recalls,
        "max_detections": [100, 500],
        "by_max_detections": {"100": first, "500": second},
    }


MEASURED = {
    "foundation": {0: metrics(10.0, 20.0)},
    "cast_refined": {0: metrics(20.0, 40.0), 1: metrics(22.0, 42.0), 2: metrics(27.0, 50.0)},
}


@pytest.fixture
def paper() -> dict[str, Any]:
    return read_yaml(PAPER_RESULTS)


@pytest.fixture
def frame(paper: dict[str, Any]) -> pd.DataFrame:
    return results_table(TABLE, MEASURED, paper, "cityscapes", "demo")


def test_columns_in_order(frame: pd.DataFrame) -> None:
    assert list(frame.columns) == [
        *FIRST_COLUMNS, "mask_ap_sd", "mask_ap50_sd", "provenance",
        "recall50_touching", "recall50_touching_sd", "recall50_apart", "recall50_apart_sd",
        "mask_ap_at_500", "mask_ap50_at_500",
    ]  # fmt: skip
    assert frame["provenance"].tolist() == ["demo"] * 3


def test_means_and_deviations_over_seeds(frame: pd.DataFrame) -> None:
    refined = frame.iloc[2]
    assert (refined["mask_ap"], refined["mask_ap50"], refined["seeds"]) == (23.0, 44.0, 3)
    assert refined["mask_ap_sd"] == pytest.approx((((3**2) + 1 + (4**2)) / 2) ** 0.5)
    assert refined["mask_ap_at_500"] == 28.0
    assert (refined["recall50_touching"], refined["recall50_apart"]) == (44.0, 90.0)
    assert pd.isna(frame.iloc[0]["mask_ap_sd"])  # one seed has no spread


def test_rows_without_a_run_stay_empty(frame: pd.DataFrame) -> None:
    missing = frame.iloc[1]
    assert missing["seeds"] == 0
    assert pd.isna(missing["mask_ap"])
    assert missing["reported_mask_ap"] == 21.1


def test_reported_figures_belong_to_role_method_data_and_data_set(
    frame: pd.DataFrame, paper: dict[str, Any]
) -> None:
    assert frame["reported_mask_ap"].tolist() == [22.0, 21.1, 33.9]
    assert frame["reported_mask_ap50"].tolist() == [42.3, 38.7, 58.7]
    ade = results_table(TABLE, MEASURED, paper, "ade20k", "demo")
    assert ade["reported_mask_ap"].tolist() == [8.1, 13.9, 16.7]
    none = results_table(TABLE, MEASURED, paper, None, "measured")
    assert none["reported_mask_ap"].isna().all()
    teacher = row("teacher", "supervised_finetune", "labelled", "foundation")
    assert reported_figures(paper, "table1_main", teacher, "cityscapes") == (28.7, 53.4)
    other_data = row("teacher", "supervised_finetune", "unlabelled", "foundation")
    assert reported_figures(paper, "table1_main", other_data, "cityscapes") == (None, None)
    cited = row("student", "s4m", "labelled+unlabelled", "foundation")
    assert reported_figures(paper, "table1_main", cited, "ade20k") == (None, None)
    assert reported_figures(paper, None, cited, "cityscapes") == (None, None)


@pytest.mark.parametrize(
    ("section", "role", "method", "expected"),
    [
        ("table2_loss_terms", "teacher", "sup+semi", (29.7, None)),
        ("table2_loss_terms", "student", "sup+semi+pxl", (32.2, None)),
        ("table3_stages", "student", "teacher_adaptation+distillation", (32.2, None)),
        ("table4_negative_sampling", "student", "mask_only", (30.6, 55.0)),
        ("table4_negative_sampling", "teacher", "mask_only", (None, None)),
        ("table5_architecture", "student", "fpn", (28.9, 52.4)),
    ],
)
def test_reported_figures_of_the_ablations(
    paper: dict[str, Any], section: str, role: str, method: str, expected: tuple
) -> None:
    ablation = row(role, method, "labelled+unlabelled", "foundation")
    assert reported_figures(paper, section, ablation, "cityscapes") == expected
    assert reported_figures(paper, section, ablation, "ade20k") == (None, None)


def figures_in(value: Any) -> int:
    """How many APs a section of the paper's results holds: numbers, or pairs of AP and AP50."""
    if isinstance(value, dict):
        other = {"fraction", "params_m", "ade20k"}
        return sum(figures_in(item) for key, item in value.items() if key not in other)
    if isinstance(value, list) and not all(isinstance(item, float) for item in value):
        return sum(figures_in(item) for item in value)
    return int(value is not None and not isinstance(value, str | bool))


@pytest.mark.parametrize("name", [f"table{number}" for number in range(1, 7)])
def test_every_reported_figure_has_its_row_and_every_row_its_figure(paper: dict[str, Any], name: str) -> None:
    table = load(CONFIG / "demo.yaml").tables[name]
    found = [reported_figures(paper, table.reported, row, "cityscapes") for row in table.rows]
    assert all(ap is not None for ap, _ in found)
    assert len(found) == figures_in(paper[str(table.reported)])


def test_cited_methods_stand_beside_measured_ones(paper: dict[str, Any]) -> None:
    cited = TableRow(role="student", method="s4m", data="labelled+unlabelled")
    table = TABLE.model_copy(update={"rows": (*TABLE.rows, cited)})
    frame = results_table(table, MEASURED, paper, "cityscapes", "demo")
    assert (frame.iloc[3]["seeds"], frame.iloc[3]["reported_mask_ap"]) == (0, 33.3)
    assert pd.isna(frame.iloc[3]["mask_ap"])
    text = format_text(frame, "t", "cityscapes", "p").splitlines()
    assert [line for line in text if "cited" in line] == [line for line in text if "s4m" in line]
    assert len(results_table(table, MEASURED, paper, "ade20k", "demo")) == 3


def test_label_budgets_are_runs_of_their_own(paper: dict[str, Any]) -> None:
    rows = [
        {
            "role": "student",
            "method": "refined",
            "data": "labelled",
            "recipe": "cast_refined",
            "percent": number,
        }
        for number in (5, 30)
    ]
    table = Table.model_validate({"title": "t", "reported": "table6_label_budget", "rows": rows})
    measured = {"cast_refined@5": {0: metrics(1.0, 2.0)}, "cast_refined@30": {0: metrics(3.0, 4.0)}}
    frame = results_table(table, measured, paper, "cityscapes", "demo")
    assert frame["percent"].tolist() == [5, 30]
    assert frame["mask_ap"].tolist() == [1.0, 3.0]
    assert frame["reported_mask_ap"].tolist() == [30.7, 40.4]
    assert "30 %" in format_text(frame, "t", "cityscapes", "p")


def test_unknown_section_names_it(paper: dict[str, Any]) -> None:
    with pytest.raises(CastError, match="table9"):
        reported_figures(paper, "table9", TABLE.rows[0], "cityscapes")


def test_metrics_without_a_figure_are_left_out_of_the_mean(paper: dict[str, Any]) -> None:
    measured = {"foundation": {0: metrics(None, None), 1: metrics(12.0, 30.0)}}
    frame = results_table(TABLE, measured, paper, "cityscapes", "demo")
    assert frame.iloc[0]["mask_ap"] == 12.0


def test_files(frame: pd.DataFrame, paper: dict[str, Any], tmp_path: Path) -> None:
    write_table(frame, TABLE.title, tmp_path, "table1", "cityscapes", paper["source"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table1.csv", "table1.md", "table1.tex"]
    back = pd.read_csv(tmp_path / "table1.csv")
    assert list(back.columns) == list(frame.columns)
    assert back["mask_ap_sd"].isna().tolist() == [True, True, False]
    markdown = (tmp_path / "table1.md").read_text(encoding="utf-8")
    heading = next(line for line in markdown.splitlines() if line.startswith("|"))
    assert "mask AP (demo)" in heading
    assert "reported mask AP (cityscapes)" in heading
    assert "23.0 ± 3.6" in markdown
    assert "nan" not in markdown
    assert caption(frame, "cityscapes", paper["source"]) in markdown
    latex = (tmp_path / "table1.tex").read_text(encoding="utf-8")
    assert r"\toprule" in latex
    assert r"Main\_results at 10 \% labels" in latex
    assert r"23.0 $\pm$ 3.6" in latex


def test_text_is_aligned(frame: pd.DataFrame) -> None:
    lines = format_text(frame, "Title", "cityscapes", "source").splitlines()
    assert lines[0] == "Title"
    body = lines[5:8]
    assert [line.split()[0] for line in body] == ["teacher", "student", "student"]
    assert (
        len({line.index(method) for line, method in zip(body, ("zero", "supervised", "cast"), strict=True)})
        == 1
    )
    assert all(line == line.rstrip() for line in lines)


def test_caption_says_what_the_figures_are(frame: pd.DataFrame, paper: dict[str, Any]) -> None:
    assert "toy" in caption(frame, "cityscapes", "source")
    assert "standard deviation" in caption(frame, "cityscapes", "source")
    measured = results_table(TABLE, {}, paper, None, "measured")
    text = caption(measured, None, "source")
    assert "toy" not in text
    assert "reported" not in text


def settings() -> dict[str, Any]:
    return {
        "table": TABLE.model_dump(mode="json"),
        "provenance": "demo",
        "reported_dataset": "cityscapes",
        "paper_results": str(PAPER_RESULTS),
    }


def test_stage_writes_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = []
    for recipe, runs in MEASURED.items():
        for seed, content in runs.items():
            path = tmp_path / f"{recipe}{seed}.json"
            path.write_text(json.dumps(content, sort_keys=True))
            entries.append(f"{recipe}:{seed}:{path}")
    tabulate.run(settings(), entries, tmp_path / "tables" / "table1.csv")
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        f"table1.{suffix}" for suffix in ("csv", "md", "tex", "manifest.json")
    }
    manifest = json.loads((tmp_path / "tables" / "table1.manifest.json").read_text())
    assert manifest["settings"] == settings()
    assert set(manifest["inputs"]) == {*(entry.split(":")[2] for entry in entries), str(PAPER_RESULTS)}
    frame = pd.read_csv(tmp_path / "tables" / "table1.csv")
    assert frame["mask_ap"].tolist()[::2] == [10.0, 23.0]
    assert "23.0 ± 3.6" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", "[]", '{"mask_ap": 1}'])
def test_stage_names_the_bad_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CastError, match=r"metrics\.json"):
        tabulate.run(settings(), [f"foundation:0:{path}"], tmp_path / "tables" / "table1.csv")
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize(
    "entry", ["foundation", "foundation:metrics.json", "foundation:x:metrics.json", ":0:m.json"]
)
def test_stage_refuses_malformed_entries(tmp_path: Path, entry: str) -> None:
    with pytest.raises(CastError, match="RECIPE:SEED:FILE"):
        tabulate.run(settings(), [entry], tmp_path / "table1.csv")
