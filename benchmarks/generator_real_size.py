"""The generator at the size of Llama-3.2-3B: tokens a second, share of the memory limit, memory.

    python -m benchmarks.generator_real_size --write
    python -m benchmarks.generator_real_size --layers 7      # a quarter of them, scaled to all
    python -m benchmarks.generator_real_size --quality DIR   # and perplexities of a real model

Weights are random, of the published shape. Each side runs in a process of its own, which
first reads memory as fast as it can: the limit is what that reading would take for the bytes of a
pass. With drafts, the sampler is made to draw real summaries of real abstracts, so that as many
drafts are right as in use; their tokens are of the embedded encoder's tokenizer. The peer is
model.generate of transformers in bfloat16.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import typer
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks import machine, report, texts
from serve_app.core.sampling import GenerationParams
from serve_app.generation.causal import decoding
from serve_app.generation.causal.decoding import Batch, Prefill, Row
from serve_app.models.causal_lm import load_causal_model
from serve_app.models.packed_decoder import PackedDecoder
from serve_app.models.quantised import GROUP
from serve_app.storage.artifacts import embedded_path

DOCS = Path(__file__).resolve().parent.parent / "docs"
LAYERS, HIDDEN, MLP, HEADS, KV_HEADS, WIDTH, VOCABULARY = 28, 3072, 8192, 24, 8, 128, 128_256
SHAPES = {
    "q_proj": (HEADS * WIDTH, HIDDEN), "k_proj": (KV_HEADS * WIDTH, HIDDEN),
    "v_proj": (KV_HEADS * WIDTH, HIDDEN), "o_proj": (HIDDEN, HEADS * WIDTH),
    "gate_proj": (MLP, HIDDEN), "up_proj": (MLP, HIDDEN), "down_proj": (HIDDEN, MLP),
    "embed_tokens": (VOCABULARY, HIDDEN),
}  # fmt: skip
LAYER_WEIGHTS = sum(rows * columns for name, (rows, columns) in SHAPES.items() if "_proj" in name)
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5 + 4 / GROUP}
SIDES = ("model.generate", "bfloat16", "int8", "int4")
PROMPT, NEW, SUMMARIES = 250, 24, 3
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


def config(layers: int) -> LlamaConfig:
    """Llama-3.2-3B's, with so many layers."""
    return LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )


