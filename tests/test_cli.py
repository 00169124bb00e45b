"""The `plainmed` command as a user types it: its answers, its files and its mistakes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console
from transformers import AutoModel
from typer.testing import CliRunner, Result

from serve_app import __version__
from serve_app.artifacts import RESOURCES, resolve
from serve_app.cli import app
from serve_app.client import PlainMedClient
from serve_app.demo import free_port, run_demo, running
from serve_app.loss import METRICS
from serve_app.metrics.align_model import AlignModel, CompactConfig, save_compact
from serve_app.metrics.readability import readability
from serve_app.sample import sample_abstract
from serve_app.settings import Settings
from tests.servers import Answer, ScriptedServer, api_server, lead, measure, wait_for
from tests.texts import GENERATED, ORIGINALS

BASE = "embedded:all-MiniLM-L6-v2"


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


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with api_server() as address:
        yield address


@pytest.fixture(scope="module")
def tiny_align(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact AlignScore model with heads that nobody trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("align") / "tiny"
    model = AlignModel(AutoModel.from_pretrained(resolve(BASE)))
    save_compact(model, folder, CompactConfig("tiny", BASE, 1, 100, "nli_sp"))
    return folder


@pytest.fixture
def in_process(tiny_align: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNSCORE_MODEL", str(tiny_align))
    monkeypatch.setenv("TARGETS_FILE", str(RESOURCES / "targets-earlier-system.json"))
    monkeypatch.setenv("DEVICE", "cpu")


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


# --- the command itself -----------------------------------------------------------------


def test_help_names_every_command_and_answers_at_once() -> None:
    usage = os.times().children_user
    shown = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in ("serve", "score", "generate", "demo", "calibrate", "settings", "version"):
        assert command in shown
    # Processor time, since the machine may be busy with something else.
    assert os.times().children_user - usage < 1.0


def test_help_imports_no_model_library() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom serve_app.cli import app\n"
        "assert CliRunner().invoke(app, ['score', '--help']).exit_code == 0\n"
        "print(*sorted({'torch', 'ray', 'transformers', 'fastapi', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_version() -> None:
    assert plainmed("version").stdout == f"plainmed {__version__}\n"


def test_settings_lists_every_setting_with_default_and_meaning() -> None:
    rows = plainmed("settings", "--markdown").stdout.splitlines()[2:]
    assert len(rows) == len(Settings.model_fields)
    for row, (name, info) in zip(rows, Settings.model_fields.items(), strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4
        assert cells[0] == f"`{name.upper()}`"
        default = info.default.strip() if isinstance(info.default, str) else info.default
        shown = "unset" if default in (None, "") else str(default)
        assert cells[2].strip("`").removesuffix(r"\n\n") == shown
        assert cells[3]
    assert "two_sided, one_sided" in next(row for row in rows if "LOSS_DIRECTION" in row)


def test_the_settings_table_prints_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "very-secret")
    shown = plainmed("settings").stdout
    assert "HF_TOKEN" in shown
    assert "very-secret" not in shown


def test_a_bad_setting_is_one_line_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", "serve"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TOP_P": "7"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: bad settings: TOP_P")
    assert len(done.stderr.splitlines()) == 1


def test_serve_refuses_what_it_cannot_serve(tmp_path: Path) -> None:
    assert "'loss' is not one of metrics, generator" in refused("serve", "--services", "loss")
    assert "missing.yaml" in refused("serve", tmp_path / "missing.yaml")


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
        good = client.evaluate(ORIGINALS[0], GENERATED[0]).model_dump_json().encode()
    out = tmp_path / "out.csv"
    gone = Answer(404, b"no such app")
    with ScriptedServer([Answer(body=good), gone]) as server:
        result = plainmed("score", table, "--out", out, "--url", server.url, "--batch-size", 1)
    assert len(server.received) == 2
    assert result.exit_code == 1
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["error"] == ""
    assert all("no such app" in row["error"] and row["loss"] == "" for row in rows[1:])


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
        ("in.txt", b"x", r"in\.txt: the name must end in \.parquet, \.csv or \.jsonl"),
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


# --- score: one pair --------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> list[object]:
    original, generated = tmp_path / "a.txt", tmp_path / "b.txt"
    original.write_text(ORIGINALS[0], encoding="utf-8")
    generated.write_text(GENERATED[0], encoding="utf-8")
    return ["--original-file", original, "--generated-file", generated]


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


# --- generate ---------------------------------------------------------------------------


def test_generate_reads_a_file_or_standard_input(tmp_path: Path, url: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(ORIGINALS[0], encoding="utf-8")
    wanted = lead(ORIGINALS[0]) + "\n"
    assert plainmed("generate", path, "--url", url).stdout == wanted
    assert plainmed("generate", path, "--url", url, "--stream", "--seed", 1).stdout == wanted
    text = ORIGINALS[0].encode()
    assert plainmed("generate", "-", "--url", url, stdin=text).stdout == wanted
    answer = json.loads(plainmed("generate", "-", "--url", url, "--json", stdin=text).stdout)
    assert answer["summary"] + "\n" == wanted
    assert answer["sentences"][0]["source"] == ORIGINALS[0]


@pytest.mark.parametrize("options", [["--stream"], ["--json"]])
@pytest.mark.usefixtures("in_process")
def test_generate_in_process(options: list[str]) -> None:
    result = plainmed("generate", "-", "--seed", 1, *options, stdin=sample_abstract().encode())
    assert result.exit_code == 0, result.stderr
    text = json.loads(result.stdout)["summary"] if "--json" in options else result.stdout
    assert len(text.split()) > 10


def test_the_best_candidate_is_printed_and_all_are_shown(url: str) -> None:
    options = ("--n", 3, "--select", "loss", "--weights", "1,0,0,0,0", "--url", url)
    answer = json.loads(
        plainmed("generate", "-", *options, "--json", stdin=ORIGINALS[0].encode()).stdout
    )
    shown = plainmed("generate", "-", *options, stdin=ORIGINALS[0].encode())
    assert shown.stdout == answer["candidates"][0]["summary"] + "\n"
    for one in answer["candidates"]:
        assert f"{one['scores']['loss']:.4f}" in shown.stderr
    unscored = plainmed("generate", "-", "--n", 3, "--url", url, stdin=ORIGINALS[0].encode())
    assert unscored.stdout.split("\n\n") == [
        *(lead(ORIGINALS[0]), lead(ORIGINALS[0], 1), lead(ORIGINALS[0]) + "\n"),
    ]
    assert "Loss" not in unscored.stderr


@pytest.mark.usefixtures("in_process")
def test_the_best_candidate_in_process_is_the_one_of_least_loss() -> None:
    options = ("--n", 3, "--select", "loss", "--seed", 1, "--json")
    result = plainmed("generate", "-", *options, stdin=sample_abstract().encode())
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    losses = [one["scores"]["loss"] for one in answer["candidates"]]
    assert losses == sorted(losses)
    assert sorted(one["variant"] for one in answer["candidates"]) == [0, 1, 2]
    assert answer["summary"] == answer["candidates"][0]["summary"]


def test_sampling_options_reach_the_server(tmp_path: Path) -> None:
    options = ["--max-new-tokens", 9, "--temperature", 0, "--top-p", 0.5, "--seed", 0]
    with ScriptedServer([Answer(422, b"no")]) as server:
        refused("generate", "-", "--url", server.url, *options, stdin=b"text")
    assert json.loads(server.received[0].body) == {
        "text": "text",
        "stream": False,
        "max_new_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 0,
    }


def test_wrong_input_of_generate_is_refused(tmp_path: Path, url: str) -> None:
    assert "cannot read" in refused("generate", tmp_path / "none.txt")
    assert "standard input is empty" in refused("generate", "-", stdin=b" \n")
    assert "not UTF-8" in refused("generate", "-", stdin=b"\xff\xfe")
    assert "no word" in refused("generate", "-", "--url", url, stdin=b"...")
    assert "leave --stream out" in refused("generate", "-", "--json", "--stream", stdin=b"a")
    assert "--temperature" in refused("generate", "-", "--temperature", "3", stdin=b"a")
    assert "leave --n and" in refused("generate", "-", "--stream", "--n", "2", stdin=b"a")
    weights = ("--weights", "0.2,0.2,0.2,0.2,0.2")
    assert "--select loss too" in refused("generate", "-", *weights, stdin=b"a")
    bad = ("--select", "loss", "--weights", "1,1,1,1,1")
    assert "sum to 1" in refused("generate", "-", *bad, stdin=b"a")


def test_no_server_is_one_line_that_says_where() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    said = refused("generate", "-", "--url", nowhere, stdin=b"text")
    assert said.startswith(f"error: cannot reach PlainMed at {nowhere}")


# --- calibrate --------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_calibrate_writes_targets_that_score_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: list[object]
) -> None:
    source, out = tmp_path / "human.csv", tmp_path / "targets.json"
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["source_text", "target_text", "split"])
        writer.writerows((*texts, "train") for texts in zip(ORIGINALS, GENERATED, strict=True))
    assert plainmed("calibrate", source, "--out", out).exit_code == 0
    monkeypatch.setenv("TARGETS_FILE", str(out))
    result = plainmed("score", *pair, "--json")
    assert "warning" not in result.stderr
    targets = json.loads(result.stdout)["results"][0]["targets"]
    assert targets["fkgl"] == pytest.approx(
        sum(readability(text).fkgl for text in GENERATED) / len(GENERATED)
    )


def test_calibrate_names_a_missing_column(tmp_path: Path) -> None:
    source = tmp_path / "human.csv"
    source.write_text("source_text,split\na,train\n", encoding="utf-8")
    assert "target_text" in refused("calibrate", source, "--out", tmp_path / "t.json")


# --- demo -------------------------------------------------------------------------------

SERVER = """
import os, signal, subprocess, sys, time
sys.path.insert(0, {root!r})
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
{body}
"""


def command(body: str) -> list[str]:
    root = str(Path(__file__).resolve().parents[1])
    return [sys.executable, "-c", SERVER.format(root=root, body=body)]


def child_of(log: Path) -> int:
    return int(re.search(r"child (\d+)", log.read_text(encoding="utf-8"))[1])  # type: ignore[index]


def gone(pid: int) -> bool:
    """Killed: not there, or dead and not yet collected by whoever adopted it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_sample_abstract_is_a_review_and_carries_no_remark() -> None:
    text = sample_abstract()
    assert text.startswith("Background:")
    assert "#" not in text
    assert 240 < len(text.split()) < 320


