"""What every benchmark's report needs: ratios within a round, goals met or missed, its place in the docs."""

from __future__ import annotations

import platform
from pathlib import Path
from statistics import median

import torch

DOCS = Path(__file__).parents[2] / "docs" / "measurements.md"


def ratios(of: list[dict[str, float]], to: list[dict[str, float]], key: str) -> list[float]:
    """Round by round."""
    return [first[key] / second[key] for first, second in zip(of, to, strict=True)]


def goal(words: str, measured: list[float], wanted: float, at_least: bool) -> str:
    """One line: the ratio, its spread, and whether the goal is met."""
    ratio = median(measured)
    met = ratio >= wanted if at_least else ratio <= wanted
    spread = f" ({min(measured):.2f} to {max(measured):.2f})" if len(measured) > 1 else ""
    sign = "≥" if at_least else "≤"
    return f"- **{ratio:.2f}**{spread} {words}; goal {sign} {wanted:.2f}: {'met' if met else 'MISSED'}."


def machine() -> str:
    """Name of the accelerator, or of the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return models[0].partition(":")[2].strip() if models else platform.machine()


def write_section(text: str, target: str, path: Path = DOCS) -> None:
    """Put `text` between the markers of a make target in a document.

    Args:
        text: Markdown.
        target: of the Makefile; the document holds the comments `make <target>: begin` and `: end`.
        path: the document, docs/measurements.md by default.

    Raises:
        SystemExit: the markers are missing.
    """
    begin, end = (f"<!-- make {target}: {word} -->" for word in ("begin", "end"))
    head, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, marker, tail = rest.partition(end)
    if not marker:
        raise SystemExit(
            f"error: {path}: lacks the lines {begin} and {end}; put them where the section belongs"
        )
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
