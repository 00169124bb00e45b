"""The summary in what a model writes: reasoning left out, pieces that are never taken back."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.core.errors import PlainMedError
from serve_app.generation.text_stream import (
    TextStream,
    ends_in_reasoning,
    final_text,
    reasoning_of,
)

ANSWERS = [
    ("Pain fell.", "Pain fell.", ""),
    ("<think>They ask for less.</think>\n\nPain fell.", "Pain fell.", "They ask for less."),
    ("<THINK>a</Think>Pain fell.", "Pain fell.", "a"),
    ("<thinking>a</thinking> Pain fell.", "Pain fell.", "a"),
    ("<reasoning>a</reasoning>Pain fell.", "Pain fell.", "a"),
    ("[THINK]a[/THINK]Pain fell.", "Pain fell.", "a"),
    ("◁think▷a◁/think▷Pain fell.", "Pain fell.", "a"),
    ("<think></think>Pain<think>b</think> fell.", "Pain fell.", "b"),
    (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Pain.",
        "Pain.",
        "a<|end|><|start|>assistant",
    ),
    ("a, b</think>\nPain fell.", "Pain fell.", "a, b"),
    ("<think>a</think>Pain</think> fell.", "Pain fell.", "a"),
    ("<think>They ask for", "", "They ask for"),
    ("<think>", "", ""),
    ("The p value was <0.05 and [thin.", "The p value was <0.05 and [thin.", ""),
]


@pytest.mark.parametrize(("written", "summary", "reasoning"), ANSWERS)
def test_reasoning_is_no_part_of_the_summary_and_is_kept_apart(
    written: str, summary: str, reasoning: str
) -> None:
    assert final_text(written) == summary
    assert reasoning_of(written) == reasoning


def pieces(written: str, *, reasoning: bool = False) -> list[str]:
    """What a stream gives that receives one character after the other."""
    stream = TextStream(reasoning=reasoning)
    given = [stream.push(written[:at]) for at in range(1, len(written) + 1)]
    given.append(stream.end(written))
    assert "".join(given) == stream.text
    return [piece for piece in given if piece]


@pytest.mark.parametrize(
    ("written", "summary"), [one[:2] for one in ANSWERS if "a, b" not in one[0]]
)
def test_a_stream_gives_the_same_summary_and_never_a_character_of_reasoning(
    written: str, summary: str
) -> None:
    assert "".join(pieces(written)) == summary


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "thi", "nk>", " ", "Pain.", "[/"])))
def test_streamed_and_whole_agree_for_any_order_of_tags(parts: list[str]) -> None:
    written = "".join(parts)
    for reasoning in (False, True):
        with contextlib.suppress(PlainMedError):  # reasoning without its opening tag
            assert "".join(pieces(written, reasoning=reasoning)) == final_text(written, reasoning)


def test_a_prompt_that_opens_the_reasoning_is_noticed_and_nothing_is_given_before_its_end() -> None:
    assert ends_in_reasoning("<|assistant|>\n<think>\n")
    assert not ends_in_reasoning("<|assistant|>\n<think>\n\n</think>\n\n")
    assert not ends_in_reasoning("<|assistant|>\n")
    assert pieces("They ask.</think> Pain fell.", reasoning=True)[0] == "P"
    assert final_text("They ask for", True) == ""


def test_reasoning_that_was_streamed_as_a_summary_is_an_error_in_the_end() -> None:
    stream = TextStream()
    stream.push("They ask.")
    with pytest.raises(PlainMedError, match="opening tag") as caught:
        stream.end("They ask.</think> Pain fell.")
    assert caught.value.code == "generation_failed"
