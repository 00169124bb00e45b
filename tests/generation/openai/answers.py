"""What the tests of the openai engine ask, and answers of the protocol made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from serve_app.generation.protocol import GenerationParams, Summary
from tests.support.servers import Answer

TEXT = "The trial included 120 adults with type 2 diabetes, followed for six months."
OTHER = "Side effects were rare: headache and nausea."
SYSTEM = "You rewrite medical text."
PREFIX = "Summarise: "
GREEDY = GenerationParams(max_new_tokens=12, temperature=0.0, top_p=1.0, repeat_penalty=1.0)
CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def written_by(model: Path, text: str, tokens: int = 12) -> tuple[str, int]:
    """What the model writes greedily, and the tokens it reads, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": PREFIX + text},
    ]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = AutoModelForCausalLM.from_pretrained(model).generate(
        **inputs, max_new_tokens=tokens, do_sample=False
    )
    read = inputs["input_ids"].shape[1]
    text = tokenizer.decode(output[0, read:], skip_special_tokens=True)
    # Cut at its length, a summary may end within a character: that part of it is left out.
    return text.strip().rstrip("\ufffd").strip(), read


def drain(pieces: Any) -> tuple[list[str], Summary]:
    *texts, summary = pieces
    return texts, summary


def completion(content: str | None, finish_reason: str = "stop") -> Answer:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": finish_reason,
    }
    body = {**CHUNK, "object": "chat.completion", "choices": [choice]}
    return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def event(delta: dict[str, Any], finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return json.dumps({**CHUNK, "choices": [choice]})


def stream_of(*events: str) -> Answer:
    chunks = tuple(f"data: {text}\n\n".encode() for text in events)
    return Answer(200, headers={"Content-Type": "text/event-stream"}, chunks=chunks)
