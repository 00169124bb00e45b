"""Generator engines behind one small Protocol.

Engines are imported from their own modules (`serve_app.generation.transformers_engine`):
importing this package must not cost a gateway the seconds torch and transformers take.
"""

from serve_app.generation.protocol import GenerationParams, Generator, Summary, SummarySentence

__all__ = ["GenerationParams", "Generator", "Summary", "SummarySentence"]
