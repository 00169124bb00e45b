"""Readability against the installed textstat 0.7.4, which is a test-time reference only."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.errors import InvalidInput
from serve_app.metrics.readability import (
    ReadabilityCounts,
    readability,
    readability_batch,
)
from serve_app.text.validation import has_word

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from textstat import textstat as reference

ABSTRACT = (
    "Background: Hypertension (blood pressure of 140/90 mmHg or more) affects about 1.13 billion "
    "adults worldwide; many don't know it. Objectives: To assess the effects of low-dose "
    "thiazide diuretics versus placebo.\nMethods: We searched CENTRAL, MEDLINE and Embase up to "
    "3 March 2019. Results: Eleven randomised controlled trials (n = 5,411; mean age 61.3 years) "
    "were included. Mortality fell (RR 0.89, 95% CI 0.80 to 0.99; P = 0.03)! Was it the dose? "
    "Nobody knows... The certainty of the evidence was low-to-moderate."
)

# Chosen so that each rule decides at least one of them.
HAND_WRITTEN = [
    ABSTRACT,
    "The cat sat on the mat.",
    "Cat.",
    "a",
    "7",
    "One two. Three four. Five six.",
    "One two three. Four five six. Seven eight nine.",
    "One two three! Four five six? Seven eight nine",
    "No terminator here at all\nand a second line\n\nand a third",
    "The mean was 3.5 mg per day (range 1.5 to 12.25 mg) in the U.S.A. and the U.K. as well.",
    "well-being, follow-up and double-blind: three hyphenated words",
    "It's the patient's choice, isn't it? They'd say 'yes', or ‘no’, wouldn't they?",
    "“Quoted text” — with dashes – and ellipsis… and so on. Another one follows it.",
    "p=0.05 and n=12 = = =",
    "... !!! ??? Then some words follow here. (And more in brackets.) [1] [2]",
    "electroencephalographically immunohistochemistry otorhinolaryngologist pneumonoultra",
    "go go go go go go go go go go",
    "Anaemia anaemia ANAEMIA Anæmia anæmia. The same word again and again, in one sentence.",
    "İstanbul'da İ İİ sigara içmek. ΑΣ ΟΔΟΣ ς. Straße STRASSE groß ﬁne ﬂow ﬀ.",
    "这是 一个 测试。 Это предложение. هذا نص. भाषा",
    "tabs\tand\u00a0no-break\u2003spaces\u2028lines\x1cfile\x0bvertical\x85next",
    "snake_case __init__ _ x_1 and e-mail@example.org http://example.org/a?b=c",
    "x" * 300 + " " + "pneumono" * 40 + ". Three more words.",
    "Very easy. I am. We go on. He is up. It is so. To be or not to be.",
    "𝒳 ² ½ Ⅷ ① ª º µ",
    "soft\u00adhyphen zero\u200bwidth joiner\u200d here combining e\u0301 o\u0308",
    " 1. Is it? 2. It is. 3. So it goes on.",
]


def expected(text: str) -> tuple[float, float, float]:
    return (
        reference.flesch_kincaid_grade(text),
        reference.smog_index(text),
        reference.dale_chall_readability_score(text),
    )


def assert_equals_reference(text: str) -> None:
    result = readability(text)
    assert (result.fkgl, result.smog, result.dale_chall) == expected(text)
    assert result.sentences == reference.sentence_count(text)
    assert result.words == reference.lexicon_count(text)
    assert result.syllables == reference.syllable_count(text)
    listed = reference.difficult_words_list(text, 0)
    assert {found.word for found in result.difficult_words} == set(listed)
    assert result.distinct_difficult == len(listed)


def test_the_reference_is_the_version_we_promise() -> None:
    assert importlib.metadata.version("textstat") == "0.7.4"


def test_the_library_does_not_import_the_reference() -> None:
    code = (
        "import sys, serve_app.metrics.readability as r; r.readability('a word'); "
        "print(sorted({'textstat', 'pkg_resources', 'nltk', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("text", HAND_WRITTEN, ids=range(len(HAND_WRITTEN)))
def test_hand_written_text_scores_as_the_reference(text: str) -> None:
    assert_equals_reference(text)


def test_all_1200_published_values_are_reproduced(shared_data: Path) -> None:
    lines = (shared_data / "reference_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    got = [
        value
        for result in readability_batch([row["generated"] for row in rows])
        for value in (result.fkgl, result.smog, result.dale_chall)
    ]
    assert len(got) == 1200
    assert got == [row[name] for row in rows for name in ("fkgl", "smog", "dale_chall")]


def test_originals_of_the_published_values_score_as_the_reference(shared_data: Path) -> None:
    lines = (shared_data / "reference_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[:200:4]:
        assert_equals_reference(json.loads(line)["original"])


PHRASES = [
    "the a trial randomised placebo-controlled it's can't women’s ‘so’ p=0.05 95% (n=12) 3.5 mg",
    "U.K. e.g. well-being hypertension İzmir Σίσυφος ΟΔΟΣ naïve β-blocker _x_ -- … ! ? . ...",
    "Results: go go go immunohistochemistry word.Another end.) '",
]
WORDS = st.sampled_from([word for phrase in PHRASES for word in phrase.split()])
GAPS = st.sampled_from(["", " ", " ", ". ", "\n", "\u00a0", "\x1c", "\u2028"])
WORD_SALAD = st.lists(st.tuples(WORDS, GAPS)).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)
# No surrogates: require_text rejects them before any counting.
ARBITRARY = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
DENSE = st.text("aeiou bcd.!?'‘’=-_\n\u0130\u03a3\u0307 ", max_size=80)
TEXTS = st.one_of(WORD_SALAD, ARBITRARY, DENSE)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(TEXTS.filter(has_word))
def test_any_text_scores_as_the_reference(text: str) -> None:
    assert_equals_reference(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXTS.filter(has_word))
def test_difficult_words_lie_where_they_say(text: str) -> None:
    previous_end = 0
    for found in readability(text).difficult_words:
        assert previous_end <= found.start < found.end <= len(text)
        # Not plain equality: İ lower-cases to two characters, the second of which is no word,
        # and a sigma's lower case depends on what follows it.
        written = text[found.start : found.end].lower().replace("ς", "σ")
        assert written.startswith(found.word.replace("ς", "σ"))
        previous_end = found.end


def test_difficult_words_are_listed_at_each_occurrence_and_counted_once() -> None:
    text = "Aspirin is good. She took aspirin, ASPIRIN and 12 of those."
    result = readability(text)
    assert [(found.word, text[found.start : found.end]) for found in result.difficult_words] == [
        ("aspirin", "Aspirin"),
        ("aspirin", "aspirin"),
        ("aspirin", "ASPIRIN"),
        ("12", "12"),
    ]
    assert result.distinct_difficult == 2


def test_offsets_survive_a_character_that_grows_when_lower_cased() -> None:
    text = "İİ and aspirin"
    assert [text[f.start : f.end] for f in readability(text).difficult_words][-1] == "aspirin"


def test_smog_is_zero_below_three_sentences_and_positive_from_three() -> None:
    assert readability("One two three. Four five six. Seven eight.").smog == 0.0
    assert readability("One two three. Four five six. Seven eight nine.").smog == 3.1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_counts_of_joined_texts_are_the_sum_of_their_counts(texts: list[str]) -> None:
    joined = ReadabilityCounts.of(" ".join(texts))
    assert ReadabilityCounts.total(map(ReadabilityCounts.of, texts)) == joined


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXTS, TEXTS, TEXTS)
def test_adding_counts_is_associative_with_the_empty_text_as_zero(a: str, b: str, c: str) -> None:
    x, y, z = map(ReadabilityCounts.of, (a, b, c))
    assert (x + y) + z == x + (y + z)
    assert x + ReadabilityCounts() == x == ReadabilityCounts() + x


def test_a_subset_of_sentences_scores_as_the_text_it_makes() -> None:
    sentences = ["Background", *ABSTRACT.split(". ")]
    for subset in (sentences[:2], sentences[1::2], sentences[::-1]):
        scores = ReadabilityCounts.total(map(ReadabilityCounts.of, subset)).scores()
        assert tuple(scores) == expected(" ".join(subset))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty_text"),
        (" \n\t ", "empty_text"),
        ("... — !", "no_words"),
        ("_", "no_words"),
        ("a lone \ud800 surrogate", "invalid_unicode"),
    ],
)
def test_a_text_that_cannot_be_scored_is_an_error_naming_its_field(text: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        readability(text)
    assert (caught.value.code, caught.value.field) == (code, "texts")
    with pytest.raises(InvalidInput) as caught:
        readability_batch(["fine text", text])
    assert (caught.value.code, caught.value.field) == (code, "texts[1]")


def test_counts_of_nothing_have_no_scores() -> None:
    with pytest.raises(InvalidInput) as caught:
        ReadabilityCounts().scores()
    assert caught.value.code == "no_words"


@pytest.fixture
def eager_thread_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_thread_switches")
def test_threads_scoring_at_once_agree_with_one_thread() -> None:
    # Fresh words in every text, so that the threads meet in the uncached path.
    texts = [
        f"{ABSTRACT} {text} nephro{i}pathy hepato{i}cellular"
        for i in range(20)
        for text in HAND_WRITTEN[:8]
    ]
    alone = [expected(text) for text in texts]
    start = threading.Barrier(8)

    def score_all(offset: int) -> list[tuple[float, float, float]]:
        start.wait()
        order = texts[offset:] + texts[:offset]
        got = [(r.fkgl, r.smog, r.dale_chall) for r in map(readability, order)]
        return got[len(texts) - offset :] + got[: len(texts) - offset]

    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(score_all, range(0, 160, 20)):
            assert got == alone


def test_a_long_text_without_spaces_or_stops_is_linear_time() -> None:
    result = readability("a" * 200_000)
    assert (result.words, result.sentences) == (1, 1)
    assert readability("!a" * 50_000).sentences == 1
