"""Loads, checks and runs transformer encoders and causal language models.

Knows file formats, devices and batches of tokens; knows nothing of metrics or of requests.
Import its modules by name: each needs torch, which takes seconds to load.
"""

__all__ = [
    "causal_lm",
    "device",
    "encoder_runtime",
    "formats",
    "packed_encoder",
    "pretrained",
    "verification",
]
