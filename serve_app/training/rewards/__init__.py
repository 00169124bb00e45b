"""Reward functions for TRL, and the metrics in the shapes of torchmetrics and `evaluate`."""

__all__ = ["adapters", "prompts", "reward", "scoring"]
