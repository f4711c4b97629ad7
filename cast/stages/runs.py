"""How stages that compare several runs are told of them."""

from __future__ import annotations

from pathlib import Path

from cast.errors import CastError


def parse_run(entry: str) -> tuple[str, int, Path]:
    """Recipe, seed and file of ``RECIPE:SEED:FILE``; the recipe may end in ``@PERCENT``, its label budget.

    Raises:
        CastError: the entry has another form.
    """
    recipe, _, rest = entry.partition(":")
    seed, _, path = rest.partition(":")
    if not recipe or not path or not seed.isdigit():
        raise CastError(f"{entry}: not one run of a recipe; write RECIPE:SEED:FILE")
    return recipe, int(seed), Path(path)
