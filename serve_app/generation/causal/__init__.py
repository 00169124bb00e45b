"""The engine for causal language models: prompts, a scheduler with continuous batching, sampling.

Knows transformers models and tokens; knows nothing of who asks.
"""

__all__ = ["engine", "prompts", "sampling", "scheduler"]
