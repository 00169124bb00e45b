"""What can go wrong while operating. Each message ends with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.errors import PlainMedError


class OpsError(PlainMedError):
    """Something is not as the verb needs it, found before or between changes."""

    code = "ops_error"


class CommandFailed(OpsError):
    """An external program failed; it has already said why on the terminal."""

    code = "command_failed"


def problems_error(problems: Sequence[str], kept: str = "nothing") -> OpsError:
    """One error for all that a check found, so that it is all mended in one go.

    Args:
        problems: what it found.
        kept: what had not been changed by then.
    """
    if len(problems) == 1:
        return OpsError(f"{kept} was changed: {problems[0]}")
    listed = "".join(f"\n  - {problem}" for problem in problems)
    return OpsError(f"{kept} was changed; {len(problems)} things are not ready:{listed}")
