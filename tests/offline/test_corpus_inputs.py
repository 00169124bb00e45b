"""Corpora as people have them: separators, encodings, compression, lists, folders, data sets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from serve_app.core.errors import InvalidInput
from serve_app.offline.corpus import inputs
from serve_app.offline.corpus.reader import Corpus, read_all, read_rows, scan
from tests.support.corpus_runs import prepare, run
from tests.support.corpus_tools import make_rows, write_rows
from tests.support.corpus_tools import read_rows as read_file

ROWS = make_rows(23)


def rows_of(corpus: Corpus) -> list[dict[str, Any]]:
    return [row for rows in read_all(corpus, corpus.blocks(4)) for row in rows]


def csv_text(rows: Sequence[dict[str, Any]], separator: str = ",") -> str:
    lines = [separator.join(rows[0])]
    lines += [separator.join(f'"{cell}"' for cell in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def jsonl_text(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def save_arrow(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As `datasets` writes it: a stream of record batches."""
    table = pa.Table.from_pylist([*rows])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def save_dataset(folder: Path, shards: Sequence[Sequence[dict[str, Any]]]) -> Path:
    """As `datasets.Dataset.save_to_disk` leaves it."""
    folder.mkdir(parents=True)
    names = [f"data-{at:05d}-of-{len(shards):05d}.arrow" for at in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        save_arrow(folder / name, rows)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_separator_of_a_table_is_found_and_told(
    tmp_path: Path, separator: str, suffix: str
) -> None:
    path = tmp_path / f"in{suffix}"
    path.write_text(csv_text(ROWS, separator))
    corpus = scan(path)
    assert rows_of(corpus) == ROWS
    usual = {".csv": ",", ".tsv": "\t"}[suffix]
    assert [("between its cells" in note) for note in corpus.notes] == [True] * (separator != usual)


def test_excels_hint_names_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("\ufeffsep=;\r\n" + csv_text(ROWS, ";").replace("\n", "\r\n"), newline="")
    assert rows_of(scan(path)) == ROWS


def test_a_semicolon_inside_a_header_with_commas_separates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('original,"a; b; c; d",summary\nx,y,z\n')
    assert scan(path).source.columns == ("original", "a; b; c; d", "summary")


def test_a_row_with_too_many_cells_names_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("original;summary\na;b\na;b;c\n")
    with pytest.raises(InvalidInput, match=r"row 2 .* put quotes around texts with semicolons"):
        scan(path)


def test_a_file_without_a_header_is_refused_in_one_short_line(tmp_path: Path) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    text = "A long text of a study, in words. " * 300
    path.write_text(f'"{text}","{text}\x1b[31m"\n"a","b"\n')
    with pytest.raises(InvalidInput, match="none of the columns original") as caught:
        prepare(path, out)
    assert len(caught.value.message) < 600
    assert "\x1b" not in caught.value.message
    path.write_text(f'"{text}","{text}"\n"a","b"\n')
    with pytest.raises(InvalidInput, match=r"names a column twice: .* is it a header") as caught:
        prepare(path, out)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_unicode_of_spreadsheets_is_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    rows = [{**row, "original": f"{row['original']} Größe ≥ 5, 中文 \U0001f600"} for row in ROWS]
    text = {
        ".csv": csv_text(rows),
        ".jsonl": jsonl_text(rows),
        ".json": json.dumps(rows, ensure_ascii=False),
    }
    path = tmp_path / f"in{suffix}"
    path.write_bytes(text[suffix].encode(encoding))
    corpus = scan(path)
    assert rows_of(corpus) == rows
    assert any("UTF-16" in note for note in corpus.notes) == ("16" in encoding)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".json", ".tsv"])
def test_a_compressed_file_is_read_in_parts_as_the_plain_one(tmp_path: Path, suffix: str) -> None:
    if suffix in (".json", ".tsv"):
        plain = tmp_path / f"in{suffix}"
        plain.write_text(json.dumps(ROWS) if suffix == ".json" else csv_text(ROWS, "\t"))
    else:
        plain = write_rows(tmp_path / f"in{suffix}", ROWS)
    packed = tmp_path / f"in{suffix}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    corpus = scan(packed)
    assert (corpus.source.name, corpus.rows) == (str(packed), 23)
    (block,) = corpus.blocks(3, [2, 11, 20])
    assert [row["id"] for row in read_rows(corpus.source, block)] == ["r2", "r11", "r20"]
    run(prepare(packed, tmp_path / "out.csv"))
    run(prepare(plain, tmp_path / "plain.csv"))
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_a_copy_goes_with_its_corpus(tmp_path: Path) -> None:
    path = tmp_path / "in.csv.gz"
    path.write_bytes(gzip.compress(csv_text(ROWS).encode()))
    corpus = scan(path)
    copy = Path(corpus.source.path)
    assert copy.exists()
    del corpus
    assert not copy.exists()
    assert not copy.parent.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv.gz", b"original,summary\na,b\n", "cannot be unpacked: Not a gzipped file"),
        (
            "in.csv.gz",
            gzip.compress(b"original,summary\na,b\n" * 99, mtime=0)[:-9],
            "cannot be unpacked",
        ),
        ("in.json", b'[{"a": 1}', "item 1|the list|item 2"),
        ("in.json", b'[{"a": 1} {"a": 2}]', "no comma after item 1"),
        ("in.json", b'[{"a": 1}, 5]', "item 2 is not a JSON object"),
        ("in.json", b'[{"a": 1}] x', "something follows the list"),
        ("in.json", b'[{"a": 1, "a": 2}]', "'a' is there twice"),
        ("in.json", b"[" * 100_000, "in.json: "),
        ("in.json", b'{"data": [\n1]}\n', "line 1 is not JSON"),
        ("in.csv", b"\xff\xfea\x00\x00\xd8", "is not UTF-16 text"),
        ("in.arrow", b"ARROW1 or not", "cannot be read as Arrow"),
        ("in.xlsx", b"PK", r"must end in \.csv, \.tsv, \.jsonl, \.json or \.parquet"),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        scan(tmp_path / name)
    assert name in caught.value.message


