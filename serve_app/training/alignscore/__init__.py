"""Makes `alignscore-mini`: training pairs, the trainer, the card."""

__all__ = ["data", "development", "evaluation", "mixture", "pairs", "trainer"]
