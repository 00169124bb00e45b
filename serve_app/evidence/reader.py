"""What a reader without training meets in a summary, as shares of its sentences.

The terms that a profile (`serve_app.metrics.profiles`) has beside the five metrics: how often a
sentence cannot be read, and how often it misleads. By rules; knows no metric and no weight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from serve_app.core.schemas import TermName
from serve_app.evidence.alignment import Sentence, Source, sentences_of
from serve_app.evidence.findings import find
from serve_app.text.jargon import STATISTIC, unexplained_uses
from serve_app.text.validation import require_text

TERMS: tuple[TermName, ...] = get_args(TermName)


def reader_errors(
    source: str | Source, summary: str, unwanted: Callable[[], bool] = lambda: False
) -> dict[TermName, float]:
    """The error of each of `TERMS`, in [0, 1]; 0 is best.

    `plainness` is the share of the summary's sentences with the name of a statistic, a P value or
    an interval, or with an abbreviation that the summary nowhere explains; `findings` the share of
    those with a severe finding.

    >>> reader_errors("Of 20 people 5 fell ill.", "We saw 20 people (95% CI 1 to 3). 6 fell ill.")
    {'plainness': 0.5, 'findings': 0.5}

    Args:
        source, summary: the texts; a `Source` is read once for many summaries.
        unwanted: asked again and again whether nobody waits for the result any more.

    Raises:
        InvalidInput: a text is empty or has no word.
        Unavailable: `unwanted` said so.
    """
    require_text(summary, "summary")
    if isinstance(source, str):
        require_text(source, "source")
        source = Source(source, unwanted)
    sentences = sentences_of(summary)
    found = find(source, sentences, unwanted)
    return {
        "plainness": _share(sentences, _unreadable(summary, sentences)),
        "findings": _share(sentences, (one.sentence for one in found if one.severity == "severe")),
    }


def _unreadable(summary: str, sentences: Sequence[Sentence]) -> Iterable[int]:
    """The index of the sentence of each word that a reader cannot read."""
    starts = [one.start for one in sentences]
    for match in (*STATISTIC.finditer(summary), *unexplained_uses(summary)):
        yield max(0, bisect_right(starts, match.start()) - 1)


def _share(sentences: Sequence[Sentence], indexes: Iterable[int]) -> float:
    return len(set(indexes)) / len(sentences)
