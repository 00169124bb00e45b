"""Types `plainmed` as a user does: its answer, or the message of its refusal."""

from __future__ import annotations

import re

from typer.testing import CliRunner, Result

from serve_app.cli.main import app


def plainmed(*arguments: object, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    # Whatever goes wrong, the user sees a message: nothing but an exit may come out.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: object, stdin: bytes | None = None) -> str:
    """The message of a command that must fail as the user's mistake, on one line."""
    result = plainmed(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
