"""Hostile documents: targets, keys, Serve configs, glossaries, tables of texts, unfinished runs.

Each is refused by the reader the application has for it; see `probe`. Of each kind there is a good
one as well, which must be read: else the others could be refused for something else.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serve_app.api.auth.key_source import KeySource
from serve_app.core.resources import RESOURCES
from serve_app.metrics.loss import Targets
from serve_app.offline.corpus.journal import Journal
from serve_app.offline.corpus.reader import scan
from serve_app.serving.server import load_document
from serve_app.storage.locate import locate
from serve_app.text.glossary import Glossary
from tests.fuzz.probe import CANARY, Case, sparse

GIB = 1 << 30
HALF = "\\ud800"
"""Half of a character, as JSON and YAML write it."""


def _targets(**values: Any) -> str:
    document = json.loads((RESOURCES / "targets-earlier-system.json").read_text(encoding="utf-8"))
    return json.dumps({**document, **values})


def _twice() -> str:
    return _targets()[:-1] + ', "TARGET_FKGL": 1.0}'


def _raw(number: str) -> str:
    return _targets(TARGET_FKGL="@").replace('"@"', number)


TARGETS: list[tuple[str, str | bytes, str]] = [
    ("NaN", _raw("NaN"), "TARGET_FKGL is not a finite number"),
    ("Infinity", _raw("Infinity"), "TARGET_FKGL is not a finite number"),
    ("1e400", _raw("1e400"), "TARGET_FKGL is not a finite number"),
    ("a number of 400 digits", _raw("9" * 400), "TARGET_FKGL is too large a number"),
    ("a number of 5,000 digits", _raw("9" * 5000), "cannot read"),
    ("a negative spread", _targets(SIGMA_SMOG=-1.0), "SIGMA_SMOG must be above 0"),
    ("a spread of 0", _targets(SIGMA_SMOG=0), "SIGMA_SMOG must be above 0"),
    ("true for a number", _targets(TARGET_FKGL=True), "TARGET_FKGL must be a number"),
    ("a name twice", _twice(), "'TARGET_FKGL' is there twice"),
    ("nested 100,000 deep", '{"a":' + "[" * 100_000, "nested too deeply"),
    ("a list", "[]", "must hold a JSON object"),
    ("another format", _targets(format=3), "format is 3"),
    ("half of the file", _targets()[:200], "cannot read"),
    ("not UTF-8", b"\xff\xfe" + _targets().encode("utf-16-le"), "not UTF-8"),
    ("an empty file", "", "cannot read"),
    ("half of a character", _targets(note="\ud800"), "note has half of a character"),
    ("half of a character in a name", f'{{"{HALF}": 1}}', "has half of a character"),
    ("unchanged", _targets(), ""),
]

KEYS: list[tuple[str, str | bytes, str]] = [
    ("a list", "[]", "no keys document"),
    ("a name twice", '{"keys": [], "keys": []}', "a name twice"),
    ("nested 100,000 deep", '{"keys":' + "[" * 100_000, "no keys document"),
    ("no key", '{"keys": []}', "there is no API key"),
    ("not UTF-8", b'{"keys": ["\xff"]}', "cannot read"),
    ("half of a character", f'{{"keys": [], "{HALF}": 1}}', "no keys document"),
    ("unchanged", json.dumps({"keys": [{"id": "0" * 12, "sha256": "0" * 64}]}), ""),
]

_LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
_APPLICATION = "applications: [{import_path: 'serve_app.app:build'"

YAML: list[tuple[str, str | bytes, str]] = [
    ("ten thousand million laughs", _LAUGHS + _APPLICATION + "}]", "aliases make more than"),
    ("a list within itself", f"a: &a [*a]\n{_APPLICATION}}}]", "within itself"),
    ("nested 50,000 deep", "[" * 50_000, "nested too deeply"),
    ("a name twice", f"{_APPLICATION}}}]\n{_APPLICATION}}}]", "'applications' is there twice"),
    ("a number of 5,000 digits", f"{_APPLICATION}, x: {'9' * 5000}}}]", "cannot read"),
    ("a truth that is none", f"{_APPLICATION}, x: !!bool maybe}}]", "cannot read"),
    ("two documents", f"{_APPLICATION}}}]\n---\na: 1", "cannot read"),
    ("a list of settings", f"{_APPLICATION}, args: {{settings: [1]}}}}]", "must be a mapping"),
    ("numbers as settings' names", f"{_APPLICATION}, args: {{settings: {{1: 2}}}}}}]", "mapping"),
    ("a number as deployments", f"{_APPLICATION}, deployments: 3}}]", "must be a list"),
    (
        "a host of 5,000 digits",
        f"{_APPLICATION}}}]\nhttp_options: {{host: 0x{'f' * 5000}}}",
        "must be text",
    ),
    ("a number as application", "applications: [1]", "must be a mapping"),
    ("not UTF-8", b"\xff\xfea", "not UTF-8"),
    ("half of a character", f'{_APPLICATION}, x: "{HALF}"}}]', "has half of a character"),
    ("unchanged", f"{_APPLICATION}}}]", ""),
]

GLOSSARY: list[tuple[str, str | bytes, str]] = [
    ("a NUL", "term,plain,kind\n\0,a,noun\n", "glossary|line 2"),
    ("a cell of a MiB", "term,plain,kind\n" + "a" * (1 << 20) + ",b,noun\n", "cannot read"),
    ("a term of itself", "term,plain,kind\npain,pain,noun\n", "must hold none"),
    ("not UTF-8", b"term,plain,kind\n\xff,b,noun\n", "cannot read"),
    ("unchanged", "term,plain,kind\ncephalgia,headache,noun\n", ""),
]

_OPEN = 'original,summary\n"a'
_ROWS = '{"original": "a", "summary": "b"}\n'
TABLES: list[tuple[str, str, str | bytes, str]] = [
    ("a quote that is not closed", "in.csv", _OPEN + ",b\n" * 70_000, "row 1 is not CSV"),
    ("a name twice", "in.jsonl", f'{_ROWS}{{"original": "a", "original": "b"}}', "there twice"),
    ("half of a character in a name", "in.jsonl", f'{{"{HALF}": "a"}}', "half of a character"),
    ("unchanged, CSV", "in.csv", "original,summary\na,b\n", ""),
    ("unchanged, JSON lines", "in.jsonl", _ROWS, ""),
    ("nested 100,000 deep", "in.jsonl", "[" * 100_000, "line 1 is not JSON"),
    ("half of a Parquet file", "in.parquet", b"PAR1" + bytes(100), "not a Parquet file"),
    ("a page of the web", "in.parquet", "<html>404</html>" * 50, "not a Parquet file"),
]


def _file(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(raw)
        return folder / name

    return build


def _parquet_bomb(folder: Path) -> Path:
    """A million rows of a text of 4 MB, in a few kilobytes."""
    count = 1_000_000
    rows = pa.array([0], pa.int32()).take(pa.array([0] * count, pa.int32()))
    texts = pa.DictionaryArray.from_arrays(rows, pa.array(["ha " * 1_400_000]))
    table = pa.table({"original": texts, "summary": texts})
    pq.write_table(table, folder / "in.parquet", compression="zstd", store_schema=False)
    return folder / "in.parquet"


def _repeated(content: Any, count: int) -> Any:
    """A value in so many rows, in memory once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([content]))


