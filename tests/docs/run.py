"""Runs a page's blocks: Python here, `plainmed` through its command line, the rest in bash.

Knows the sample files and names that the pages' blocks may use, which CONTRIBUTING.md lists. Starts
no server: where a block calls the API, the caller says at which URL.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from serve_app.cli.demo import sample_abstract
from serve_app.cli.main import app
from tests.docs.blocks import Block, difference
from tests.docs.commands import Command, in_this_process, shell_lines
from tests.support.paths import ROOT
from tests.support.texts import GENERATED, HUMAN, ORIGINALS
from tests.support.tiny_models import save_model

URL = "http://127.0.0.1:8000"
"""Where the pages say that the server is."""
MODEL = "path/to/model"
"""Where they say that a language model is."""
TIMEOUT_S = 120
_LINKED = ("serve_app", "scripts", "benchmarks", "helm", "docs", "serve_config.yaml", "Makefile")
_API = re.compile(r"127\.0\.0\.1:8000|localhost:8000|metrics_client|PlainMedClient\(")


def calls_the_api(block: Block) -> bool:
    """Whether a block needs a server."""
    return _API.search(block.text) is not None


def write_samples(folder: Path, blocks: Sequence[Block]) -> None:
    """The files that `blocks` may read: an abstract, its summary, pairs, a tiny model."""
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "abstract.txt").write_text(sample_abstract(), encoding="utf-8")
    (folder / "summary.txt").write_text(GENERATED[0], encoding="utf-8")
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source_text", "target_text", "split"])
        writer.writerows((*pair, "train") for pair in zip(ORIGINALS, GENERATED, strict=True))
    if any(MODEL in block.text for block in blocks):
        (folder / MODEL).parent.mkdir(parents=True)
        save_model(folder / MODEL, context=2048)


def sample_names() -> dict[str, Any]:
    """The names that the pages' Python may use without making them."""
    return {
        "__name__": "__main__",
        "abstract": sample_abstract(),
        "summary": GENERATED[0],
        "originals": list(ORIGINALS),
        "generated": list(GENERATED),
        "humans": list(HUMAN),
        "sentences": ORIGINALS[0].replace(". ", ".\n").splitlines(),
    }


@dataclass
class Runner:
    """Runs the blocks of one page in `folder`, one after the other.

    Args:
        folder: where the samples are; the current directory of what is run.
        url: of a running server, put in the place of the pages' own.
    """

    folder: Path
    url: str = URL
    names: dict[str, Any] = field(default_factory=sample_names)

    def run(self, blocks: Sequence[Block]) -> list[str]:
        """What is wrong with each block that does not do what its page says."""
        write_samples(self.folder, blocks)
        found = []
        with contextlib.chdir(self.folder):
            for block in blocks:
                try:
                    problem = self._run(block)
                except Exception as error:  # whatever the page's own code raises is the finding
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    found.append(f"{block.where}: {problem}")
        return found

    def _run(self, block: Block) -> str | None:
        if block.language == "python":
            text = self._python(block)
            return difference(block.output, text) if block.output is not None else None
        lines = shell_lines(block)
        for number, (line, shown) in enumerate(lines):
            status, text = self._shell(self._here(line))
            wanted = block.exit_status if number == len(lines) - 1 else 0
            if status != wanted:
                return f"ended with {status}, not {wanted}:\n{text}"
            checked = block.language == "console" or block.output is not None
            if checked and (problem := difference(self._here(shown), text)):
                return problem
        return None

    def _here(self, text: str) -> str:
        return text.replace(URL, self.url).replace("http://localhost:8000", self.url)

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        code = compile(self._here(block.text), block.where, "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, self.names)
        return printed.getvalue()

    def _shell(self, line: str) -> tuple[int, str]:
        ours = in_this_process(line)
        if ours is not None:
            return _plainmed(ours)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout


def _plainmed(commands: Sequence[Command]) -> tuple[int, str]:
    """In this process: the models' libraries are imported once for all pages."""
    printed = ""
    for command in commands:
        environment = {"COLUMNS": "100", **command.environment}
        result = CliRunner().invoke(app, list(command.arguments), env=environment)
        printed += result.output
        if result.exit_code:
            return result.exit_code, printed
    return 0, printed
