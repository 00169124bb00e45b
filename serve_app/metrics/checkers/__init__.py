"""Published factuality checkers other than AlignScore, behind the interface of `ClaimScorer`.

Each module is one family: its splitting, its prompt, its label, and where its weights are. No code
of a model's repository is run. Import modules by name.
"""

__all__ = ["factcg", "hhem", "load", "minicheck", "published", "summac"]
