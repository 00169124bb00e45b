"""The extractive engine: chooses sentences of the source and says them in plainer words.

Knows the metrics by which it chooses; needs no language model.
"""

__all__ = ["engine", "passages"]