def test_a_file_that_unpacks_to_far_more_than_texts_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "MOST_UNPACKED", 4)
    for name in ("in.jsonl.gz", "in.parquet.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b" " * (5 << 20)))
        with pytest.raises(InvalidInput, match="unpacks to more than 4 times its size"):
            scan(tmp_path / name)


def test_a_list_is_read_whatever_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_CHUNK", 7)  # every object is in several pieces
    path = tmp_path / "in.json"
    for text in (json.dumps(ROWS), json.dumps(ROWS, indent=2), f"\n {json.dumps(ROWS)}\n\n"):
        path.write_text(text)
        assert rows_of(scan(path)) == ROWS
    path.write_text(jsonl_text(ROWS))
    assert rows_of(scan(path)) == ROWS
    path.write_text("[]")
    assert scan(path).rows == 0


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for at, start in enumerate((0, 9, 18)):
        write_rows(folder / f"part-{at}{suffix}", ROWS[start : start + 9])
    (folder / "_SUCCESS").touch()
    (folder / "README.md").touch()
    corpus = scan(folder)
    assert rows_of(corpus) == ROWS
    assert any("3 files" in note for note in corpus.notes)
    assert any("left out are README.md" in note for note in corpus.notes)
    run(prepare(folder, tmp_path / "out.jsonl"))
    assert [row["id"] for row in read_file(tmp_path / "out.jsonl")] == [row["id"] for row in ROWS]


def test_a_folder_of_compressed_lists_is_read_too(tmp_path: Path) -> None:
    for at, start in enumerate((0, 12)):
        packed = gzip.compress(json.dumps(ROWS[start : start + 12]).encode())
        (tmp_path / f"{at}.json.gz").write_bytes(packed)
    assert rows_of(scan(tmp_path)) == ROWS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is a folder without a"),
        (lambda folder: [(folder / name).write_text("a") for name in ("a.csv", "b.jsonl")], "one"),
        (
            lambda folder: [
                (folder / "a.csv").write_text("a,b\n1,2\n"),
                (folder / "b.csv").write_text("a,c\n1,2\n"),
            ],
            "b.csv has other columns than",
        ),
        (
            lambda folder: [
                write_rows(folder / "a.parquet", [{"a": 1}]),
                write_rows(folder / "b.parquet", [{"a": "x"}]),
            ],
            "b.parquet has other columns than",
        ),
        (lambda folder: (folder / "state.json").write_text("[]"), "not what `datasets` writes"),
        (
            lambda folder: (folder / "state.json").write_text(
                '{"_data_files": [{"filename": "../../etc/passwd"}]}'
            ),
            "is no name of a file",
        ),
    ],
)
def test_a_folder_that_is_no_corpus_is_refused(
    tmp_path: Path, make: Callable[[Path], Any], message: str
) -> None:
    make(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        scan(tmp_path)


def test_a_saved_data_set_is_read_shard_by_shard(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "set", [ROWS[:12], ROWS[12:]])
    corpus = scan(folder)
    assert rows_of(corpus) == ROWS
    (block,) = corpus.blocks(2, [3, 14])
    assert [row["id"] for row in read_rows(corpus.source, block)] == ["r3", "r14"]


def test_the_splits_of_a_saved_data_set_become_a_column(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    save_dataset(folder / "train", [ROWS[:12]])
    save_dataset(folder / "test", [ROWS[12:]])
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    corpus = scan(folder)
    found = rows_of(corpus)
    assert [row.pop("split") for row in found] == ["train"] * 12 + ["test"] * 11
    assert found == ROWS
    assert any("splits train, test" in note for note in corpus.notes)


def test_datasets_itself_writes_what_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets, of the train extra")
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one", num_shards=3)
    assert rows_of(scan(tmp_path / "one")) == ROWS
    datasets.DatasetDict({"validation": whole}).save_to_disk(tmp_path / "many")
    assert rows_of(scan(tmp_path / "many")) == [{**row, "split": "validation"} for row in ROWS]
