"""Runs external programs from argument lists, or in a dry run prints them. Knows no program.

There is no shell: an argument stays one argument whatever it holds, and what is printed can be
pasted into a shell.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from serve_app.ops.errors import CommandFailed

Echo = Callable[[str], None]


class Runner:
    """Runs commands one by one.

    Args:
        dry_run: print everything, run nothing, and answer with the callers' placeholders.
        echo: prints a line for the operator.
    """

    def __init__(self, dry_run: bool, echo: Echo) -> None:
        self.dry_run = dry_run
        self.echo = echo

    def note(self, text: str) -> None:
        """Prints a remark."""
        self.echo(f"# {text}")

    def run(
        self, arguments: Sequence[str | Path], *, stdin: str | None = None, hint: str = ""
    ) -> None:
        """Runs a command with this terminal's output.

        Args:
            arguments: program and arguments.
            stdin: its standard input, never printed (a password).
            hint: what to do when it fails.

        Raises:
            CommandFailed: it cannot be started, or its exit status is not 0.
        """
        words = self._shown(arguments)
        if not self.dry_run:
            status = _started(words, capture_output=False, stdin=stdin).returncode
            if status:
                raise CommandFailed(
                    f"{words[0]} {words[1]} failed with status {status}. {hint}".strip()
                )

    def read(self, arguments: Sequence[str | Path], *, placeholder: str) -> str | None:
        """A command's output; None if it fails. In a dry run: `placeholder`.

        Raises:
            CommandFailed: it cannot be started.
        """
        if self.dry_run:
            self._shown(arguments)
            return placeholder
        done = _started([str(argument) for argument in arguments], capture_output=True)
        return done.stdout if done.returncode == 0 else None

    def _shown(self, arguments: Sequence[str | Path]) -> list[str]:
        words = [str(argument) for argument in arguments]
        self.echo(f"+ {shlex.join(words)}")
        return words


def _started(
    words: list[str], *, capture_output: bool, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - a list, and no shell
            words,
            capture_output=capture_output,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            text=True,
            check=False,
            env=os.environ | {"TF_IN_AUTOMATION": "1"},
        )
    except OSError as error:
        raise CommandFailed(f"cannot run {words[0]}: {error.strerror}; install it") from None
