"""The five metrics, their targets and the loss, as a plain library: no Ray, no HTTP, no network.

`bertscore` (relevance), `alignscore` (factuality) and `readability` are independent; `loss`
compares their numbers with targets; `suite` computes all five. Import modules by name: a process
that needs only the loss then loads no torch.
"""

__all__ = [
    "alignscore",
    "bertscore",
    "evaluation",
    "explanation",
    "loss",
    "readability",
    "suite",
    "targets",
]