def test_demo_shows_summary_metrics_targets_and_loss_and_stops_what_it_started() -> None:
    port = free_port()
    serve = (
        "import uvicorn\nfrom serve_app.gateway import create_app\n"
        "from serve_app.limits import Traffic\nfrom serve_app.settings import load_settings\n"
        "from tests.servers import LightBackend\n"
        "app = create_app(LightBackend(), load_settings(), Traffic())\n"
        f"uvicorn.run(app, port={port})"
    )
    shown = StringIO()
    before = signal.getsignal(signal.SIGTERM)
    console = Console(file=shown, width=100)
    status = run_demo(command(serve), f"http://127.0.0.1:{port}", 60, console)
    text = shown.getvalue()
    assert status == 0, text
    summary = lead(sample_abstract())
    assert "Chronic obstructive pulmonary disease" in text
    assert "Summary by lead-2" in text
    for value in (*measure(sample_abstract(), summary).values, 0.8556, 0.4481, 14.966):
        assert f"{value:.4f}" in text
    assert "Loss" in text
    assert signal.getsignal(signal.SIGTERM) is before
    log = Path(re.search(r"its log: (\S+)\)", text)[1])  # type: ignore[index]
    assert not log.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_demo_that_fails_shows_the_servers_log() -> None:
    shown = StringIO()
    console = Console(file=shown, width=200)
    body = "print('no room [for] a model', flush=True); sys.exit(3)"
    status = run_demo(command(body), f"http://127.0.0.1:{free_port()}", 60, console)
    text = shown.getvalue()
    assert status == 1
    assert "the server ended with status 3" in text
    assert "no room [for] a model" in text
    log = Path(re.search(r"its log: (\S+)\)", text)[1])  # type: ignore[index]
    wait_for(lambda: gone(child_of(log)))


