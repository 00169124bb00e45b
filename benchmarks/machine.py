"""What the machine is, and how fast its dense matrix products are with the same threads."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = (
    "torch", "transformers", "tokenizers", "numpy", "ray", "bert-score", "textstat",
)  # fmt: skip


def facts() -> dict[str, str]:
    """Processor, cores, memory, instruction sets that matter here, threads and versions."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    model = next(
        (line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), ""
    )
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    sets = [
        name
        for name in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
        if name in flags
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "instruction sets": ", ".join(sets),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def gemm_peak(dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """Best floating-point operations a second of a dense product, over a few large shapes."""
    best = 0.0
    with torch.inference_mode():
        for rows, inner, columns in ((2048, 2048, 2048), (1024, 4096, 1024), (4096, 1024, 1024)):
            left = torch.randn(rows, inner).to(dtype)
            right = torch.randn(inner, columns).to(dtype)
            left @ right
            until = time.perf_counter() + seconds / 3
            while time.perf_counter() < until:
                start = time.perf_counter()
                left @ right
                best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


def encoder_flops(config: object, lengths: list[int], layers: int) -> float:
    """Floating-point operations of an encoder's products for sequences of these lengths:
    projections, feed-forward, and both attention products; nothing for norms and activations."""
    hidden = config.hidden_size  # type: ignore[attr-defined]
    inner = config.intermediate_size  # type: ignore[attr-defined]
    tokens = sum(lengths)
    linear = 2 * tokens * (4 * hidden * hidden + 2 * hidden * inner)
    attention = sum(4 * length * length * hidden for length in lengths)
    return float(layers * (linear + attention))
