"""What a reader without training meets in a summary, as shares of its sentences.

The terms that a profile (`serve_app.metrics.profiles`) has beside the five metrics: how often a
sentence cannot be read, and how often it misleads. By rules; knows no metric and no weight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import get_args

from serve_app.core.schemas import TermName
from serve_app.evidence.alignment import Sentence, sentences_of
from serve_app.evidence.findings import Finding
from serve_app.text.jargon import STATISTIC, unexplained_uses

TERMS: tuple[TermName, ...] = get_args(TermName)


def reader_errors(summary: str, findings: Iterable[Finding]) -> dict[TermName, float]:
    """The error of each of `TERMS`, in [0, 1]; 0 is best.

    `plainness` is the share of the summary's sentences with the name of a statistic, a P value or
    an interval, or with an abbreviation that the summary nowhere explains; `findings` the share of
    those with a severe finding.

    >>> from serve_app.evidence import check
    >>> summary = "We saw 20 people (95% CI 1 to 3). 6 fell ill."
    >>> reader_errors(summary, check("Of 20 people 5 fell ill.", summary).findings)
    {'plainness': 0.5, 'findings': 0.5}

    Args:
        summary: the text, which has a word.
        findings: those of the summary, by `serve_app.evidence.check`.
    """
    sentences = sentences_of(summary)
    return {
        "plainness": _share(sentences, _unreadable(summary, sentences)),
        "findings": _share(
            sentences, (one.sentence for one in findings if one.severity == "severe")
        ),
    }


def _unreadable(summary: str, sentences: Sequence[Sentence]) -> Iterable[int]:
    """The index of the sentence of each word that a reader cannot read."""
    starts = [one.start for one in sentences]
    for match in (*STATISTIC.finditer(summary), *unexplained_uses(summary)):
        yield max(0, bisect_right(starts, match.start()) - 1)


def _share(sentences: Sequence[Sentence], indexes: Iterable[int]) -> float:
    return len(set(indexes)) / len(sentences)
