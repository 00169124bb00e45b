"""Turns a text into prompt token ids. Knows the tokenizer and its chat template; no model.

The text is data: whatever a user types, no control token (`<|eot_id|>`, `</s>`) of the
prompt comes from it.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from typing import Any

from serve_app.core.errors import ConfigError


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
        """The text of `ids` without special tokens."""
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


def _render_chat(tokenizer: Any, system_prompt: str, user_prefix: str) -> tuple[str, str]:
    """What the template writes before and after the text of the user message."""
    marker = f"text{uuid.uuid4().hex}"
    folded, _ = plain_frame(system_prompt, user_prefix)
    attempts = [[{"role": "user", "content": folded + marker}]]
    if system_prompt:
        system = {"role": "system", "content": system_prompt}
        attempts.insert(0, [system, {"role": "user", "content": user_prefix + marker}])
    problem = "it drops or repeats the text"
    for messages in attempts:
        try:
            rendered: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except (
            Exception
        ) as error:  # a template is code of the model's author: it can raise anything
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
    return [text[a:b] for a, b in itertools.pairwise(ordered)]
