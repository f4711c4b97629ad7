"""One line per interval with the losses, the pace and the time that is left."""

from __future__ import annotations

import time
from datetime import timedelta


class Progress:
    """Prints to standard output, at most every `seconds`, and always at the end.

    Args:
        label: what is running, e.g. the recipe.
        total: number of steps or images.
        seconds: interval between lines.
        unit: name of what is counted.
    """

    def __init__(self, label: str, total: int, seconds: float, unit: str = "step") -> None:
        self.label, self.total, self.seconds, self.unit = label, total, seconds, unit
        self.started = self.last = time.monotonic()

    def due(self, done: int) -> bool:
        """Whether a line is to be printed after `done` of the total."""
        return done >= self.total or time.monotonic() - self.last >= self.seconds

    def report(self, done: int, detail: str = "") -> None:
        """Print the line."""
        self.last = time.monotonic()
        pace = (self.last - self.started) / max(done, 1)
        left = timedelta(seconds=round(pace * (self.total - done)))
        share = 100 * done // max(self.total, 1)
        took = timedelta(seconds=round(self.last - self.started))
        end = f"took {took}" if done >= self.total else f"ETA {left}"
        parts = [f"{self.unit} {done}/{self.total} ({share} %)", detail, f"{pace:.3f} s/{self.unit}", end]
        print(f"{self.label}:", "  ".join(part for part in parts if part), flush=True)
