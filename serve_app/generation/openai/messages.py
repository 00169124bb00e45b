"""The chat messages that ask a remote model for a summary. Knows no tokenizer, no server.

A model on another machine tokenises there. Servers read a control token (`<|eot_id|>`) typed in a
text as the token itself, so the well-known spellings are broken up before a text is sent.
"""

from __future__ import annotations

import re

# Of the Llama, ChatML, Phi, Gemma, Mistral and Llama-2 families.
_CONTROL = re.compile(
    r"<\|[^\s|<>]{1,40}\|>"
    r"|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|<</?SYS>>"
)


def chat_messages(text: str, *, system_prompt: str, user_prefix: str) -> list[dict[str, str]]:
    """A system message, where there is a system prompt, and a user message.

    >>> chat_messages(" A text. ", system_prompt="", user_prefix="Summarise: ")
    [{'role': 'user', 'content': 'Summarise: A text.'}]
    """
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": user_prefix + disarm(text.strip())}]


def disarm(text: str) -> str:
    """`text` with a space after the first character of every control token in it.

    >>> disarm("p<0.05 <|eot_id|> a</s> x<|y")
    'p<0.05 < |eot_id|> a< /s> x<|y'
    """
    return _CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
