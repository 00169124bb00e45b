"""`plainmed score`: a table or one pair, in process or on a server."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.demo import free_port
from serve_app.cli.score import ALIVE_S
from serve_app.client.clients import PlainMedClient
from serve_app.metrics.loss import METRICS
from serve_app.metrics.readability import readability
from tests.support.command import plainmed, refused
from tests.support.servers import Answer, ScriptedProxy, ScriptedServer, measure
from tests.support.texts import GENERATED, ORIGINALS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "source_text", "target_text"])
        writer.writerows(zip("abcd", ORIGINALS, GENERATED, strict=True))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- score: a table ---------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_a_table_is_scored_in_process(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored.csv"
    result = plainmed("score", table, "--out", out)
    assert result.exit_code == 0
    assert "4 of 4 rows scored" in result.stderr
    assert "were made with roberta-large" in result.stderr
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list("abcd")
    assert [row["source_text"] for row in rows] == ORIGINALS
    for row, text in zip(rows, GENERATED, strict=True):
        assert float(row["fkgl"]) == readability(text).fkgl
        assert 0 < float(row["relevance"]) < 1
        assert 0 <= float(row["factuality"]) <= 1
        assert 0 <= float(row["loss"]) <= 1
        assert row["error"] == ""
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_table_is_scored_on_a_server(table: Path, tmp_path: Path, url: str) -> None:
    out = tmp_path / "scored.jsonl"
    weights = "1,0,0,0,0"
    result = plainmed("score", table, "--out", out, "--url", url, "--weights", weights)
    assert result.exit_code == 0
    for row, pair in zip(read_jsonl(out), zip(ORIGINALS, GENERATED, strict=True), strict=True):
        values = measure(*pair).values
        assert tuple(row[name] for name in METRICS) == values
        assert row["loss"] == pytest.approx((values[0] - 0.8556) ** 2)
        assert row["error"] is None


@pytest.mark.parametrize("where", ["server", "in_process"])
def test_a_profile_changes_the_loss_of_a_table_and_of_a_pair_and_is_named(
    where: str, table: Path, tmp_path: Path, url: str, request: pytest.FixtureRequest
) -> None:
    if where == "in_process":
        request.getfixturevalue("in_process")
    there = ["--url", url] if where == "server" else []
    result = plainmed("score", table, "--out", tmp_path / "p.jsonl", "--profile", "public", *there)
    assert result.exit_code == 0, result.stderr
    assert "profile public" in result.stderr
    losses = [row["loss"] for row in read_jsonl(tmp_path / "p.jsonl")]
    files = tmp_path / "a.txt", tmp_path / "b.txt"
    for file, text in zip(files, (ORIGINALS[0], GENERATED[0]), strict=True):
        file.write_text(text, encoding="utf-8")
    pair = ["score", "--original-file", files[0], "--generated-file", files[1], *there]
    found = json.loads(plainmed(*pair, "--profile", "public", "--json").stdout)
    assert found["profile"] == "public"
    assert found["results"][0]["loss"] == pytest.approx(losses[0], abs=1e-6)
    assert "Profile public" in plainmed(*pair, "--profile", "public").stdout
    silent = json.loads(plainmed(*pair, "--json").stdout)
    assert silent["results"][0]["loss"] != pytest.approx(losses[0])
    assert silent.get("profile") is None


def test_an_unknown_profile_is_refused_with_those_there_are(table: Path, tmp_path: Path) -> None:
    result = plainmed("score", table, "--out", tmp_path / "o.csv", "--profile", "children")
    assert result.exit_code == 2
    for known in ("cochrane", "public", "patient"):
        assert known in result.stderr


@pytest.mark.parametrize(
    ("where", "batch_size"), [("server", 1), ("server", 3), ("server", 16), ("in_process", 16)]
)
def test_a_bad_row_gets_its_error_and_the_others_their_scores(
    where: str, batch_size: int, tmp_path: Path, url: str, request: pytest.FixtureRequest
) -> None:
    if where == "in_process":
        request.getfixturevalue("in_process")
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows: list[dict[str, Any]] = [
        {"original": text, "summary": summary, "n": [1, 2]}
        for text, summary in zip(ORIGINALS, GENERATED, strict=True)
    ]
    rows[1]["summary"] = " "
    rows[2]["original"] = None
    rows.append({"original": "A text.", "summary": 3})
    rows.append({"original": "A good text of words.", "summary": "A good text."})
    source.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    options = ["--batch-size", batch_size, *(["--url", url] if where == "server" else [])]
    result = plainmed("score", source, "--out", out, *options)
    assert result.exit_code == 1
    assert "3 rows have no score" in result.stderr
    scored = read_jsonl(out)
    assert [row.get("n") for row in scored] == [[1, 2]] * 4 + [None] * 2
    assert [row["loss"] is None for row in scored] == [False, True, True, False, True, False]
    assert [row["error"] for row in (scored[0], scored[3], scored[5])] == [None] * 3
    assert "empty" in scored[1]["error"]
    assert scored[2]["error"] == "column 'original' is missing"
    assert scored[4]["error"] == "column 'summary' is not text but int"


def test_a_server_that_goes_away_leaves_what_was_scored(
    table: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PlainMedClient(url) as client:
        health = client.health().model_dump_json().encode()
        good = client.evaluate(ORIGINALS[0], GENERATED[0]).model_dump_json().encode()
    out = tmp_path / "out.csv"
    gone = Answer(404, b"no such app")
    with ScriptedServer([Answer(body=health), Answer(body=good), gone]) as server:
        result = plainmed("score", table, "--out", out, "--url", server.url, "--batch-size", 1)
    assert [one.path for one in server.received] == ["/healthz", "/evaluate", "/evaluate"]
    assert result.exit_code == 1
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["error"] == ""
    assert all("no such app" in row["error"] and row["loss"] == "" for row in rows[1:])


@pytest.mark.parametrize("dead", ["nobody listens", "it hangs"])
def test_a_dead_server_is_one_line_and_no_file(
    dead: str, table: Path, pair: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.cli.score.ALIVE_S", 0.3)
    before = set(tmp_path.iterdir())
    with ScriptedServer([Answer(delay=60)]) as server:
        url = server.url if dead == "it hangs" else f"http://127.0.0.1:{free_port()}"
        for command in (["score", table, "--out", tmp_path / "out.csv"], ["score", *pair]):
            result = plainmed(*command, "--url", url)
            assert result.exit_code == 2
            (line,) = result.stderr.splitlines()
            assert line.startswith("error: ")
            assert url in line
            assert result.stdout == ""
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("status", [404, 502, 503, 200])
def test_what_answers_in_a_servers_place_is_one_line_and_no_file(
    status: int, table: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    with ScriptedServer([Answer(status, b"<html>no upstream</html>")]) as server:
        result = plainmed("score", table, "--out", tmp_path / "out.csv", "--url", server.url)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"what answers at {server.url} is no PlainMed" in line
    assert set(tmp_path.iterdir()) == before


def test_a_server_whose_health_is_hidden_is_asked_by_a_call(
    table: Path, tmp_path: Path, url: str
) -> None:
    with ScriptedProxy(url, {"/healthz": [Answer(403, b"forbidden")]}) as proxy:
        result = plainmed("score", table, "--out", tmp_path / "out.csv", "--url", proxy.url)
    assert result.exit_code == 0, result.output
    assert [one.path for one in proxy.received[:2]] == ["/healthz", "/metrics/readability"]


def test_the_wait_for_a_dead_server_ends_within_ten_seconds() -> None:
    assert ALIVE_S < 10


def test_quiet_says_nothing_but_what_is_wrong(table: Path, tmp_path: Path, url: str) -> None:
    result = plainmed("score", table, "--out", tmp_path / "out.csv", "--url", url, "--quiet")
    assert result.exit_code == 0
    assert result.output == ""
    with table.open("a", encoding="utf-8") as file:
        file.write("e,,A text.\n")
    result = plainmed("score", table, "--out", tmp_path / "two.csv", "--url", url, "-q")
    assert result.exit_code == 1
    assert result.output == "1 rows have no score; see their column error\n"


@pytest.mark.parametrize(
    ("options", "shown"), [([], True), (["--no-progress"], False), (["--quiet"], False)]
)
def test_a_terminal_shows_rows_done_of_all(
    options: list[str],
    shown: bool,
    table: Path,
    tmp_path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal
    options = [*options, "--batch-size", "1"]
    said = plainmed("score", table, "--out", tmp_path / "o.csv", "--url", url, *options).stderr
    assert ("4/4" in re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", said)) == shown


def test_columns_can_be_named_and_new_ones_prefixed(tmp_path: Path, url: str) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("abstract,pls,loss\nA long text.,A text.,0.5\n", encoding="utf-8-sig")
    names = ("--original-column", "abstract", "--generated-column", "pls", "--url", url)
    assert "already a column 'loss'" in refused("score", source, "--out", out, *names)
    result = plainmed("score", source, "--out", out, "--prefix", "new_", *names)
    assert result.exit_code == 0
    header, row = out.read_text(encoding="utf-8").splitlines()
    assert header.startswith("abstract,pls,loss,new_relevance,")
    assert row.startswith("A long text.,A text.,0.5,1.0,1.0,")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "in.txt",
            b"x",
            r"in\.txt: the name must end in \.csv, \.tsv",
        ),
        ("in.csv", b"", "there are no rows"),
        ("in.csv", b"original,generated\n", "there are no rows"),
        ("in.csv", b"a,b\n1,2\n", "none of the columns original, source_text.*there are: a, b;"),
        ("in.csv", b"original,b\n1,2\n", "none of the columns generated, .*--generated-column"),
        ("in.csv", b"original,generated\n1,2\n1\n", r"row 2 \(up to line 3\).*2 fields"),
        ("in.csv", b"original,generated\n1,2,3\n", r"row 1 \(up to line 2\).*2 fields"),
        ("in.csv", b"original,original\n1,2\n", "names a column twice"),
        ("in.csv", b'original,generated\n"1"x,2\n', "row 1 is not CSV"),
        ("in.csv", b"original,generated\n\xff,2\n", r"is not UTF-8 text \(byte 19\)"),
        ("in.jsonl", b'{"original": "a", "generated": "b"}\n{"original"\n', "line 2 is not JSON"),
        ("in.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("in.jsonl", b'{"original": "a"}\n', "none of the columns generated"),
        ("in.jsonl", b"\n", "there are no rows"),
    ],
)
def test_a_wrong_table_is_named_to_the_row(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    said = refused("score", source, "--out", tmp_path / "out.csv")
    assert said.startswith(f"error: {source}")
    assert re.search(message, said)
    assert not (tmp_path / "out.csv").exists()


def test_wrong_arguments_of_score_are_refused_before_any_work(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert "give INPUT and --out" in refused("score", table)
    assert "give INPUT and --out" in refused("score", "--original-file", table)
    assert "give INPUT and --out" in refused(
        "score", table, "--out", out, "--original-file", table, "--generated-file", table
    )
    assert "no folder" in refused("score", table, "--out", tmp_path / "none" / "out.csv")
    assert "must end in" in refused("score", table, "--out", tmp_path / "out.xlsx")
    assert "sum to 1" in refused("score", table, "--out", out, "--weights", "1,1,1,1,1")
    assert "must be numbers" in refused("score", table, "--out", out, "--weights", "high")
    assert "there is no column 'x'" in refused(
        "score", table, "--out", out, *("--original-column", "x")
    )
    assert "cannot read" in refused("score", tmp_path / "none.csv", "--out", out)
    assert "METRICS_API_URL" in refused("score", table, "--out", out, "--url", "nowhere")
    assert not out.exists()


def test_the_columns_and_what_was_chosen_are_said(tmp_path: Path, url: str) -> None:
    source = tmp_path / "in.csv"
    source.write_text("input_text;predicted_summary\nA long text.;A text.\n", encoding="utf-16")
    result = plainmed("score", source, "--out", tmp_path / "out.csv", "--url", url)
    assert result.exit_code == 0
    said = result.stderr
    assert "scoring the summaries in 'predicted_summary' against the originals in" in said
    assert "'input_text'" in said
    assert "is read as UTF-16" in said
    assert "is read with semicolons between its cells" in said


def test_several_columns_are_scored_into_one_file_or_into_several(tmp_path: Path, url: str) -> None:
    source = tmp_path / "in.csv"
    source.write_text("original,target_text,x,y/z\nA long text.,A human text.,A text.,A long.\n")
    assert "several columns could be meant" not in refused(
        "score", source, "--out", tmp_path / "o.csv", "--generated-column", "none"
    )
    columns = ("--generated-column", "x", "--generated-column", "y/z", "--url", url)
    result = plainmed("score", source, "--out", tmp_path / "one.jsonl", *columns)
    assert "2 of 2 summaries scored" in result.stderr
    (row,) = read_jsonl(tmp_path / "one.jsonl")
    assert row["x_fkgl"] == readability("A text.").fkgl
    assert row["y/z_fkgl"] == readability("A long.").fkgl
    result = plainmed("score", source, "--out", tmp_path / "of-{column}.jsonl", *columns)
    assert result.exit_code == 0
    (first,), (second,) = (read_jsonl(tmp_path / f"of-{one}.jsonl") for one in ("x", "y_z"))
    assert (first["generated_column"], second["generated_column"]) == ("x", "y/z")
    assert (first["loss"], second["loss"]) == (row["x_loss"], row["y/z_loss"])


def test_a_failed_row_of_one_system_names_its_column(tmp_path: Path, url: str) -> None:
    source = tmp_path / "in.csv"
    source.write_text("original,x,y\nA long text.,A text.,\n")
    columns = ("--generated-column", "x", "--generated-column", "y", "--url", url)
    result = plainmed("score", source, "--out", tmp_path / "out.csv", *columns)
    assert result.exit_code == 1
    assert "1 summaries have no score; see their column x_error and y_error" in result.stderr


# --- score: one pair --------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_one_pair_is_scored_in_process_as_json(pair: list[object]) -> None:
    result = plainmed("score", *pair, "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["results"][0]["metrics"]["smog"] == readability(GENERATED[0]).smog
    assert answer["models"]["factuality"] == "tiny"
    assert [item["text"] for item in answer["results"][0]["sentences"]]


def test_one_pair_is_shown_as_a_table(pair: list[object], url: str) -> None:
    shown = plainmed("score", *pair, "--url", url).stdout
    values = measure(ORIGINALS[0], GENERATED[0]).values
    for value in (*values, 0.8556, 0.4481, 13.567):
        assert f"{value:.4f}" in shown
    assert "Loss" in shown


def test_one_empty_text_is_refused(pair: list[object], tmp_path: Path, url: str) -> None:
    (tmp_path / "b.txt").write_text("\n", encoding="utf-8")
    assert "texts_generated[0]" in refused("score", *pair, "--url", url)
