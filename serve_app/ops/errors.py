"""Errors of the ops commands. Each message ends with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.errors import PlainMedError


class OpsError(PlainMedError):
    """A precondition of the verb does not hold."""

    code = "ops_error"


class CommandFailed(OpsError):
    """An external program failed; its own output is already on the terminal."""

    code = "command_failed"


def problems_error(problems: Sequence[str], unchanged: str = "nothing") -> OpsError:
    """One error that lists every problem, and says what was left `unchanged`."""
    if len(problems) == 1:
        return OpsError(f"{unchanged} was changed: {problems[0]}")
    listed = "".join(f"\n  - {problem}" for problem in problems)
    return OpsError(f"{unchanged} was changed; {len(problems)} things are not ready:{listed}")
