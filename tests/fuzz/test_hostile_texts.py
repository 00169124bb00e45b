"""Any text gives finite numbers in range or an error of ours, the same each time, alone or not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serve_app.core.errors import InvalidInput
from serve_app.metrics.readability import readability
from tests.fuzz.tables import LEAST_S, LENGTH, LONGEST, MOST_GROWTH
from tests.fuzz.texts import READERS, TEXTS, Models, answer, enough, growth

ALPHABET = st.one_of(
    st.characters(),  # of any kind, lone surrogates among them
    st.characters(categories=["Cs", "Cc", "Cf", "Mn", "Zs", "Zl", "Zp", "Po", "Lo"]),
    st.sampled_from(".?!,;:()[]\"'-_ \t\n\r\x0b\x0c\x1c\x1e\x85\u2028\u200d\ufeff\u0130ßﬁ"),
    st.sampled_from("abcxyzABC0159"),
)
UNITS = st.sampled_from(
    ["hypertension", "RCT", "Dr.", "e.g.", "e.g. ", "95% CI 0.7", "Methods:", "\r\n", "\u0301" * 9]
)
HOSTILE = st.one_of(
    st.text(ALPHABET, max_size=120),
    st.lists(UNITS | st.text(ALPHABET, max_size=8), max_size=30).map("".join),
)
LONGEST_S = 20
"""Processor time for what takes a tenth of a second: a slow machine passes, a pattern that looks at
all pairs of characters does not."""

FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=50)
@given(text=HOSTILE)
@example(text="a\ud800b")
@example(text="\ud83d\ude00 is half a face each")
def test_any_text_has_finite_numbers_or_is_refused(name: str, text: str) -> None:
    assert answer(READERS[name], text) == answer(READERS[name], text)


@pytest.mark.parametrize("name", READERS)
def test_texts_that_break_programs_do_not_break_these(name: str) -> None:
    started = time.process_time()
    for label, make in TEXTS.items():
        found = answer(READERS[name], make(3000))
        assert isinstance(found, list) or found == "no_words", label
    assert time.process_time() - started < LONGEST_S


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sentences", "full stops with spaces"),
        ("readability", "one number"),
        ("glossary", "articles"),
        ("passages", "spaces after a heading"),
        ("explanation", "terms"),
        ("findings", "plain prose"),
        ("report marking", "words"),
    ],
)
def test_twice_the_text_takes_about_twice_the_time(name: str, label: str) -> None:
    reader, make = READERS[name], TEXTS[label]
    length = enough(reader, make, LENGTH // 8, LEAST_S, LONGEST)
    ratios = (growth(reader, make, length)[1] for _ in range(3))  # a busy machine may spoil one
    assert any(ratio < MOST_GROWTH for ratio in ratios)


@pytest.mark.parametrize("name", ["readability", "explanation", "prompt", "windows"])
def test_punctuation_alone_is_refused(name: str) -> None:
    assert answer(READERS[name], TEXTS["only punctuation"](100)) == "no_words"


def test_the_models_refuse_punctuation_alone(models: Models) -> None:
    for name, reader in models.readers().items():
        assert answer(reader, TEXTS["only punctuation"](100)) == "no_words", name


@pytest.fixture(scope="module")
def models(one_thread: None, tiny_suite: Any) -> Models:
    return Models(tiny_suite)


@pytest.mark.parametrize("name", ["relevance", "factuality, as summary", "factuality, as original"])
@settings(max_examples=10, suppress_health_check=FIXTURE)
@given(text=HOSTILE)
def test_the_models_give_finite_numbers_or_refuse(name: str, text: str, models: Models) -> None:
    reader = models.readers()[name]
    assert answer(reader, text) == answer(reader, text)


@settings(max_examples=8, suppress_health_check=FIXTURE)
@given(text=HOSTILE)
def test_the_loss_and_the_summary_are_finite_or_refused(text: str, models: Models) -> None:
    readers = models.readers()
    for name in ("loss", "extractive summary"):
        answer(readers[name], text)


@pytest.mark.parametrize("label", TEXTS)
def test_texts_that_break_programs_do_not_break_the_models(label: str, models: Models) -> None:
    text = TEXTS[label](120)
    for name, reader in models.readers().items():
        found = answer(reader, text)
        assert isinstance(found, list) or found == "no_words", name


def test_a_batch_of_hostile_texts_measures_as_each_alone(models: Models, tiny_suite: Any) -> None:
    texts = [text for make in TEXTS.values() if usable(text := make(80))]
    original = "Pain fell. It did not come back."
    relevance = tiny_suite.relevance.score([original] * len(texts), texts)
    factuality = tiny_suite.factuality.score([original] * len(texts), texts)
    for text, one, other in zip(texts, relevance, factuality, strict=True):
        (alone,) = tiny_suite.relevance.score([original], [text])
        assert one.f1 == pytest.approx(alone.f1, abs=1e-5)
        (alone,) = tiny_suite.factuality.score([original], [text])
        assert other.score == pytest.approx(alone.score, abs=1e-5)


def usable(text: str) -> bool:
    try:
        readability(text)
    except InvalidInput:
        return False
    return True


def test_a_pair_that_would_take_hours_is_refused_before_it_is_compared(tiny_suite: Any) -> None:
    scorer = tiny_suite.factuality
    before, scorer.max_pairs = scorer.max_pairs, 50
    try:
        with pytest.raises(InvalidInput, match="ALIGNSCORE_MAX_PAIRS") as caught:
            scorer.score(["Pain fell. "] * 2, ["Yes it did. ", "So it did. " * 51])
        assert caught.value.field == "texts_generated[1]"
        assert scorer.score(["Pain fell."], ["So it did. " * 50])
    finally:
        scorer.max_pairs = before


def test_more_pairs_than_are_held_at_once_score_the_same(
    tiny_suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, claim = "Pain fell. It rose again. " * 40, "Pain fell. Nobody knew. It rose."
    whole = tiny_suite.factuality.score([original], [claim])
    monkeypatch.setattr("serve_app.metrics.alignscore._PAIRS_IN_MEMORY", 2)
    (parts,) = tiny_suite.factuality.score([original], [claim])
    assert parts.score == pytest.approx(whole[0].score, abs=1e-6)
    assert [one.chunk_index for one in parts.sentences] == [
        one.chunk_index for one in whole[0].sentences
    ]


def test_a_heading_and_a_hundred_thousand_blanks_take_no_time() -> None:
    """With two runs of blanks side by side in its pattern, this took minutes."""
    text = "Methods" + " " * 100_000 + "x."
    started = time.process_time()
    assert answer(READERS["passages"], text) == [1.0]
    assert time.process_time() - started < LONGEST_S
