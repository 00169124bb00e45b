"""Validates metrics: which of them notice what is wrong with a summary, and agree with readers.

Knows edits of whole summaries, what each metric says of them, and human ratings; knows no server
and no terminal.
"""

__all__ = ["analysis", "measuring", "page", "perturbations", "ratings", "texts"]
