"""What BioLaySumm reports where there are human summaries, and ROUGE as its script calls it.

Goldsack et al., "Overview of the BioLaySumm 2024 Shared Task", BioNLP 2024, and its evaluation
script. ROUGE is that of the package `rouge-score`, as there; sentences are split by our own Punkt
(the same boundaries as NLTK's, without its download). Knows texts and numbers, no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve_app.core.errors import ConfigError
from serve_app.text.sentences import split_sentences

ROUGE = ("rouge1", "rouge2", "rougeLsum")
MEASURES = (*ROUGE, "bertscore", "fkgl", "dcrs", "cli", "alignscore")
MEASURE_NAMES = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeLsum": "ROUGE-Lsum",
    "bertscore": "BERTScore",
    "fkgl": "FKGL",
    "dcrs": "DCRS",
    "cli": "CLI",
    "alignscore": "AlignScore",
}
NOT_COMPUTED = "LENS and SummaC, which the task reports too, are not computed here."


@dataclass(frozen=True)
class SuiteScore:
    """One system on one data set.

    Attributes:
        system: its name.
        dataset: of the task; `average` is the mean of the data sets, as the task ranks.
        rows: predictions; None for the average.
        scored: those that have numbers, over which the means go.
        means: by `MEASURES`; None where no model was to be used.
    """

    system: str
    dataset: str
    rows: int | None
    scored: int | None
    means: dict[str, float | None]


@dataclass(frozen=True)
class SuiteScores:
    """All systems on all data sets, and why rows have no numbers, by system and reason."""

    name: str
    scores: tuple[SuiteScore, ...]
    failures: dict[str, dict[str, int]]


def rouge_scorer() -> Any:
    """The scorer of `rouge-score`, set as the task's script sets it.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise ConfigError(
            "--suite biolaysumm needs the package rouge-score: pip install 'plainmed[biolaysumm]'"
        ) from None
    return RougeScorer([*ROUGE], use_stemmer=True)


def rouge(scorer: Any, prediction: str, reference: str) -> dict[str, float]:
    """F1 of each of `ROUGE`, in [0, 1].

    The prediction stands first, where the package expects the reference: the task's script calls
    it so, and ROUGE-Lsum is not symmetric.
    """
    found = scorer.score(_lines(prediction), _lines(reference))
    return {name: float(found[name].fmeasure) for name in ROUGE}


def _lines(text: str) -> str:
    # The package takes a line for a sentence; a break inside one must not end it.
    return "\n".join(" ".join(sentence.split()) for sentence in split_sentences(text))