def test_demo_gives_up_on_a_server_that_never_gets_ready() -> None:
    shown = StringIO()
    url = f"http://127.0.0.1:{free_port()}"
    status = run_demo(command("time.sleep(600)"), url, 1, Console(file=shown, width=200))
    assert status == 1
    assert "not ready after 1 s" in shown.getvalue()


def test_a_server_that_will_not_stop_is_killed_with_its_group(tmp_path: Path) -> None:
    log = tmp_path / "log"
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\n"
    with running(command(body + "time.sleep(600)"), log, stop_timeout_s=0.3) as process:
        while "ready" not in log.read_text(encoding="utf-8"):
            time.sleep(0.02)
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: gone(child_of(log)))


def test_killing_the_demo_stops_the_server_too(tmp_path: Path) -> None:
    server = command("time.sleep(600)")
    code = (
        "from rich.console import Console\nfrom serve_app.demo import run_demo\n"
        f"run_demo({server!r}, 'http://127.0.0.1:{free_port()}', 600, Console(width=300))"
    )
    demo = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    log = Path(re.search(r"its log: (\S+)\)", demo.stdout.readline())[1])  # type: ignore[index]
    deadline = time.monotonic() + 30
    while not (log.exists() and "child" in log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.terminate()
    assert demo.wait(30) == 128 + signal.SIGTERM
    demo.stdout.close()
    wait_for(lambda: gone(child_of(log)))
