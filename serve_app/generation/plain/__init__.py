"""The plain engine: the extractive engine's sentences, rewritten by rules for a layperson.

Knows grammar and the words of medical abstracts; needs no language model.
"""

__all__ = ["engine", "rules"]
