"""The five metrics, their targets and the loss, as a plain library: no Ray, no HTTP, no network.

`bertscore` (relevance), `alignscore` (factuality, or one of `checkers`) and `readability` are
independent; `loss` compares their numbers with targets, and `profiles` says whose; `suite` computes
all five. Import modules by name: a process that needs only the loss then loads no torch.
"""

__all__ = [
    "alignscore",
    "bertscore",
    "checkers",
    "evaluation",
    "explanation",
    "loss",
    "profiles",
    "readability",
    "suite",
    "targets",
]
