"""Calls external programs with argument lists, or in a dry run prints them. Knows no program.

There is no shell: an argument is one argument whatever it holds, and what is printed can be
pasted into one.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from serve_app.ops.errors import CommandFailed

Echo = Callable[[str], None]


class Runner:
    """Runs commands one by one.

    Args:
        dry_run: print everything and run nothing; answers are the placeholders callers give.
        echo: where lines for the operator go.
    """

    def __init__(self, dry_run: bool, echo: Echo) -> None:
        self.dry_run = dry_run
        self.echo = echo

    def note(self, text: str) -> None:
        """Says what comes next (or, in a dry run, on what a step depends)."""
        self.echo(f"# {text}")

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        given: str | None = None,
        hint: str = "",
    ) -> None:
        """Runs a command with this terminal's output.

        Args:
            arguments: program and arguments.
            cwd: directory to run it in.
            given: its standard input, never printed (a password).
            hint: what to do when it fails.

        Raises:
            CommandFailed: it cannot be started or exits with another status than 0.
        """
        words = [str(argument) for argument in arguments]
        self.echo(f"+ {_shown(words, cwd)}")
        if self.dry_run:
            return
        try:
            status = subprocess.run(  # noqa: S603 - a list, and no shell
                words,
                cwd=cwd,
                input=given,
                stdin=None if given is not None else subprocess.DEVNULL,
                text=True,
                check=False,
                env=_environment(),
            ).returncode
        except OSError as error:
            raise CommandFailed(f"cannot run {words[0]}: {error.strerror}; install it") from None
        if status:
            raise CommandFailed(
                f"{words[0]} {words[1]} failed with status {status}. {hint}".strip()
            )

    def read(
        self, arguments: Sequence[str | Path], *, placeholder: str, cwd: Path | None = None
    ) -> str | None:
        """What a command prints; None if it fails. In a dry run: `placeholder`."""
        words = [str(argument) for argument in arguments]
        if self.dry_run:
            self.echo(f"+ {_shown(words, cwd)}")
            return placeholder
        try:
            done = subprocess.run(  # noqa: S603
                words,
                cwd=cwd,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                check=False,
                env=_environment(),
            )
        except OSError as error:
            raise CommandFailed(f"cannot run {words[0]}: {error.strerror}; install it") from None
        return done.stdout if done.returncode == 0 else None


def _environment() -> Mapping[str, str]:
    return os.environ | {"TF_IN_AUTOMATION": "1"}


def _shown(words: Sequence[str], cwd: Path | None) -> str:
    line = shlex.join(words)
    return line if cwd is None else f"(cd {shlex.quote(str(cwd))} && {line})"
