"""What the commands in a block are: split as a shell would, and checked against what exists.

Knows the `plainmed` command, the settings, the Makefile and the repository's files; runs nothing.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from serve_app.cli.main import app
from serve_app.core.settings import Settings
from tests.docs.blocks import Block
from tests.support.paths import ROOT

_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.DOTALL)
_SHELL = re.compile(r"[|<>;&$`*]")
_SEPARATORS = {"|", "||", "&&", ";", "&"}
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\.\.\.|…|\[.*")

SETTINGS = frozenset(name.upper() for name in Settings.model_fields)
OTHERS = re.compile(
    r"(?:AWS|RAY|HF|CUDA|OMP|KUBE|OTEL)_[A-Z0-9_]+"  # what libraries read
    r"|(?:HTTPS?|ALL|NO)_PROXY|MALLOC_ARENA_MAX"  # HTTP clients', glibc's
    r"|METRICS_API_(?:URL|TIMEOUT)|PLAINMED_API_KEY"  # the clients
    r"|PLAINMED_(?:ENV|REGION|STATE_BUCKET)|OPS"  # operations
    r"|PLAINMED_(?:SLOW_TESTS|TEST_DEPLOY)|TERRAFORM_PLUGIN_DIR|CHECKOV|CHROMIUM"  # tests
    r"|PYTHONPATH|PYTHONUNBUFFERED|COLUMNS|KEY|TEXT"
)
"""Environment variables that are no settings of ours."""


@dataclass(frozen=True)
class Command:
    """One command: the variables set for it, and its words."""

    environment: dict[str, str]
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return Path(self.words[0]).name if self.words else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words[1:]


def shell_lines(block: Block) -> list[tuple[str, str]]:
    """(command line, what the page shows under it) of a block, lines with a backslash joined."""
    if block.language != "console":
        return [(block.text, block.output or "")]
    found: list[tuple[str, str]] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            while line.endswith("\\"):
                line = f"{line[:-1]}{next(lines)}"
            found.append((line[2:], ""))
        elif found:
            command, shown = found[-1]
            found[-1] = (command, f"{shown}{line}\n")
    return found


def commands(text: str) -> list[Command]:
    """The commands of shell text; here-documents and comments are left out."""
    text = re.sub(r"<<-?\s*'?(\w+)'?\n.*?\n\1(?=\n|$)", "", text, flags=re.DOTALL)
    text = re.sub(r"\\\n", " ", text)
    found: list[Command] = []
    for part in _statements(text):
        # Quotes may hold new lines (a body for curl), so a statement may be several lines.
        lexer = shlex.shlex(part, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in _SEPARATORS:
                if words:
                    found.append(_command(words))
                words = []
            else:
                words.append(word)
    return found


def _statements(text: str) -> list[str]:
    """Lines of a script, those inside quotes kept together."""
    parts: list[str] = []
    held = ""
    for line in text.splitlines():
        held = f"{held}\n{line}" if held else line
        try:
            shlex.split(held, comments=True)
        except ValueError:
            continue
        parts.append(held)
        held = ""
    if held:
        raise ValueError(f"a quote is not closed: {held[:80]}")
    return parts


def _command(words: list[str]) -> Command:
    environment: dict[str, str] = {}
    rest = list(words)
    exported = rest[0] == "export"
    if exported:
        rest.pop(0)
    while rest and (match := _ASSIGNMENT.fullmatch(rest[0])):
        environment[match["name"]] = match["value"]
        rest.pop(0)
    return Command(environment, ("export",) if exported else tuple(rest))


def in_this_process(text: str) -> list[Command] | None:
    """The commands of a line, where all are `plainmed` and need nothing of a shell; else None."""
    if _SHELL.search(re.sub(r"\\\n", " ", text)):
        return None

    def quick(one: Command) -> bool:
        return one.program == "plainmed" and one.words[1:2] not in (("serve",), ("demo",), ("ops",))

    found = commands(text)
    return found if all(quick(one) for one in found) else None


@cache
def _click_command() -> Any:
    return typer.main.get_command(app)


def top_commands() -> list[str]:
    """The commands right under `plainmed`."""
    return sorted(_click_command().commands)


def problems(command: Command) -> list[str]:
    """What a command names that does not exist: command, option, setting, target, file, module."""
    wrong = [
        f"{name} is neither a setting nor in tests/docs/commands.py"
        for name in command.environment
        if name not in SETTINGS and not OTHERS.fullmatch(name)
    ]
    check = {
        "plainmed": _plainmed_problems,
        "make": _make_problems,
        "python": _python_problems,
        "python3": _python_problems,
    }.get(command.program)
    return wrong + (check(command.arguments) if check else [])


def _plainmed_problems(arguments: tuple[str, ...]) -> list[str]:
    command = _click_command()
    path = "plainmed"
    rest = list(arguments)
    while getattr(command, "commands", None) and rest:
        name = rest[0]
        if _PLACEHOLDER.match(name) or name == "--help":
            return []
        if name.startswith("-"):  # an option of the group itself
            break
        rest.pop(0)
        if name not in command.commands:
            return [f"{path} has no command {name}"]
        command, path = command.commands[name], f"{path} {name}"
    options = {"--help"} | {
        name
        for parameter in command.params
        for name in [*parameter.opts, *parameter.secondary_opts]
    }
    return [
        f"{path} has no option {word}"
        for word in (one.split("=", 1)[0] for one in rest)
        if word.startswith("-") and word != "-" and not _number(word) and word not in options
    ]


def _number(word: str) -> bool:
    return re.fullmatch(r"-\d+(\.\d+)?", word) is not None


@cache
def _targets() -> frozenset[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found: set[str] = set()
    for line in text.splitlines():
        if match := re.match(r"([\w./$() -]+):(?!=)", line):
            found |= set(match[1].split())
    return frozenset(found)


def _make_problems(arguments: tuple[str, ...]) -> list[str]:
    return [
        f"the Makefile has no target {word}"
        for word in arguments
        if not word.startswith("-") and "=" not in word and word not in _targets()
    ]


def _python_problems(arguments: tuple[str, ...]) -> list[str]:
    if not arguments:
        return []
    if arguments[0] == "-m" and len(arguments) > 1:
        module = arguments[1]
        top = module.split(".")[0]
        file = ROOT / module.replace(".", "/")
        if (ROOT / top).exists():
            found = file.is_dir() or file.with_suffix(".py").is_file()
        else:
            found = importlib.util.find_spec(top) is not None
        return [] if found else [f"there is no module {module}"]
    script = arguments[0]
    if script.startswith(("-", "<")) or (ROOT / script).is_file():
        return []
    return [f"there is no file {script}"]
