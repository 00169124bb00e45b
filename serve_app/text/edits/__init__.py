"""Edits of one sentence by rule: false claims of true ones, and true ones in other words.

Knows words and punctuation; not what an edit is for. Training makes pairs of them, validation asks
which metrics notice.
"""

__all__ = ["corruptions", "lexicon", "trial_edits"]