def random_weights() -> Callable[[str], Tensor]:
    """A weight for any name; the same numbers for every layer, drawn once."""
    torch.manual_seed(0)
    drawn = torch.randn(MLP * HIDDEN).mul_(0.02).to(torch.bfloat16)

    def weight(name: str) -> Tensor:
        shape = SHAPES.get(name.split(".")[-2])
        if shape is None:
            return torch.ones(HIDDEN, dtype=torch.bfloat16)
        size = shape[0] * shape[1]
        return drawn.repeat(-(-size // drawn.numel()))[:size].view(shape)

    return weight


def read_speed() -> float:
    """Bytes a second at which both cores read memory that no cache holds."""
    numbers = torch.ones(1 << 28)  # 1 GiB
    best = min(_timed(numbers.sum) for _ in range(5))
    return numbers.nbytes / best


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def pass_bytes(precision: str, layers: int, columns: int) -> float:
    """Bytes that one row's pass must read: weights, head, keys and values of `columns` tokens."""
    head = VOCABULARY * HIDDEN * BYTES["int8" if precision == "int4" else precision]
    kept = 2 * layers * KV_HEADS * WIDTH * columns * 4
    return layers * LAYER_WEIGHTS * BYTES[precision] + head + kept


def resident() -> float:
    """Bytes of memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


class Forced:
    """A sampler that draws the given continuation of each prompt."""

    continuations: dict[tuple[int, ...], list[int]]

    def __init__(self, rows: Sequence[Row], vocabulary: int, device: torch.device) -> None:
        self._left = [iter(self.continuations[row.prompt]) for row in rows]

    def next_tokens(self, logits: Tensor, rows: Sequence[int]) -> list[int | None]:
        """The next of each row."""
        return [next(self._left[row]) for row in rows]

    def keep(self, rows: Sequence[int]) -> None:
        """As `Sampler`."""
        self._left = [self._left[row] for row in rows]


def ours(precision: str, layers: int) -> dict[str, float]:
    """Measures a packed decoder."""
    found = {"read": read_speed()}
    before = resident()
    start = time.perf_counter()
    model = PackedDecoder(config(layers), random_weights(), precision)
    found |= {"load_s": time.perf_counter() - start, "bytes": resident() - before}
    running = decoding.as_model(model)
    prompt = tuple(torch.randint(5, 30_000, (PROMPT,)).tolist())

    def steps(rows: Batch) -> None:
        for _ in range(NEW):
            rows.step()

    def batch(count: int, *, lookup: bool = False) -> tuple[Batch, float]:
        params = [GenerationParams(NEW + 8, seed=seed) for seed in range(count)]
        prefill, rows = None, Batch(running, (), lookup=lookup)
        prefill = Prefill(running, [Row(prompt, one) for one in params])
        seconds = _timed(lambda: prefill.advance(PROMPT))
        rows.join(prefill)
        return rows, seconds

    with torch.inference_mode():
        batch(1)[0].step()
        found["prompt_s"] = min(batch(1)[1] for _ in range(3))
        for count in (1, 16):
            rows, _ = batch(count)
            rows.step()
            found[f"pass_{count}_s"] = _timed(partial(steps, rows)) / NEW
        found |= drafting(running)
    return found


def drafting(running: decoding.Model) -> dict[str, float]:
    """Tokens and seconds with drafts, over real summaries."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_path("all-MiniLM-L6-v2"))
    pairs = texts.load().pairs
    tokens = passes = 0
    seconds = 0.0
    for original, summary in pairs[:: len(pairs) // SUMMARIES][:SUMMARIES]:
        prompt = tuple(tokenizer(original)["input_ids"][:512])
        written = tokenizer(summary, add_special_tokens=False)["input_ids"][:120]
        Forced.continuations = {prompt: [*written, 0, 0]}
        with mock.patch.object(decoding, "Sampler", Forced):
            batch = Batch(running, (0,))
            prefill = Prefill(running, [Row(prompt, GenerationParams(len(written) + 2))])
            prefill.advance(len(prompt))
            batch.join(prefill)
            start = time.perf_counter()
            while batch.rows:
                passes += 1
                batch.step()
            seconds += time.perf_counter() - start
            tokens += len(written)
    return {"drafted_tokens_pass": tokens / passes, "drafted_token_s": seconds / tokens}


def theirs(layers: int) -> dict[str, float]:
    """Measures model.generate in bfloat16."""
    found = {"read": read_speed()}
    before, weight = resident(), random_weights()
    start = time.perf_counter()
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config(layers)).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name))
    found |= {"load_s": time.perf_counter() - start, "bytes": resident() - before}
    ids = torch.randint(5, 30_000, (1, PROMPT))

    def generate(new: int) -> float:
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "top_k": 0}
        options |= {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.015}
        return _timed(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **options))

    generate(2)
    found["prompt_s"] = min(generate(1) for _ in range(2))
    found["pass_1_s"] = (generate(NEW + 1) - found["prompt_s"]) / NEW
    return found


