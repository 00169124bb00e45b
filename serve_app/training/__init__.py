"""Training: the embedded factuality model, generators against the loss, merging, rewards.

Nothing here is needed to serve. `alignscore` makes alignscore-mini; `generator` is the recipe of
scripts/train_generator.py; `merge` joins a LoRA adapter to its base and uploads it; `rewards` are
reward functions for TRL and the metrics in other libraries' shapes.
"""

__all__ = ["alignscore", "generator", "merge", "rewards"]
