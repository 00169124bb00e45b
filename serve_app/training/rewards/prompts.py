"""Recovers texts from a trainer's arguments: completions, and the originals behind prompts.

Knows TRL's shapes (strings, or lists of messages) and the served generator's prompt; no metric and
no trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.core.errors import ConfigError
from serve_app.generation.prompts import chat_messages, plain_frame
from serve_app.generation.text_stream import final_text

ORIGINAL_COLUMNS = ("original", "source_text", "text")
"""Columns searched for the original, in this order, where none is named."""


def message_layouts(
    text: str, *, system_prompt: str, user_prefix: str
) -> list[list[dict[str, str]]]:
    """The possible messages of a chat prompt about `text`, likeliest first.

    A system and a user message; or for templates without a system role, one user message that
    begins with the system prompt.

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
    """The original inside `prompt`; None unless formatting it again reproduces `prompt`.

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
        prompts: as the trainer passes them.
        columns: its other arguments: a list for each column of the dataset, and objects.
        wanted: the column; None: the first of ORIGINAL_COLUMNS that exists, else the prompts.
        system_prompt, user_prefix: of the prompts.

    Raises:
        ConfigError: the column is missing or holds something other than text, or a prompt differs
            from the served generator's.
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
            raise ConfigError(f"column {named!r}: item {index} is not text but {kind}")
        raise ConfigError(
            f"prompt {index} is not SYSTEM_PROMPT and USER_PREFIX around a text, so its original "
            "is not known; put the originals into a column of the dataset and name it "
            "(original='source_text'), or give the prompts' own system_prompt and user_prefix"
        )
    return originals


def completion_text(completion: Any) -> str:
    """The completion's text, as the served generator would return it.

    Args:
        completion: a string, or messages, of which the last counts.

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
