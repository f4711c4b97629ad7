"""One error for many problems with a user's files, so that all can be mended at once."""

from __future__ import annotations

from collections.abc import Sequence

from cast.errors import CastError

NAMED = 10  # problems listed in one message


def refuse(problems: Sequence[str]) -> None:
    """Raise one error for all problems, if there are any.

    Args:
        problems: a line each, which names the file.

    Raises:
        CastError: there are problems; the first ten are listed.
    """
    if problems:
        more = f"\n… and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        raise CastError("\n".join(problems[:NAMED]) + more)
