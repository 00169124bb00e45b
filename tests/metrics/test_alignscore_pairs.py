"""Pairs are joined and cut as the tokenizer would, and sentences end where NLTK ends them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from serve_app.core.errors import ConfigError
from serve_app.metrics.pair_tokens import PairEncoder, fit_pair
from serve_app.text.sentences import sentence_spans, split_sentences
from tests.support.paths import ALIGNSCORE


def as_published(tokenizer: Any, first: str, second: str, limit: int) -> Any:
    """The published tokenisation of a batch of one pair, fallback included."""
    try:
        return tokenizer(first, second, truncation="only_first", max_length=limit)
    except Exception as error:  # the backend's error has no class of its own
        if "too short" not in str(error):
            raise
        return tokenizer(first, second, truncation=True, max_length=limit)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("limit", [20, 21, 64])
def test_pairs_are_cut_as_the_tokenizer_cuts_them(kind: str, limit: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ALIGNSCORE / f"tiny-{kind}")
    encoder = PairEncoder(tokenizer, limit, with_types=kind == "bert")
    rng = random.Random(limit)
    for _ in range(120):
        first, second = (
            " ".join(rng.choices(["pain", "at", "12", "weeks,", "(RR", "é"], k=rng.randint(1, 40)))
            for _ in range(2)
        )
        ids = encoder.encode([first, second])
        pair, cut = encoder.join(*ids)
        expected = as_published(tokenizer, first, second, limit)
        assert list(pair.input_ids) == expected["input_ids"]
        assert cut == (len(tokenizer(first, second)["input_ids"]) > limit)
        if kind == "bert":
            assert list(pair.token_type_ids or ()) == expected["token_type_ids"]
        else:
            assert pair.token_type_ids is None


def test_a_pair_keeps_a_token_of_the_first_text_while_it_can() -> None:
    assert fit_pair(30, 16, 17) == (1, 16)
    assert fit_pair(30, 17, 17) == (9, 8)
    assert fit_pair(17, 30, 17) == (8, 9)
    assert fit_pair(1, 17, 17) == (1, 16)


def test_a_pair_never_exceeds_the_room() -> None:
    for first in range(25):
        for second in range(25):
            kept = fit_pair(first, second, 11)
            assert sum(kept) == min(first + second, 11)
            assert kept[0] <= first
            assert kept[1] <= second


def test_the_tokenizer_given_is_left_as_it_was() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ALIGNSCORE / "tiny-bert")
    tokenizer("a", "b", truncation=True, max_length=7, padding="max_length")
    before = tokenizer.backend_tokenizer.truncation
    long = PairEncoder(tokenizer, 512, with_types=True).encode(["pain " * 300])[0]
    assert len(long) >= 300
    assert tokenizer.backend_tokenizer.truncation == before


def test_a_limit_without_room_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ALIGNSCORE / "tiny-bert")
    with pytest.raises(ConfigError, match="no room"):
        PairEncoder(tokenizer, 4, with_types=True)


# Each right side is what nltk.sent_tokenize 3.10 gives with its punkt_tab data.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("  One.", ["  One."]),
        ("It worked!!!", ["It worked!!", "!"]),
        ("Wait . . . what?", ["Wait .", ".", ".", "what?"]),
        ("See No. 5. Done.", ["See No.", "5.", "Done."]),
        ("Dr. A. Lee left. He ran.", ["Dr. A. Lee left.", "He ran."]),
        ("In the U.S. The dose rose.", ["In the U.S.", "The dose rose."]),
        ("(It hurt.) Then it stopped.", ["(It hurt.)", "Then it stopped."]),
        ("\u201cYes.\u201d She left.", ["\u201cYes.\u201d", "She left."]),
        ("Risk fell by 3.5 mmHg. p < 0.05.", ["Risk fell by 3.5 mmHg.", "p < 0.05."]),
        ("BACKGROUND\n\nNo mark here\nAnd none", ["BACKGROUND\n\nNo mark here\nAnd none"]),
        ("End.Next sentence.", ["End.Next sentence."]),
    ],
)
def test_sentences_end_where_nltk_ends_them(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_spans_are_in_order_and_lose_only_white_space(shared_data: Path) -> None:
    text = (shared_data / "cochrane_pls.csv").read_text(encoding="utf-8")[:200_000]
    end = 0
    for start, stop in sentence_spans(text):
        assert start >= end
        assert not text[end:start].strip()
        end = stop
    assert not text[end:].strip()
