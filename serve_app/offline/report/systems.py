"""What a report knows of one system: numbers of all its rows, and how to get at texts of a few.

Knows no file format and no statistics. Numbers of every row are held (some hundred bytes a row);
texts never are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TRUNCATIONS = ("relevance_original", "relevance_generated", "factuality")
"""Which part of a text a model did not read, as `/evaluate` names it."""


@dataclass(frozen=True)
class ScoredSentence:
    """A sentence of a summary, its factuality, and the passage that supports it best."""

    text: str
    score: float
    support: str = ""


@dataclass(frozen=True)
class Texts:
    """The texts of one row, as far as there are any.

    Attributes:
        original: the text summarised.
        generated: its summary.
        sentences: sentence-level factuality, where the file carries it.
    """

    original: str | None = None
    generated: str | None = None
    sentences: tuple[ScoredSentence, ...] | None = None


@dataclass(frozen=True)
class System:
    """The rows of one system, in the order of its file.

    Attributes:
        name: of the system, for people.
        file: the name of its file, without folders.
        sha256: of that file's bytes.
        numbers: which row of the file (from 0) each row is.
        values: (rows, 5) metrics in the order of `serve_app.metrics.loss.METRICS`; a row that
            could not be scored is all NaN.
        file_loss: (rows,) the loss the file says; NaN where it says none.
        keys: by column, what identifies each row; "" where a row has nothing there.
        failures: how many rows have no numbers, by reason.
        words: (rows, 2) words of the original and of the summary; NaN without a text.
        truncated: by `TRUNCATIONS`, (rows,) 1 or 0 as the file says, NaN where it does not.
        texts: the texts of rows, given by their position here.
    """

    name: str
    file: str
    sha256: str
    numbers: NDArray[np.int64]
    values: Floats
    file_loss: Floats
    keys: Mapping[str, Sequence[str]]
    failures: Mapping[str, int]
    words: Floats
    truncated: Mapping[str, Floats]
    texts: Callable[[Sequence[int]], list[Texts]]
    scored: Bools = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scored", np.isfinite(self.values).all(axis=1))

    @property
    def rows(self) -> int:
        """All rows, also those without numbers."""
        return len(self.values)

    @property
    def has_texts(self) -> bool:
        """Whether any row has both texts."""
        return bool(np.isfinite(self.words).all(axis=1).any())
