"""Makes `alignscore-mini`: training pairs, edits that change a meaning, the trainer, the card."""

__all__ = ["corruptions", "data", "development", "evaluation", "mixture", "pairs", "trainer"]
