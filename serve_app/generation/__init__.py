"""Writes summaries: engines behind one Protocol (`extractive`, `causal`, `openai`) and best of n.

Knows models and metrics; knows nothing of Ray or HTTP. Engines are imported from their own
modules (`serve_app.generation.causal.engine`): importing this package must not cost a gateway the
seconds that torch and transformers take.
"""

from serve_app.generation.protocol import GenerationParams, Generator, Summary, SummarySentence

__all__ = ["GenerationParams", "Generator", "Summary", "SummarySentence"]
