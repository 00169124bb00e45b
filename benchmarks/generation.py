"""Generation beside plain `model.generate`, one request at a time, on the same weights.

Models are made on the spot: Llamas with random weights, of a size that says something about
real ones, whose tokens are the words of a made-up vocabulary. They never end by themselves,
so both sides write the same number of tokens.

python -m benchmarks.generation      # what was tried instead, and what it gave
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from statistics import median
from typing import Annotated, Any

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    StaticCache,
)

from benchmarks.measure import Timing, interleave
from serve_app.generation.causal import kv_cache
from serve_app.generation.causal.decoding import PaddedModel
from serve_app.generation.causal.engine import TransformersGenerator
from serve_app.generation.protocol import GenerationParams
from serve_app.models.causal_lm import CausalModel
from serve_app.models.packed_decoder import PackedDecoder
from serve_app.models.pretrained import DTYPES

AT_ONCE = (1, 4, 16)
WANTED = {16: 3.0}
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 128,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "Llama of 125 M": {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048,
                       "num_hidden_layers": 12, "num_attention_heads": 12,
                       "num_key_value_heads": 4},
}  # fmt: skip
CASES = (("tiny", "float32"), ("Llama of 125 M", "float32"), ("Llama of 125 M", "bfloat16"))
PROMPT_TOKENS, NEW_TOKENS = 256, 128
SAMPLING: dict[str, float] = {"temperature": 0.2, "top_p": 0.9}
PENALTY = 1.015
FILLED, STEPS = 512, 50

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


def make(size: str, dtype: str) -> CausalModel:
    """A Llama with random weights and a tokenizer whose tokens are words."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES[size],
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(DTYPES[dtype]).eval()
    words = {f"w{index}": index for index in range(config.vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0")
    return CausalModel(model, tokenizer, 2048)


def engine(loaded: CausalModel, rows: int = max(AT_ONCE)) -> TransformersGenerator:
    """Ours over it, packed as a server packs it, with nothing around the text."""
    model = loaded.model
    precision = str(model.dtype).removeprefix("torch.")
    packed = PackedDecoder(
        model.config, model.state_dict().__getitem__, precision, model.generation_config
    )
    return TransformersGenerator(
        CausalModel(packed, loaded.tokenizer, loaded.context),
        name="random", system_prompt="", user_prefix="", batch_size=rows,
    )  # fmt: skip


def texts(loaded: CausalModel, count: int) -> list[str]:
    """Prompts of PROMPT_TOKENS tokens each, all different."""
    vocabulary = loaded.model.config.vocab_size
    return [
        " ".join(
            f"w{token}" for token in Random(index).choices(range(1, vocabulary), k=PROMPT_TOKENS)
        )
        for index in range(count)
    ]


def params(seed: int) -> GenerationParams:
    """Default sampling, with a seed."""
    return GenerationParams(
        max_new_tokens=NEW_TOKENS, repeat_penalty=PENALTY, seed=seed, **SAMPLING
    )


def plain(loaded: CausalModel, prompts: Sequence[str], new: int = NEW_TOKENS) -> None:
    """`model.generate` for one prompt after the other, sampling as ours does."""
    for prompt in prompts:
        ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
        written = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=True,
            top_k=0, repetition_penalty=PENALTY, **SAMPLING,
        )  # fmt: skip
        assert written.shape[1] == ids.shape[1] + new


def ours(subject: TransformersGenerator, prompts: Sequence[str]) -> list[float]:
    """A stream of each prompt in a thread of its own, all at once: seconds to each first piece."""

    def one(index: int) -> float:
        pieces = subject.stream(prompts[index], params(index))
        next(pieces)
        first = time.perf_counter() - start
        *_, summary = pieces
        assert summary.completion_tokens == NEW_TOKENS  # type: ignore[union-attr]
        return first

    with ThreadPoolExecutor(len(prompts)) as pool:
        start = time.perf_counter()
        return list(pool.map(one, range(len(prompts))))


def cases(rounds: int) -> Iterator[dict[str, Any]]:
    """Tokens a second and time to first token with 1, 4 and 16 requests at once."""
    for size, dtype in CASES:
        yield from _case(size, dtype, rounds)


def _case(size: str, dtype: str, rounds: int) -> Iterator[dict[str, Any]]:
    loaded = make(size, dtype)
    subject, prompts = engine(loaded), texts(loaded, max(AT_ONCE))
    firsts: dict[int, list[list[float]]] = {count: [] for count in AT_ONCE}

    def side(count: int) -> Callable[[], None]:
        # One at a time is two after each other, as on the other side.
        groups = [prompts[:1], prompts[1:2]] if count == 1 else [prompts[:count]]
        return lambda: firsts[count].extend(ours(subject, group) for group in groups)

    sides: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(loaded, prompts[:2]),
        "first": lambda: plain(loaded, prompts[:1], new=1),
    }
    timings = interleave(sides | {str(count): side(count) for count in AT_ONCE}, rounds)
    alone, first = timings["plain"].median / 2, timings["first"].median
    for count in AT_ONCE:
        rate = max(count, 2) * NEW_TOKENS / timings[str(count)].median
        yield {
            "model": size,
            "dtype": dtype,
            "at_once": count,
            "plain_tokens_s": NEW_TOKENS / alone,
            "ours_tokens_s": rate,
            "ratio": rate * alone / NEW_TOKENS,
            "target": WANTED.get(count),
            "plain_first_s": first,
            "plain_last_first_s": (count - 1) * alone + first,
            "first_s": median(median(wait) for wait in firsts[count]),
            "last_first_s": median(max(wait) for wait in firsts[count]),
        }