# Without the schema of Arrow, which would say what is a dictionary, and the longest value.
_PLAIN: dict[str, Any] = {"store_schema": False, "write_statistics": False}


def _table(column: Any) -> Callable[[Path], Path]:
    """A Parquet file of texts with one more column, which nobody asks for."""

    def build(folder: Path) -> Path:
        texts = _repeated("a", len(column))
        table = pa.table({"original": texts, "summary": texts, "other": column})
        pq.write_table(table, folder / "in.parquet", compression="zstd", **_PLAIN)
        return folder / "in.parquet"

    return build


def _bytes_bomb(folder: Path) -> Path:
    return _table(_repeated(bytes(8 << 20), 256))(folder)


def _list_bomb(folder: Path) -> Path:
    return _table(pa.ListArray.from_arrays([0, 1000], _repeated("ha " * 1_400_000, 1000)))(folder)


def _numbers_bomb(folder: Path) -> Path:
    count = 40_000_000
    zeros = pa.Array.from_buffers(pa.int8(), count, [None, pa.py_buffer(bytes(count))])
    return _table(pa.ListArray.from_arrays([0, count], zeros))(folder)


def _wide_bomb(folder: Path) -> Path:
    return _table(pa.array([bytes((64 << 20) + 1)], pa.binary((64 << 20) + 1)))(folder)


def _every_kind(folder: Path) -> Path:
    """A good file with a column of each kind that is read in its own way."""
    kinds = {
        "bytes": pa.array([b"a", None], pa.binary()),
        "fixed": pa.array([b"ab", b"cd"], pa.binary(2)),
        "list": pa.array([["a", None], []]),
        "record": pa.array([{"a": "b", "c": 1}, None]),
        "map": pa.array([[("a", "b")], []], pa.map_(pa.string(), pa.string())),
        "number": pa.array([1.5, None]),
    }
    texts = ["a", "b"]
    pq.write_table(pa.table({"original": texts, "summary": texts, **kinds}), folder / "in.parquet")
    return folder / "in.parquet"


def _zeros(folder: Path) -> Path:
    """One value that claims to be a thousand times what it takes in the file."""
    size = 1 << 30
    ends = pa.py_buffer(struct.pack("<2i", 0, size))
    zeros = pa.Array.from_buffers(pa.utf8(), 1, [None, ends, pa.py_buffer(bytes(size))])
    table = pa.table({"original": zeros, "summary": ["b"]})
    # Statistics of it would take longer than all else here.
    options = {"use_dictionary": False, "write_statistics": False, "compression_level": 3}
    pq.write_table(table, folder / "in.parquet", compression="zstd", **options)
    return folder / "in.parquet"


