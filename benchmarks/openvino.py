"""The embedded encoder in OpenVINO beside the packed form and the transformers module.

    pip install openvino
    python -m benchmarks.openvino --write

OpenVINO compiles the whole network to one graph with dynamic shapes, which takes padded batches;
the packed form takes the same sequences without padding. In turns, medians.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import typer
from torch import Tensor
from transformers import AutoModel

from benchmarks import report
from benchmarks.measure import interleave
from serve_app.models.packed_encoder import PackedEncoder
from serve_app.storage.artifacts import embedded_path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
VOCABULARY = (1000, 20_000)


def batches() -> dict[str, list[int]]:
    """Token counts of each sequence of a batch, longest first, about 1,024 tokens a batch."""
    rng = Random(0)
    return {
        "2 of 512 tokens": [512, 512],
        "16 of 64 tokens": [64] * 16,
        "3 of 300 to 512 tokens": sorted((rng.randint(300, 512) for _ in range(3)), reverse=True),
        "15 of 40 to 100 tokens": sorted((rng.randint(40, 100) for _ in range(15)), reverse=True),
    }


class _States(torch.nn.Module):
    """The module with its last hidden states as only output, for tracing."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


def compiled(model: Any, threads: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """OpenVINO's form of the model in both precisions.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    import openvino

    example = (torch.full((2, 8), 5), torch.ones(2, 8, dtype=torch.long))
    with torch.inference_mode():
        graph = openvino.convert_model(_States(model), example_input=example)
    made: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    for dtype, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        options = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        network = openvino.Core().compile_model(graph, "CPU", options)

        def run(ids: Tensor, mask: Tensor, network: Any = network) -> Tensor:
            return torch.from_numpy(network([ids.numpy(), mask.numpy()])[0])[mask.bool()]

        made[dtype] = run
    return made


def measure(lengths: Sequence[int], rounds: int, threads: int) -> list[dict[str, Any]]:
    """One row a precision for a batch of sequences with so many tokens."""
    model = AutoModel.from_pretrained(embedded_path("all-MiniLM-L6-v2")).eval()
    rows = [torch.randint(*VOCABULARY, (length,)) for length in lengths]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    theirs = compiled(model, threads)
    exact = None
    found = []
    for dtype in ("float32", "bfloat16"):
        network = copy.deepcopy(model).to(getattr(torch, dtype))
        states, packed = _States(network), PackedEncoder(network)
        sides: dict[str, Callable[[], Tensor]] = {
            "OpenVINO": partial(theirs[dtype], ids, mask),
            "packed": partial(packed, torch.cat(rows), None, list(lengths)),
            "module": partial(_unpadded, states, ids, mask),
        }
        with torch.inference_mode():
            timings = interleave(sides, rounds)
        exact = timings["module"].result if exact is None else exact
        row: dict[str, Any] = {"dtype": dtype}
        for name, timing in timings.items():
            row[name] = timing.median * 1e3
            row[f"{name} off"] = float((timing.result.float() - exact).abs().max())
        found.append(row)
    return found


def _unpadded(module: Callable[..., Tensor], ids: Tensor, mask: Tensor) -> Tensor:
    return module(ids, mask)[mask.bool()]


def main(
    rounds: Annotated[int, typer.Option(min=5)] = 15,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    write: Annotated[bool, typer.Option(help="write the table into docs/performance.md")] = False,
) -> None:
    """Measures every batch in both precisions."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    lines = [
        "| batch | precision | transformers module, ms | OpenVINO, ms | packed, ms "
        "| OpenVINO / packed | largest difference of a state: OpenVINO | packed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, lengths in batches().items():
        for row in measure(lengths, rounds, threads):
            lines.append(
                f"| {name} | {row['dtype']} | {row['module']:.0f} | {row['OpenVINO']:.0f} "
                f"| {row['packed']:.0f} | **{row['OpenVINO'] / row['packed']:.2f}** "
                f"| {row['OpenVINO off']:.0e} | {row['packed off']:.0e} |"
            )
    print("\n".join(lines))
    if write:
        report.replace(PAGE, "openvino", "\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
