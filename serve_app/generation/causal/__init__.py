"""The engine for causal language models: a decoding loop with continuous batching.

Knows transformers models and tokens; knows nothing of who asks.
"""

__all__ = ["decoding", "engine", "kv_cache", "scheduler"]