def _tagged(folder: Path) -> Path:
    command = f"!!python/object/apply:os.mkdir ['{folder / CANARY}']"
    (folder / "config.yaml").write_text(f"a: {command}\n{_APPLICATION}}}]")
    return folder / "config.yaml"


def load_targets(path: Path) -> object:
    return Targets.load(path)


def load_keys(path: Path) -> object:
    return KeySource(path, None)


def load_config(path: Path) -> object:
    return load_document(path)


def load_glossary(path: Path) -> object:
    return Glossary.load(path)


def read_table(path: Path) -> object:
    return scan(path, lambda number, row: None)


def go_on(path: Path) -> object:
    journal = Journal(locate(path), {"input": "in.csv"})
    return list(journal.results([0]))


def _run(manifest: str, block: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        parts = folder / "out.csv.parts"
        parts.mkdir()
        (parts / "manifest.json").write_text(manifest)
        (parts / "block-000000.json").write_text(block)
        return folder / "out.csv"

    return build


_NONE = {"names": {}, "probe": [], "eval_mode": None}
_BEGUN = json.dumps({"run": {"input": "in.csv"}, "models": _NONE})
RUNS = [
    ("unchanged", _BEGUN, "[[0, 1, 2, 3, 4, 5]]", ""),
    ("a manifest nested 100,000 deep", "[" * 100_000, "[]", "not what an earlier run left"),
    ("a manifest that is a list", "[]", "[]", "not what an earlier run left"),
    ("a block with NaN", _BEGUN, "[[NaN, 1, 2, 3, 4, 5]]", "is damaged"),
    ("a block nested 100,000 deep", _BEGUN, "[" * 100_000, "is damaged"),
]


_SECONDS = (
    "nested 50,000 deep",
    "a GiB of zeros, Parquet",
    "a million times 4 MB, Parquet",
    "a list of 40,000,000 numbers, Parquet",
    "a row of 70 MB in a million lines, CSV",
)
"""Names of those that take seconds to make or to refuse."""


def _tall(folder: Path) -> Path:
    with (folder / "in.csv").open("w", encoding="utf-8") as file:
        file.write(_OPEN)
        file.writelines(("b" * 69 + "\n") * 1000 for _ in range(1000))
    return folder / "in.csv"


def cases() -> list[Case]:
    """All of them."""
    found = []
    for loader, name, load, listed in (
        ("TARGETS_FILE", "targets.json", load_targets, TARGETS),
        ("API_KEYS_FILE", "keys.json", load_keys, KEYS),
        ("plainmed serve CONFIG", "config.yaml", load_config, YAML),
        ("a glossary", "glossary.csv", load_glossary, GLOSSARY),
    ):
        for what, content, says in listed:
            heavy = what in _SECONDS
            found.append(Case(loader, what, _file(name, content), load, says, heavy))
        found.append(Case(loader, "one GiB of zeros", _long(name, b""), load, "larger than"))
        found.append(Case(loader, "/dev/zero", _device, load, "larger than"))
    found.append(Case("plainmed serve CONFIG", "a tag that runs", _tagged, load_config, "cannot"))
    tables = [(what, _file(name, content), says) for what, name, content, says in TABLES]
    csv, jsonl = _long("in.csv", b"original,summary\n"), _long("in.jsonl", b'{"original": "')
    tables += [
        ("a line of a GiB, CSV", csv, "a line of more than 64 MiB"),
        ("a line of a GiB, JSON lines", jsonl, "a line of more than 64 MiB"),
        ("unchanged, Parquet", _every_kind, ""),
        ("a million times 4 MB, Parquet", _parquet_bomb, "unpacks to more than"),
        ("256 times 8 MiB of bytes, Parquet", _bytes_bomb, "unpacks to more than"),
        ("a list of a thousand times 4 MB, Parquet", _list_bomb, "unpacks to more than"),
        ("a list of 40,000,000 numbers, Parquet", _numbers_bomb, "lists of other"),
        ("a value of fixed length of 64 MiB, Parquet", _wide_bomb, "values of other"),
        ("a GiB of zeros, Parquet", _zeros, "unpacks to more than"),
        ("a row of 70 MB in a million lines, CSV", _tall, "more than 64 MiB in its lines"),
    ]
    for what, build, says in tables:
        found.append(Case("plainmed score INPUT", what, build, read_table, says, what in _SECONDS))
    for what, manifest, block, says in RUNS:
        found.append(Case("a run to go on with", what, _run(manifest, block), go_on, says))
    return found


def _device(folder: Path) -> Path:
    return Path("/dev/zero")


def _long(name: str, start: bytes) -> Callable[[Path], Path]:
    return lambda folder: sparse(folder / name, GIB, start)
