"""Reads the documentation's pages: their code blocks, headings, links and code spans.

Knows Markdown and our annotations, and how what a block printed is compared with what the page
shows. Runs nothing.

A block of commands or Python is run, unless the page says why not. What a page says about a block
stands in HTML comments right before its fence, which no reader sees:

    <!-- not run: REASON -->   the block is not run; its commands, options and settings are checked
    <!-- exit: 1 -->           its last command ends with this status
    <!-- output -->            the block is what the one before it prints; `...` is anything

and anywhere in a page, for all its blocks: `<!-- no block of this page is run: REASON -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.paths import ROOT

RUNNABLE = ("bash", "console", "python")
_LANGUAGES = {"sh": "bash", "shell": "bash", "py": "python", "yml": "yaml", "": "text"}
_COMMENT = re.compile(r"<!--\s*(?P<name>[a-z][a-z ]*?)\s*(?::\s*(?P<value>.*?)\s*)?-->", re.DOTALL)
_WHOLE_PAGE = "no block of this page is run"
_PROGRAMS = (
    "aws|cat|curl|docker|export|git|helm|kind|kubectl|make|pip|plainmed|printf|python|python3|ray|"
    "serve|terraform|transformers"
)
_COMMAND = re.compile(rf"(?:[A-Z][A-Z0-9_]*=\S* +)*(?:\S*/)?(?:{_PROGRAMS})(?: |$)")
_TOKEN = re.compile(r"\.\.\.|-?\d+\.\d+(?:e-?\d+)?|[^\W_]+|\S")


@dataclass(frozen=True)
class Block:
    """One fenced (or indented) block.

    Attributes:
        page: path of its page, from the repository's root.
        line: where it begins, from 1.
        language: of the fence; `console` for commands behind `$`, `text` where none is given.
        text: what is in it.
        annotations: the comments before it, by name.
        output: what the page says it prints, where the next block is marked as that.
    """

    page: str
    line: int
    language: str
    text: str
    annotations: dict[str, str] = field(default_factory=dict)
    output: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def runnable(self) -> bool:
        """Whether it is of a kind that is run, unless the page says why not."""
        return self.language in RUNNABLE

    @property
    def reason(self) -> str | None:
        """Why it is not run."""
        return self.annotations.get("not run")

    @property
    def exit_status(self) -> int:
        return int(self.annotations.get("exit", "0"))

    @property
    def looks_like_a_command(self) -> bool:
        lines = self.text.strip().splitlines()
        return bool(lines) and _COMMAND.match(lines[0].strip()) is not None


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: str
    blocks: tuple[Block, ...]
    links: tuple[tuple[int, str], ...]
    """(line, target) of every link and image."""
    spans: tuple[tuple[int, str], ...]
    """(line, text) of every code span."""
    anchors: frozenset[str]
    headings: tuple[str, ...]


def documentation() -> list[Path]:
    """Every page this project's users read."""
    return [ROOT / "README.md", ROOT / "README.es.md", *sorted((ROOT / "docs").rglob("*.md"))]


@cache
def read_page(path: Path) -> Page:
    """A page, parsed as CommonMark with tables."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    whole = {match["name"]: match["value"] for match in _COMMENT.finditer(text)}.get(_WHOLE_PAGE)
    links: list[tuple[int, str]] = []
    spans: list[tuple[int, str]] = []
    headings: list[str] = []
    line = 1
    for position, token in enumerate(tokens):
        line = token.map[0] + 1 if token.map else line
        if token.type != "inline":
            continue
        if tokens[position - 1].type == "heading_open":
            headings.append(_plain(token))
        for child in token.children or []:
            if child.type == "code_inline":
                spans.append((line, child.content))
            for attribute in ("href", "src"):
                if target := child.attrs.get(attribute):
                    links.append((line, str(target)))
    return Page(
        name,
        tuple(_blocks(name, tokens, whole)),
        tuple(links),
        tuple(spans),
        frozenset(_anchors(headings)),
        tuple(headings),
    )


def _plain(heading: Token) -> str:
    return "".join(child.content for child in heading.children or [])


def _anchors(headings: list[str]) -> list[str]:
    """What GitHub makes of headings: lower case, spaces to hyphens, other signs dropped."""
    found: list[str] = []
    for heading in headings:
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        times = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one) is not None for one in found)
        found.append(f"{slug}-{times}" if times else slug)
    return found


def _blocks(page: str, tokens: list[Token], whole_page: str | None) -> list[Block]:
    blocks: list[Block] = []
    notes: dict[str, str] = {}
    for token in tokens:
        if token.type == "html_block":
            notes |= {
                match["name"]: match["value"] or "" for match in _COMMENT.finditer(token.content)
            }
            continue
        if token.type not in ("fence", "code_block"):
            # A comment belongs to the block right behind it, also inside a list.
            if not token.type.endswith("_close"):
                notes = {}
            continue
        first = token.info.split()[0] if token.info.strip() else ""
        language = _LANGUAGES.get(first, first)
        if language == "text" and token.content.startswith("$ "):
            language = "console"
        if "output" in notes and blocks:
            blocks.append(replace(blocks.pop(), output=token.content))
        elif whole_page is not None:
            notes = {"not run": whole_page, **notes}
        line = token.map[0] + 1 if token.map else 0
        if "output" not in notes:
            blocks.append(Block(page, line, language, token.content, notes))
        notes = {}
    return blocks


def difference(expected: str, actual: str) -> str | None:
    """Where `actual` is not what a page shows, in words; None where it is.

    White space does not count, numbers with a decimal point may differ by 5e-4 (relative or
    absolute: other processors round otherwise), and `...` stands for anything.
    """
    wanted, found = (_TOKEN.findall(text) for text in (expected, actual))
    star = -1
    position, at, reached, furthest = 0, 0, 0, 0
    while at < len(found):
        if position < len(wanted) and wanted[position] == "...":
            star, reached = position, at
            position += 1
        elif position < len(wanted) and _same(wanted[position], found[at]):
            position += 1
            at += 1
            furthest = max(furthest, position)
        elif star >= 0:
            reached += 1
            position, at = star + 1, reached
        else:
            break
    if at == len(found) and all(one == "..." for one in wanted[position:]):
        return None
    shown = " ".join(wanted[max(0, furthest - 8) : furthest + 8])
    return f"the page shows: ... {shown} ...\nbut this is printed:\n{actual.strip()}"


def _same(wanted: str, found: str) -> bool:
    if wanted == found:
        return True
    try:
        one, other = float(wanted), float(found)
    except ValueError:
        return False
    return "." in wanted and "." in found and abs(one - other) <= 5e-4 * max(1.0, abs(one))
