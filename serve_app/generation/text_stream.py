"""What a language model has written, as summary text: without its reasoning, in safe pieces.

Knows the tags that reasoning models put around their thoughts; knows no model and no server.
"""

from __future__ import annotations

import re

from serve_app.core.errors import PlainMedError

# DeepSeek, Qwen and others; Mistral; Kimi; gpt-oss (its channels). Compared without case.
_OPEN = (
    "<think>",
    "<thinking>",
    "<thought>",
    "<thoughts>",
    "<reasoning>",
    "<|begin_of_thought|>",
    "[think]",
    "◁think▷",
    "<|channel|>analysis<|message|>",
    "<|channel|>commentary<|message|>",
)
_CLOSE = (
    "</think>",
    "</thinking>",
    "</thought>",
    "</thoughts>",
    "</reasoning>",
    "<|end_of_thought|>",
    "[/think]",
    "◁/think▷",
    "<|channel|>final<|message|>",
)
_TAG = re.compile("|".join(map(re.escape, (*_OPEN, *_CLOSE))), re.IGNORECASE)
_LONGEST = max(map(len, (*_OPEN, *_CLOSE)))
TAG_TOKEN = re.compile(rf"{_TAG.pattern}|<\|channel\|>|<\|message\|>", re.IGNORECASE)
"""A token that is such a tag, or a part of one."""


class TextStream:
    """Gives out the summary in what a model has written so far, as soon as it is certain.

    Held back are reasoning, an unfinished character (its bytes may span several tokens), what may
    become a tag of reasoning, and white space that may turn out to be trailing. The pieces joined
    are `text`.

    Args:
        reasoning: whether the model begins in its reasoning, whose opening tag the prompt has.
    """

    def __init__(self, *, reasoning: bool = False) -> None:
        self.text = ""
        """What was given out so far."""
        self._reasoning = reasoning

    def push(self, written: str) -> str:
        """Takes the whole text written so far; returns what became certain, often empty."""
        start = max(0, len(written) - _LONGEST)
        for at in range(start, len(written)):
            tail = written[at:].lower()
            if any(tag.startswith(tail) for tag in (*_OPEN, *_CLOSE) if tag != tail):
                return self._give(written[:at])
        return self._give(written)

    def end(self, written: str, *, reasoning: bool | None = None) -> str:
        """Takes the finished text; returns the rest of the summary.

        Args:
            written: the whole text.
            reasoning: corrects the class's argument, where the end shows more.

        Raises:
            PlainMedError: `generation_failed`: what was given out turned out to be reasoning.
        """
        if self.text and not self._reasoning and begins_in_reasoning(written):
            raise PlainMedError(
                "the model's reasoning has no opening tag, so it was streamed as a summary; try "
                "again, or let the server separate it (vLLM: --reasoning-parser)",
                code="generation_failed",
            )
        self._reasoning = self._reasoning if reasoning is None else reasoning
        return self._give(written)

    def _give(self, written: str) -> str:
        certain = final_text(written, self._reasoning)
        # A tokenizer whose decoding is not prefix-stable waits until it agrees with itself.
        if not certain.startswith(self.text):
            return ""
        piece = certain[len(self.text) :]
        self.text = certain
        return piece


def final_text(written: str, reasoning: bool = False) -> str:
    """The summary in `written`, without reasoning, surrounding space and an unfinished character.

    >>> final_text("<think>The reader is a patient.</think> Pain fell. ")
    'Pain fell.'

    Args:
        written: what the model wrote.
        reasoning: whether it begins in its reasoning, whose opening tag the prompt has.
    """
    return _parts(written, reasoning)[0].rstrip("\ufffd").strip()


def reasoning_of(written: str, reasoning: bool = False) -> str:
    """The reasoning in `written`; arguments as those of `final_text`."""
    return _parts(written, reasoning)[1].strip()


def begins_in_reasoning(written: str) -> bool:
    """Whether the first tag closes reasoning whose opening tag the model did not write."""
    tag = _TAG.search(written)
    return tag is not None and tag[0].lower() in _CLOSE


def ends_in_reasoning(text: str) -> bool:
    """Whether a text, such as a prompt, leaves a tag of reasoning open."""
    tags = _TAG.findall(text)
    return bool(tags) and tags[-1].lower() in _OPEN


def _parts(written: str, reasoning: bool) -> tuple[str, str]:
    summary, thoughts = "", ""
    last, tagged = 0, reasoning
    for tag in _TAG.finditer(written):
        piece, last = written[last : tag.start()], tag.end()
        closes = tag[0].lower() in _CLOSE
        if reasoning or (closes and not tagged):
            # A closing tag alone: the opening one was in a prompt that we have not seen.
            thoughts += summary + piece if not tagged else piece
            summary = summary if tagged else ""
        else:
            summary += piece
        reasoning, tagged = not closes, True
    if reasoning:
        return summary, thoughts + written[last:]
    return summary + written[last:], thoughts
