"""The documentation's pages hold together: links, blocks, options, settings, files they name."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from tests.docs.blocks import Block, difference, documentation, read_page
from tests.docs.commands import OTHERS, SETTINGS, commands, problems, shell_lines, top_commands
from tests.support.paths import ROOT

PAGES = [path for path in documentation() if path.is_file()]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
_VARIABLE = re.compile(r"(?P<name>[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=.*)?", re.DOTALL)
# Words in capitals in code spans that stand for something to fill in, or are another program's.
_NOT_VARIABLES = re.compile(
    r"(?:TARGET|SIGMA)_(?:RELEVANCE|FACTUALITY|FKGL|SMOG|DALECHALL)"  # keys of a targets file
    r"|(?:YOUR|DEPLOY|BASE|TORCH|STRICT)_\w+|VPC_ID|VERSION|REVISION"  # to fill in; of builds
)


@pytest.fixture(params=PAGES, ids=NAMES)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def blocks_of(path: Path) -> tuple[Block, ...]:
    return read_page(path).blocks


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / target.split("#")[0]).resolve() for _, target in read_page(index).links
    }
    missing = [path.name for path in PAGES if path.parent == index.parent and path not in linked]
    assert missing in ([], ["README.md"])


def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    page = read_page(path)
    for line, link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / unquote(target)).resolve() if target else path
        assert file.exists(), f"{page.path}:{line} links to {link}"
        if anchor and file.suffix == ".md":
            assert unquote(anchor) in read_page(file).anchors, f"{page.path}:{line} links to {link}"


def test_pages_begin_with_their_one_title(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    without_blocks = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", without_blocks, re.MULTILINE)) == 1


def test_commands_stand_in_blocks_that_are_run_or_say_why_not(path: Path) -> None:
    for block in blocks_of(path):
        if block.looks_like_a_command and not block.runnable:
            assert block.reason, (
                f"{block.where}: give the block a language (bash), so that it is run; or say why "
                "it is not: <!-- not run: REASON -->"
            )
        if block.reason is not None:
            assert len(block.reason.split()) >= 3, f"{block.where}: say why it is not run"


def test_commands_name_what_exists(path: Path) -> None:
    wrong = []
    for block in blocks_of(path):
        if block.language in ("bash", "console") or block.looks_like_a_command:
            for line, _ in shell_lines(block):
                for command in commands(line):
                    wrong += [f"{block.where}: {problem}" for problem in problems(command)]
    page = read_page(path)
    for number, span in page.spans:
        if re.match(r"(plainmed|make|python -m|python scripts/\S) ?", span) and "…" not in span:
            for command in commands(span):
                wrong += [f"{page.path}:{number}: {problem}" for problem in problems(command)]
    assert not wrong, "\n".join(wrong)


def test_every_command_is_in_the_clients_page() -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    missing = [name for name in top_commands() if f"`plainmed {name}" not in page]
    assert not missing


def test_variables_in_code_spans_are_settings(path: Path) -> None:
    page = read_page(path)
    unknown = {
        f"{page.path}:{line}: {match['name']}"
        for line, span in page.spans
        if (match := _VARIABLE.fullmatch(span))
        and match["name"] not in SETTINGS
        and not OTHERS.fullmatch(match["name"])
        and not _NOT_VARIABLES.fullmatch(match["name"])
    }
    assert not unknown


def test_files_named_in_code_spans_exist(path: Path) -> None:
    page = read_page(path)
    folders = "benchmarks|docs|helm|k8s|scripts|serve_app|terraform-eks|tests"
    missing = {
        f"{page.path}:{line}: {span}"
        for line, span in page.spans
        if re.fullmatch(rf"(?:{folders})/[\w./-]+", span) and not (ROOT / span).exists()
    }
    assert not missing


def test_blocks_of_data_and_python_can_be_read(path: Path) -> None:
    for block in blocks_of(path):
        try:
            if block.language == "python":
                ast.parse(block.text)
            elif block.language == "json":
                json.loads(block.text)
            elif block.language == "yaml":
                yaml.safe_load(block.text)
        except (SyntaxError, ValueError, yaml.YAMLError) as error:
            pytest.fail(f"{block.where}: {error}")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ('{"a": 0.25}', '{\n  "a":0.2500001\n}', True),
        ("0.25", "0.26", False),
        ("12 rows", "13 rows", False),
        ("a ... z", "a b c z", True),
        ("a ... z", "a b c y", False),
        ("a", "a b", False),
        ("a b", "a", False),
        ("loss 0.1 ...", "loss 0.1 after 3.2 s", True),
    ],
)
def test_output_is_compared_but_for_rounding_and_what_is_left_out(
    shown: str, printed: str, same: bool
) -> None:
    assert (difference(shown, printed) is None) is same


def test_a_command_that_does_not_exist_is_noticed() -> None:
    text = (
        "plainmed score in.csv --outt x\nplainmed nonsense\nmake nothing\n"
        "TARGET_FILE=x plainmed serve\n"
        "python scripts/none.py\npython -m benchmarks.none\nplainmed ops deploy all --dry-run --no"
    )
    found = [problem for command in commands(text) for problem in problems(command)]
    assert found == [
        "plainmed score has no option --outt",
        "plainmed has no command nonsense",
        "the Makefile has no target nothing",
        "TARGET_FILE is neither a setting nor in tests/docs/commands.py",
        "there is no file scripts/none.py",
        "there is no module benchmarks.none",
        "plainmed ops deploy has no option --no",
    ]


def test_comments_quotes_and_here_documents_are_no_commands() -> None:
    text = (
        "cat > a.txt <<'END'\nmake nothing\nEND\n"
        "curl -d '{\n \"a\": 1}' URL | plainmed version  # make x"
    )
    assert [command.program for command in commands(text)] == ["cat", "curl", "plainmed"]


def test_every_program_file_that_a_page_names_is_there() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = listed.stdout.split()
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in (ROOT / file for file in files if file.endswith(".md"))
        if page.name != "CHANGELOG.md"
        for name in re.findall(r"`(?:\.\./)?([\w/-]+\.(?:py|js))`", page.read_text("utf-8"))
        if not any(f"/{file}".endswith(f"/{name}") for file in files)
    ]
    assert not missing
