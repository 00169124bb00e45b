"""The recipe of scripts/train_generator.py: LoRA fine-tuning, then GRPO against the loss."""

__all__ = ["data", "options", "run", "stages"]