def row(side: str, layers: int, found: dict[str, float]) -> str:
    """A line of the table, with layers scaled to all."""
    precision = "bfloat16" if side == "model.generate" else side
    read = found["read"]
    head_s = pass_bytes(precision, 0, 0) / read  # what does not grow with layers

    def whole(seconds: float, fixed: float = head_s) -> float:
        return fixed + (seconds - fixed) * LAYERS / layers if layers != LAYERS else seconds

    one = whole(found["pass_1_s"])
    share = pass_bytes(precision, LAYERS, PROMPT + NEW // 2) / read / one
    sixteen = drafted = ""
    if "pass_16_s" in found:
        sixteen = f"{16 / whole(found['pass_16_s']):.1f}"
        each = found["drafted_tokens_pass"]
        drafted = f"{each / whole(found['drafted_token_s'] * each):.2f} ({each:.2f} a pass)"
    table = VOCABULARY * HIDDEN * (2 if precision == "bfloat16" else 1)
    table *= 1 if side == "model.generate" else 2  # the head is another copy
    memory = (found["bytes"] - table) * LAYERS / layers + table
    return (
        f"| {side} | {1 / one:.2f} | {share:.0%} | {drafted} | {sixteen} "
        f"| {PROMPT / whole(found['prompt_s'], 0.0):.0f} | {memory / 1e9:.2f} GB "
        f"| {found['load_s'] * LAYERS / layers:.0f} s | {read / 1e9:.1f} GB/s |"
    )


def quality(directory: Path) -> list[str]:
    """Perplexity and greedy agreement of a real model on 12 human summaries, by precision."""
    cpu = torch.device("cpu")
    pairs = texts.load().pairs
    rows: list[list[int]] = []
    wanted: list[Tensor] = []
    lines = [
        "| precision | perplexity | same likeliest token as in bfloat16 |",
        "| --- | ---: | ---: |",
    ]
    for precision in ("bfloat16", "float32", "int8", "int4"):
        loaded = load_causal_model(directory, device=cpu, dtype=torch.float32, packed=precision)
        rows = rows or [loaded.tokenizer(text)["input_ids"][:384] for _, text in pairs[:12]]
        loss, same, own = 0.0, 0, []
        with torch.inference_mode():
            for ids in rows:
                logits = loaded.model([ids], [loaded.model.new_row(len(ids))], [len(ids)])
                following = torch.tensor(ids[1:])
                loss += float(
                    torch.nn.functional.cross_entropy(logits[:-1], following, reduction="sum")
                )
                own.append(logits.argmax(dim=1))
        wanted = wanted or own
        same = sum(int((a == b).sum()) for a, b in zip(own, wanted, strict=True))
        count = sum(map(len, rows))
        perplexity = float(torch.tensor(loss / (count - len(rows))).exp())
        lines.append(f"| {precision} | {perplexity:.2f} | {same / count:.1%} |")
    return lines


@app.command(help=__doc__)
def main(
    sides: Annotated[list[str] | None, typer.Argument(help=", ".join(SIDES))] = None,
    layers: Annotated[int, typer.Option(min=1, max=LAYERS)] = LAYERS,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    directory: Annotated[
        Path | None, typer.Option("--quality", help="A real model, for perplexities.")
    ] = None,
    alone: Annotated[bool, typer.Option(hidden=True)] = False,
    write: Annotated[bool, typer.Option(help="write the tables into docs/performance.md")] = False,
) -> None:
    """Measures each side in a process of its own."""
    torch.set_num_threads(threads)
    if alone:
        [side] = sides or []
        print(json.dumps(theirs(layers) if side == "model.generate" else ours(side, layers)))
        return
    lines = [
        "| | one request, tokens/s | share of the memory limit | with drafts, tokens/s "
        "| 16 requests, tokens/s | prompt, tokens/s | memory | load | memory reads |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for side in sides or SIDES:
        command = [sys.executable, "-m", "benchmarks.generator_real_size", side, "--alone"]
        command += ["--layers", str(layers), "--threads", str(threads)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        lines.append(row(side, layers, json.loads(done.stdout.splitlines()[-1])))
        print(lines[-1], file=sys.stderr)
    scaled = f" {layers} of {LAYERS} layers, scaled." if layers != LAYERS else ""
    facts = f"{report.facts(machine.facts())}{scaled}"
    tables = {("performance.md", "generator at 3 B"): "\n".join([facts, "", *lines])}
    if directory is not None:
        tables["generation.md", "quantised quality"] = "\n".join(quality(directory))
    for (page, name), table in tables.items():
        print(f"\n## {name}\n\n{table}")
        if write:
            report.replace(DOCS / page, name, table)


if __name__ == "__main__":
    app()