@app.command()
def variants(
    size: Annotated[str, typer.Option(help=", ".join(SIZES))] = "Llama of 125 M",
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "float32",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    rows: Annotated[int, typer.Option(min=1, help="requests at once")] = 16,
    compiled: Annotated[bool, typer.Option(help="torch.compile too; needs a compiler")] = True,
) -> None:
    """What was tried: the cache of transformers, torch.compile, its own continuous batching."""
    loaded = make(size, dtype)
    prompts = texts(loaded, rows)
    every = rows * NEW_TOKENS
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(engine(loaded, rows), prompts),
        "one decode step, our cache": lambda: steps(loaded, rows, ours=True),
        "one decode step, DynamicCache": lambda: steps(loaded, rows, ours=False),
        "transformers' continuous batching, greedy": lambda: theirs(loaded, prompts),
    }
    if compiled:
        # Compiling wants shapes that stay, and RowCache's do not (with dynamic shapes inductor 2.13
        # raises): so what it could gain is measured on a cache of fixed width.
        sides["one decode step, StaticCache"] = lambda: static_steps(loaded, rows, loaded.model)
        start = time.perf_counter()
        fast = torch.compile(loaded.model, dynamic=False)
        static_steps(loaded, rows, fast)
        typer.echo(f"compiling: {time.perf_counter() - start:.0f} s")
        sides["one decode step, StaticCache, compiled"] = lambda: static_steps(loaded, rows, fast)
    timings: dict[str, Timing] = interleave(sides, rounds)
    for name, timing in timings.items():
        step = name.startswith("one decode step")
        told = (
            f"{timing.median / STEPS * 1000:.1f} ms"
            if step
            else f"{every / timing.median:.1f} tokens/s"
        )
        typer.echo(f"{name}: {told}")


@torch.inference_mode()
def steps(loaded: CausalModel, rows: int, *, ours: bool, count: int = STEPS) -> None:
    """`count` decode steps of `rows` rows after a prompt of 512 made-up columns."""
    model = PaddedModel(loaded.model)
    cache = kv_cache.RowCache(loaded.model) if ours else DynamicCache(config=loaded.model.config)
    _fill(cache, loaded, rows)
    for at in range(count):
        held = [FILLED + at] * rows
        held[0] -= 5  # as among rows of different length
        model.extend(cache, held, [[1]] * rows, [1] * rows)


@torch.inference_mode()
def static_steps(
    loaded: CausalModel, rows: int, forward: Callable[..., Any], count: int = STEPS
) -> None:
    """The same with a cache as wide as the last of the steps."""
    cache = StaticCache(config=loaded.model.config, max_cache_len=FILLED + count)
    _fill(cache, loaded, rows)
    ids = torch.ones((rows, 1), dtype=torch.long)
    mask = torch.zeros((rows, FILLED + count), dtype=torch.long)
    mask[:, :FILLED] = 1
    mask[0, :5] = 0
    for at in range(count):
        mask[:, FILLED + at] = 1
        positions = torch.full((rows, 1), FILLED + at)
        forward(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip


def _fill(cache: Cache, loaded: CausalModel, rows: int) -> None:
    config = loaded.model.config
    width = config.hidden_size // config.num_attention_heads
    some = torch.zeros((rows, config.num_key_value_heads, FILLED, width), dtype=loaded.model.dtype)
    for layer in range(config.num_hidden_layers):
        cache.update(some, some, layer)


def theirs(loaded: CausalModel, prompts: Sequence[str]) -> None:
    """transformers' own continuous batching; greedy, for it knows no penalty and no seeds."""
    inputs = [loaded.tokenizer(prompt)["input_ids"] for prompt in prompts]
    found = loaded.model.generate_batch(
        inputs=inputs,
        generation_config=GenerationConfig(
            max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        progress_bar=False,
    )
    assert all(len(one.generated_tokens) == NEW_TOKENS for one in found.values())


if __name__ == "__main__":
    app()
