"""The prompt around a text, as token ids or chat messages. Knows tokenizers; no model, no server.

The text is data: whatever a user types, no control token (`<|eot_id|>`, `</s>`) of the prompt comes
from it.
"""

from __future__ import annotations

import re
import resource
import sys
import threading
import time
import uuid
from itertools import pairwise
from typing import Any

import jinja2

from serve_app.core.errors import ConfigError
from serve_app.generation.text_stream import TAG_TOKEN, ends_in_reasoning

# Control tokens of the Llama, ChatML, Phi, Gemma, Mistral and Llama-2 families.
_CONTROL = re.compile(
    r"<\|[^\s|<>]{1,40}\|>"
    r"|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|<</?SYS>>"
)


TEMPLATE_S = 5.0
"""Processor time that a chat template may take to render one prompt."""

TEMPLATE_MIB = 512
"""Memory that it may take."""


class Prompter:
    """Wraps texts in one fixed prompt.

    With a chat template: a system and a user message, the latter `user_prefix` + text; a
    template without a system role gets the system prompt at the head of the user message.
    Without one: `system_prompt`, a blank line, `user_prefix`, the text, a blank line.

    Args:
        tokenizer: a transformers tokenizer; used under a lock, since fast tokenizers keep
            truncation and splitting settings that concurrent calls would mix up.
        system_prompt: may be empty.
        user_prefix: may be empty.

    Raises:
        ConfigError: the chat template cannot render one user message.
    """

    def __init__(self, tokenizer: Any, *, system_prompt: str, user_prefix: str) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._is_chat = bool(getattr(tokenizer, "chat_template", None))
        if self._is_chat:
            self._before, self._after = _render_chat(tokenizer, system_prompt, user_prefix)
        else:
            self._before, self._after = plain_frame(system_prompt, user_prefix)
        self._control_ids = _control_ids(tokenizer)
        self._control_texts = _control_texts(tokenizer, self._control_ids)
        self._frame = self._encode(self._before + self._after, first=True)
        self.overhead = len(self._frame)
        """Tokens the prompt takes around the text."""
        self.reasons = ends_in_reasoning(self._after)
        """Whether the prompt opens the model's reasoning, so that its output begins with it."""
        added = tokenizer.added_tokens_decoder.items()
        self._tags = {i: one.content for i, one in added if TAG_TOKEN.fullmatch(one.content)}

    def encode(self, text: str) -> list[int]:
        """The token ids of the whole prompt around `text`.

        Tokens are those of the prompt written as one string, unless that string holds more
        control tokens than the prompt itself: then the text is encoded in pieces that cut
        each of them in two.
        """
        text = text.strip()
        whole = self._encode(self._before + text + self._after, first=True)
        if self._controls(whole) == self._controls(self._frame):
            return whole
        pieces = [self._encode(self._before, first=True)]
        for piece in _cut(text, self._control_texts):
            ids = self._encode(piece, first=False)
            # What is left is a control token of a single character: nothing to cut.
            pieces.append([token for token in ids if token not in self._control_ids])
        pieces.append(self._encode(self._after, first=False))
        return [token for piece in pieces for token in piece]

    def count(self, text: str) -> int:
        """How many tokens `text` has by itself, outside the prompt."""
        return len(self._encode(text, first=False))

    def decode(self, ids: list[int]) -> str:
        """The text of `ids` without special tokens, but with the tags of reasoning."""
        if self._tags.keys().isdisjoint(ids):
            return self._decode(ids)
        borders = [at for at, token in enumerate(ids) if token in self._tags]
        pieces = [self._decode(ids[: borders[0]])]
        for at, stop in pairwise([*borders, len(ids)]):
            pieces += [self._tags[ids[at]], self._decode(ids[at + 1 : stop])]
        return "".join(pieces)

    def _decode(self, ids: list[int]) -> str:
        with self._lock:
            decoded: str = self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return decoded

    def _controls(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token in self._control_ids]

    def _encode(self, text: str, *, first: bool) -> list[int]:
        # A chat template writes its own BOS; otherwise the tokenizer adds it, once, in front.
        add_special = first and not self._is_chat
        with self._lock:
            ids = list(self._tokenizer(text, add_special_tokens=add_special)["input_ids"])
        if add_special and len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id:
            ids.pop()  # some tokenizers close what they encode; a prompt is to be continued
        return ids


def plain_frame(system_prompt: str, user_prefix: str) -> tuple[str, str]:
    """What stands before and after the text in a prompt without chat messages.

    >>> plain_frame("Be plain.", "Text: ")
    ('Be plain.\\n\\nText: ', '\\n\\n')
    """
    head = f"{system_prompt}\n\n" if system_prompt else ""
    return f"{head}{user_prefix}", "\n\n"


