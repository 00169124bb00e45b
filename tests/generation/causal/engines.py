"""Engines on tiny models, and one whose model writes what a test wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams
from serve_app.models.causal_lm import CausalModel
from tests.support.tiny_models import make_llama, make_tokenizer, speak

PROMPT = {"system_prompt": "You rewrite medical text.", "user_prefix": "Summarise:\n\n"}
TEXTS = [
    "The trial included 120 adults.",
    "Patients who took the medicine had fewer heart attacks than those who took a placebo.",
    "Side effects were rare.",
    "We found no clear difference in pain between the two groups; the evidence is weak. Few "
    "patients had nausea or a headache.",
    "Pain?",
]
GREEDY = GenerationParams(max_new_tokens=60, temperature=0.0, repeat_penalty=1.1)


def engine(reference: Path, **options: Any) -> TransformersGenerator:
    return TransformersGenerator.from_reference(
        str(reference), device="cpu", **{**PROMPT, **options}
    )


def speaking(text: str, stop: str | None, **options: Any) -> TransformersGenerator:
    """An engine whose model writes `text` and then the token `stop`, for any input."""
    tokenizer = make_tokenizer()
    model = make_llama(tokenizer)
    last = tokenizer("\n\n")["input_ids"][-1]
    ids = tokenizer(text)["input_ids"]
    if stop is not None:
        ids = [*ids, tokenizer.convert_tokens_to_ids(stop)]
    speak(model, [last, *ids])
    loaded = CausalModel(model, tokenizer, 256)
    return TransformersGenerator(loaded, name="speaker", **{**PROMPT, **options})


def model_of(engine: TransformersGenerator) -> Any:
    return engine._model
