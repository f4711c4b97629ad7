"""`make bench-efficiency`: `cast efficiency` with the paper's full-size models, for docs/measurements.md."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cast.benchmarks.report import goal, write_section
from cast.config_files import read_yaml
from cast.reporting.efficiency import FLOPS, MODELS, PARAMETERS, SPEED, totals
from cast.stages import efficiency

CONFIG = Path(__file__).parents[2] / "config"
# The student against the teacher: the paper's claims.
GOALS = (
    (PARAMETERS, 11.0, "times fewer parameters"),
    (FLOPS, 4.4, "times fewer FLOPs"),
    (SPEED, 4.6, "times as many images per second"),
)


def full_size(repeats: int) -> dict[str, Any]:
    """Settings of `cast efficiency` for the paper's models; the rest are its defaults."""
    models = CONFIG / "models"
    return {
        "detector": {"architecture": read_yaml(models / "detector_swin_l.yaml")},
        "segmenter": {"architecture": read_yaml(models / "segmenter_hiera_l.yaml")},
        "paper_results": str(CONFIG / "paper_results.yaml"),
        "repeats": repeats,
    }


def render(text: str, table: pd.DataFrame) -> str:
    """The section of docs/measurements.md: date, what `cast efficiency` wrote, and goals met or missed."""
    rows = totals(table)
    lines = []
    for quantity, wanted, words in GOALS:
        ratio = quantity.ratio(*(quantity.measured(rows[model]) for model in MODELS))
        lines.append(goal(words, [ratio], wanted, at_least=True))
    return "\n".join([f"`make bench-efficiency`, {date.today()}.", text.rstrip(), "", *lines])


def main() -> None:
    """Measure, and write the figure and the section of docs/measurements.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timed predictions of each model (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("results/bench-efficiency/figure2.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    efficiency.run(full_size(arguments.repeats), None, arguments.out)
    text = arguments.out.with_suffix(".md").read_text(encoding="utf-8")
    write_section(render(text, pd.read_csv(arguments.out.with_suffix(".csv"))), "bench-efficiency")


if __name__ == "__main__":
    main()