def chat_messages(text: str, *, system_prompt: str, user_prefix: str) -> list[dict[str, str]]:
    """A system message, where there is a system prompt, and a user message.

    >>> chat_messages(" A text. ", system_prompt="", user_prefix="Summarise: ")
    [{'role': 'user', 'content': 'Summarise: A text.'}]
    """
    return _messages(system_prompt, user_prefix + disarm(text.strip()))


def disarm(text: str) -> str:
    """`text` with a space after the first character of every control token in it.

    For servers that tokenise themselves, and read a control token typed in a text as the token.

    >>> disarm("p<0.05 <|eot_id|> a</s> x<|y")
    'p<0.05 < |eot_id|> a< /s> x<|y'
    """
    return _CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _messages(system_prompt: str, content: str) -> list[dict[str, str]]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": content}]


def render_chat(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    """What the tokenizer's chat template makes of the messages, as text.

    A template is code of the model's author. Transformers runs it in a sandbox, but without bounds:
    loops in loops, doubled strings and powers never end. So the time and memory of the code are
    checked at each of its lines, and products that a single line could not finish are refused.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        messages: roles and contents.
        options: of `apply_chat_template`.

    Raises:
        Exception: whatever the template raises; `TimeoutError` or `MemoryError` over the bounds.
    """
    template = tokenizer.chat_template
    if isinstance(template, str):
        _refuse_products(template)
    ends = time.thread_time() + TEMPLATE_S
    most = _peak_mib() + TEMPLATE_MIB

    def check(frame: Any, event: str, argument: Any) -> Any:
        if time.thread_time() > ends:
            raise TimeoutError(f"it did not end within {TEMPLATE_S:g} s of processor time")
        if _peak_mib() > most:
            raise MemoryError(f"it took more than {TEMPLATE_MIB} MiB")
        return check

    outer = sys.gettrace()
    sys.settrace(check)
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    finally:
        sys.settrace(outer)


def _peak_mib() -> float:
    """The most memory this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _refuse_products(template: str) -> None:
    """Raises `ValueError` for a power, and for a product without a small number in it."""
    tokens = [
        (kind, value)
        for _, kind, value in jinja2.Environment().lex(template)  # noqa: S701  # nosec B701 - renders nothing
        if kind != "whitespace"
    ]
    for (_, first), before, (kind, value), after in zip(
        [("", ""), *tokens], tokens, tokens[1:], [*tokens[2:], ("", "")], strict=False
    ):
        if kind != "operator" or value not in ("*", "**") or before[1] in ("(", ","):
            continue
        small = [one[0] == "integer" and len(one[1]) <= 4 for one in (before, after)]
        if value == "**" or not (small[1] or (small[0] and first != "*")):
            raise ValueError(f"it multiplies without a bound ({before[1]} {value} {after[1]})")


def _render_chat(tokenizer: Any, system_prompt: str, user_prefix: str) -> tuple[str, str]:
    """What the template writes before and after the text of the user message."""
    marker = f"text{uuid.uuid4().hex}"
    folded, _ = plain_frame(system_prompt, user_prefix)
    attempts = [_messages(system_prompt, user_prefix + marker), _messages("", folded + marker)]
    problem = "it drops or repeats the text"
    for messages in attempts:
        try:
            rendered = render_chat(tokenizer, messages, add_generation_prompt=True)
        except Exception as error:  # the model's author wrote the template: it can raise anything
            problem = str(error) or type(error).__name__
            continue
        # Some templates skip a system message in silence instead of refusing it.
        if rendered.count(marker) == 1 and system_prompt.strip() in rendered:
            before, _, after = rendered.partition(marker)
            return before, after
    raise ConfigError(
        f"the tokenizer's chat template cannot hold one user message: {problem}; "
        "fix or remove chat_template in the model directory"
    )


def _control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of tokens that only a prompt may contain: special ones and added tags.

    Added runs of white space (as in GPT-NeoX vocabularies) are ordinary text. The unknown
    token is what unknown characters become, so it is no control token, except where the
    same id also ends or begins a text, as in GPT-2.
    """
    ids = {
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or token.content.strip()
    }
    ids.update(tokenizer.all_special_ids)
    borders = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if tokenizer.unk_token_id not in borders:
        ids.discard(tokenizer.unk_token_id)
    return frozenset(ids)


def _control_texts(tokenizer: Any, ids: frozenset[int]) -> tuple[str, ...]:
    decoder = tokenizer.added_tokens_decoder
    texts = {decoder[i].content.strip() for i in ids if i in decoder}
    texts.update(tokenizer.convert_ids_to_tokens(i) for i in ids if i not in decoder)
    return tuple(sorted(text for text in texts if len(text) > 1))


def _cut(text: str, tokens: tuple[str, ...]) -> list[str]:
    """`text` in pieces, cut inside every occurrence of every token; joined they are `text`."""
    borders = {0, len(text)}
    for token in tokens:
        start = text.find(token)
        while start >= 0:
            borders.add(start + 1)
            start = text.find(token, start + 1)
    ordered = sorted(borders)
    return [text[start:end] for start, end in pairwise(ordered)]
