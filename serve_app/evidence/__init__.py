"""What a summary says otherwise than its source, in words: findings per sentence, and omissions.

Knows sentences, quantities and claims, by rules; knows no metric, no model, no Ray and no HTTP.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.evidence.alignment import Source, sentences_of
from serve_app.evidence.findings import Finding, Verdict, find, verdict
from serve_app.evidence.omissions import Omission, omitted
from serve_app.text.validation import require_text

__all__ = ["Check", "Finding", "Omission", "Source", "Verdict", "check", "read", "verdict"]


@dataclass(frozen=True, slots=True)
class Check:
    """What `check` found: findings in the order of the summary, omissions in that of the source."""

    findings: tuple[Finding, ...]
    omissions: tuple[Omission, ...]

    @property
    def severe(self) -> int:
        """How many findings would mislead a reader."""
        return sum(finding.severity == "severe" for finding in self.findings)


def read(text: str, unwanted: Callable[[], bool] = lambda: False) -> Source:
    """A source, to compare many summaries with.

    Raises:
        InvalidInput: it is empty or has no word.
        Unavailable: `unwanted` said so.
    """
    require_text(text, "source")
    return Source(text, unwanted)


def check(
    source: str | Source, summary: str, unwanted: Callable[[], bool] = lambda: False
) -> Check:
    """Compares a summary with its source, sentence by sentence; a `Source` is read once for many.

    Args:
        source, summary: the texts.
        unwanted: asked again and again whether nobody waits for the result any more.

    Raises:
        InvalidInput: a text is empty or has no word.
        Unavailable: `unwanted` said so.
    """
    require_text(summary, "summary")
    if isinstance(source, str):
        source = read(source, unwanted)
    sentences = sentences_of(summary)
    return Check(tuple(find(source, sentences, unwanted)), tuple(omitted(source, sentences)))
