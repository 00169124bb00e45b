"""`plainmed generate`: where the text comes from, and where the summary goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.cli.demo import free_port
from serve_app.core.resources import sample_abstract
from tests.support.command import plainmed, refused
from tests.support.servers import Answer, ScriptedServer, lead
from tests.support.texts import ORIGINALS


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
def test_the_best_candidate_for_the_public_is_chosen_here_and_on_a_server(url: str) -> None:
    """The first candidate of the server has a statistic; of here any may."""
    source = b"We saw 20 trials. Fewer people died (RR 0.5). No harms were seen."
    options = ("--n", 2, "--select", "loss", "--profile", "public", "--seed", 1, "--json")
    there = json.loads(plainmed("generate", "-", *options, "--url", url, stdin=source).stdout)
    here = json.loads(plainmed("generate", "-", *options, stdin=source).stdout)
    for answer in (there, here):
        assert answer["profile"] == "public"
        losses = [one["scores"]["loss"] for one in answer["candidates"]]
        assert losses == sorted(losses)
        assert set(answer["candidates"][0]["scores"]["terms"]) == {"plainness", "findings"}
    assert "RR" not in there["summary"]


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
    assert "omit --stream" in refused("generate", "-", "--json", "--stream", stdin=b"a")
    assert "--temperature" in refused("generate", "-", "--temperature", "3", stdin=b"a")
    assert "omit --n and" in refused("generate", "-", "--stream", "--n", "2", stdin=b"a")
    weights = ("--weights", "0.2,0.2,0.2,0.2,0.2")
    assert "add --select loss" in refused("generate", "-", *weights, stdin=b"a")
    assert "add --select loss" in refused("generate", "-", "--profile", "public", stdin=b"a")
    bad = ("--select", "loss", "--weights", "1,1,1,1,1")
    assert "sum to 1" in refused("generate", "-", *bad, stdin=b"a")


@pytest.mark.usefixtures("waits")
def test_no_server_is_one_line_that_says_where() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    said = refused("generate", "-", "--url", nowhere, stdin=b"text")
    assert said.startswith(f"error: cannot reach PlainMed at {nowhere}")
