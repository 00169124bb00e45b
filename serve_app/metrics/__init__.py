"""The five metrics, their targets and the loss, as a plain library: no Ray, no HTTP, no network.

`bertscore` (relevance), `alignscore` (factuality) and `readability` each stand alone; `loss`
compares their numbers with targets; `suite` computes all five. Modules are imported by name, so
that a process which only needs the loss does not load torch.
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
