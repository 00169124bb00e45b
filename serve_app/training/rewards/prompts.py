"""From what a trainer hands to a reward to texts: completions, and the originals behind prompts.

Knows the shapes TRL uses (plain strings, or lists of messages) and the prompt that the served
generator writes; knows no metric and no trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.core.errors import ConfigError
from serve_app.generation.causal.prompts import plain_frame
from serve_app.generation.detokenizer import final_text
from serve_app.generation.openai.messages import chat_messages

ORIGINAL_COLUMNS = ("original", "source_text", "text")
"""Columns that hold the original where none is named, in this order."""


def message_layouts(
    text: str, *, system_prompt: str, user_prefix: str
) -> list[list[dict[str, str]]]:
    """The messages a chat prompt about `text` may be, likeliest first.

    A system and a user message; for templates without a system role, one user message with the
    system prompt at its head.

    >>> message_layouts("A.", system_prompt="Be plain.", user_prefix="")[1]
    [{'role': 'user', 'content': 'Be plain.\\n\\nA.'}]
    """
    folded, _ = plain_frame(system_prompt, user_prefix)
    layouts = [
        chat_messages(text, system_prompt=system_prompt, user_prefix=user_prefix),
        chat_messages(text, system_prompt="", user_prefix=folded),
    ]
    return layouts[:1] if layouts[0] == layouts[1] else layouts


def original_of(prompt: Any, *, system_prompt: str, user_prefix: str) -> str | None:
    """The original that `prompt` was written about; None unless writing it again gives `prompt`.

    >>> original_of("Sum up: A text.\\n\\n", system_prompt="", user_prefix="Sum up: ")
    'A text.'
    """
    before, after = plain_frame(system_prompt, user_prefix)
    if isinstance(prompt, str):
        text = prompt.removeprefix(before).removesuffix(after)
        return text if text.strip() and f"{before}{text.strip()}{after}" == prompt else None
    messages = [{"role": one.get("role"), "content": one.get("content")} for one in prompt]
    content = messages[-1]["content"] if messages else None
    if not isinstance(content, str):
        return None
    for prefix in dict.fromkeys((user_prefix, before)):
        text = content.removeprefix(prefix)
        if text.strip() and messages in message_layouts(
            text, system_prompt=system_prompt, user_prefix=user_prefix
        ):
            return text
    return None


def originals_of(
    prompts: Sequence[Any],
    columns: Mapping[str, Any],
    wanted: str | None,
    *,
    system_prompt: str,
    user_prefix: str,
) -> list[str]:
    """The original of each completion: from a column, else from its prompt.

    Args:
        prompts: as the trainer gives them.
        columns: what else it gives: a list for each column of the dataset, and objects.
        wanted: the column; None: the first of ORIGINAL_COLUMNS that is there, else the prompts.
        system_prompt: of the prompts.
        user_prefix: of the prompts.

    Raises:
        ConfigError: there is no such column, it holds something that is no text, or a prompt is
            not one that the served generator would write.
    """
    named = wanted or next((name for name in ORIGINAL_COLUMNS if name in columns), None)
    if named is not None:
        found = columns.get(named)
        if not isinstance(found, Sequence) or isinstance(found, str):
            there = ", ".join(name for name, value in columns.items() if isinstance(value, list))
            raise ConfigError(
                f"the reward needs the originals in the column {named!r}; the dataset has: "
                f"{there or 'no columns besides the prompt'}"
            )
        originals = list(found)
    else:
        originals = [
            original_of(prompt, system_prompt=system_prompt, user_prefix=user_prefix)
            for prompt in prompts
        ]
    for index, original in enumerate(originals):
        if isinstance(original, str):
            continue
        if named is not None:
            kind = type(original).__name__
            raise ConfigError(f"column {named!r}: item {index} is no text but {kind}")
        raise ConfigError(
            f"prompt {index} is not SYSTEM_PROMPT and USER_PREFIX around a text, so its original "
            "is not known; put the originals into a column of the dataset and name it "
            "(original='source_text'), or give the prompts' own system_prompt and user_prefix"
        )
    return originals


def completion_text(completion: Any) -> str:
    """What the model wrote, as the served generator would give it out.

    Args:
        completion: a string, or messages, of which the last is taken.

    Raises:
        ConfigError: it is neither.

    >>> completion_text([{"role": "assistant", "content": " Plain words.\\n"}])
    'Plain words.'
    """
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        completion = completion[-1].get("content") if completion else ""
    if not isinstance(completion, str):
        raise ConfigError(
            "a completion is neither text nor messages with text; the reward scores text alone"
        )
    return final_text(completion)
