"""Training examples in the very tokens the served generator reads and writes.

Prompts are those of `serve_app.generation.causal.prompts`: for supervised training its token ids,
for GRPO the messages (or string) that the trainer turns into the same ids, which is checked row by
row. Knows a tokenizer; no model, no trainer.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.core.errors import ConfigError
from serve_app.generation.causal.prompts import Prompter, plain_frame
from serve_app.generation.openai.messages import disarm
from serve_app.offline.calibration import Pair
from serve_app.training.rewards.prompts import message_layouts

NOT_TRAINED = -100
"""The label of a token that is no target."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready for both stages.

    Attributes:
        row: of the file, from 1.
        original: as it stands in the prompt.
        prompt: messages, or a string for a tokenizer without a chat template.
        prompt_ids: its tokens.
        target_ids: the human summary's tokens and the one that ends it.
    """

    row: int
    original: str
    prompt: Any
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True)
class Examples:
    """All examples of a split, and what was left out: why, and which rows."""

    used: tuple[Example, ...]
    left_out: tuple[tuple[int, str], ...]

    @property
    def reasons(self) -> dict[str, list[int]]:
        """The rows left out, by reason."""
        found: dict[str, list[int]] = {}
        for row, reason in self.left_out:
            found.setdefault(reason, []).append(row)
        return found

    @property
    def fingerprint(self) -> str:
        """Names what is trained on: texts, prompt and tokenizer."""
        digest = hashlib.sha256()
        for example in self.used:
            digest.update(json.dumps([example.prompt_ids, example.target_ids]).encode())
        return digest.hexdigest()

    @property
    def duplicates(self) -> int:
        """Originals that occur in more than one row."""
        return sum(count > 1 for count in Counter(one.original for one in self.used).values())

    def sft_rows(self) -> list[dict[str, Any]]:
        """For supervised training: only the summary is a target."""
        return [
            {
                "input_ids": [*one.prompt_ids, *one.target_ids],
                "labels": [NOT_TRAINED] * len(one.prompt_ids) + list(one.target_ids),
            }
            for one in self.used
        ]

    def grpo_rows(self) -> list[dict[str, Any]]:
        """For GRPO: the prompt, and the original that the reward needs."""
        return [{"prompt": one.prompt, "original": one.original} for one in self.used]


def prepare(
    pairs: Sequence[Pair],
    tokenizer: Any,
    *,
    system_prompt: str,
    user_prefix: str,
    max_length: int,
    max_new_tokens: int,
) -> Examples:
    """Examples of all rows that fit.

    Args:
        pairs: originals and human summaries.
        tokenizer: of the model.
        system_prompt: as the server will have it.
        user_prefix: likewise.
        max_length: most tokens of prompt and summary, and of prompt and `max_new_tokens`.
        max_new_tokens: room a completion needs after the prompt.

    Raises:
        ConfigError: the tokenizer has no end token, or no row can be used; the reason is named.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no eos_token, so no summary could end")
    prompter = Prompter(tokenizer, system_prompt=system_prompt, user_prefix=user_prefix)
    prompts = _Prompts(tokenizer, system_prompt, user_prefix)
    used: list[Example] = []
    left_out: list[tuple[int, str]] = []
    for pair in pairs:
        # A control token typed in a text must not become one; serving sees to it likewise.
        original = disarm(pair.source.strip())
        ids = tuple(prompter.encode(original))
        target = _target(tokenizer, pair.target)
        prompt = prompts.of(original, ids)
        if target is None:
            left_out.append((pair.row, "the summary holds a control token"))
        elif prompt is None:
            left_out.append((pair.row, "the chat template writes it unlike the served generator"))
        elif len(ids) + max(len(target), max_new_tokens) > max_length:
            left_out.append((pair.row, f"it is longer than {max_length} tokens"))
        else:
            used.append(Example(pair.row, original, prompt, ids, target))
    if not used:
        reasons = Counter(reason for _, reason in left_out).most_common(1)
        why = f"of {reasons[0][1]} rows: {reasons[0][0]}" if reasons else "there are none"
        raise ConfigError(f"no row can be trained on ({why})")
    return Examples(tuple(used), tuple(left_out))


class _Prompts:
    """Finds what a trainer has to be given so that it reads the tokens the server reads."""

    def __init__(self, tokenizer: Any, system_prompt: str, user_prefix: str) -> None:
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt
        self._user_prefix = user_prefix

    def of(self, original: str, ids: tuple[int, ...]) -> Any:
        """Messages or a string; None where nothing gives these ids."""
        if not getattr(self._tokenizer, "chat_template", None):
            before, after = plain_frame(self._system_prompt, self._user_prefix)
            prompt = f"{before}{original}{after}"
            found = self._tokenizer(prompt)["input_ids"]
            return prompt if tuple(found) == ids else None
        for messages in message_layouts(
            original, system_prompt=self._system_prompt, user_prefix=self._user_prefix
        ):
            if self._rendered(messages) == ids:
                return messages
        return None

    def _rendered(self, messages: list[dict[str, str]]) -> tuple[int, ...] | None:
        from jinja2.exceptions import TemplateError

        try:
            encoded = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except TemplateError:  # such as a template without a system role
            return None
        return tuple(encoded["input_ids"])


def _target(tokenizer: Any, text: str) -> tuple[int, ...] | None:
    """The summary's tokens with the end token; None where it holds a special one itself."""
    ids = tokenizer(disarm(text.strip()), add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return None if special & set(ids) else (*ids, tokenizer.eos_token_id)
