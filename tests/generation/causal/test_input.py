"""Long and bad input of the transformers engine: refused with the limit, or read in windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.core.errors import InvalidInput
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams
from tests.generation.causal.engines import GREEDY, TEXTS, engine
from tests.support.tiny_models import make_tokenizer


def test_input_over_the_context_is_refused_with_the_limit(plain: TransformersGenerator) -> None:
    text = " ".join(TEXTS) * 6
    with pytest.raises(InvalidInput) as caught:
        plain.generate([text], [GREEDY])
    error = caught.value
    tokens = len(make_tokenizer()(text)["input_ids"])
    assert (error.code, error.status, error.field) == ("input_too_long", 422, "text")
    assert f"{tokens} tokens" in error.message
    assert "256" in error.message
    with pytest.raises(InvalidInput) as again:
        plain.stream(text, GREEDY)  # at the call, before anything is streamed
    assert again.value.message == error.message
    with pytest.raises(InvalidInput):
        plain.validate(text, GREEDY)


def test_the_limit_counts_the_new_tokens_to_the_token(plain: TransformersGenerator) -> None:
    used = len(plain._prompter.encode(TEXTS[0]))
    fits = GenerationParams(max_new_tokens=256 - used, temperature=0.0)
    assert plain.generate(TEXTS[:1], [fits])[0].prompt_tokens == used
    with pytest.raises(InvalidInput, match="context of 256"):
        plain.validate(TEXTS[0], GenerationParams(max_new_tokens=257 - used))
    with pytest.raises(InvalidInput, match="lower max_new_tokens") as caught:
        plain.validate(TEXTS[0], GenerationParams(max_new_tokens=256))
    assert caught.value.field == "max_new_tokens"


def test_windows_summarise_all_of_a_long_text(folder: Path) -> None:
    subject = engine(folder / "plain", long_input="window")
    text = " ".join(TEXTS[:4]) + " " + " ".join(TEXTS[:4])
    params = GenerationParams(max_new_tokens=96, temperature=0.8, seed=9)
    with pytest.raises(InvalidInput):
        engine(folder / "plain").validate(text, params)
    rows = subject._plan(text, params)
    assert 2 <= len(rows) <= 3
    assert all(len(row.prompt) + row.max_new_tokens <= 256 for row in rows)
    summary = subject.generate([text], [params])[0]
    assert summary.text.count("\n\n") >= len(rows) - 1
    assert not summary.truncated
    assert summary.completion_tokens <= 96
    assert summary.prompt_tokens == sum(len(row.prompt) for row in rows)
    *pieces, last = subject.stream(text, params)
    assert last == summary
    assert "".join(map(str, pieces)) == summary.text
    # Among other texts nothing changes.
    assert subject.generate([TEXTS[0], text], [GREEDY, params])[1] == summary


def test_too_many_windows_for_the_summary_are_refused(folder: Path) -> None:
    subject = engine(folder / "plain", long_input="window")
    with pytest.raises(InvalidInput, match="windows") as caught:
        subject.validate(" ".join(TEXTS) * 6, GenerationParams(max_new_tokens=64))
    assert caught.value.code == "input_too_long"


@pytest.mark.parametrize("text", ["", "  \n", "...", "\ud800 pain"])
def test_a_text_that_cannot_be_summarised_is_refused(
    plain: TransformersGenerator, text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plain.generate([text], [GREEDY])
    assert caught.value.field == "text"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 2.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", float("inf")),
        ("seed", -1),
        ("seed", 2**63),
        ("variant", -1),
    ],
)
def test_a_parameter_out_of_range_is_named(
    plain: TransformersGenerator, name: str, value: float
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plain.validate("Pain.", GenerationParams(**{name: value}))  # type: ignore[arg-type]
    assert caught.value.field == name


def test_no_texts_are_no_summaries(plain: TransformersGenerator) -> None:
    assert plain.generate([], []) == []
    with pytest.raises(ValueError, match="2 texts but 1 params"):
        plain.generate(TEXTS[:2], [GREEDY])
