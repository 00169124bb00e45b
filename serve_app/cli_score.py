"""`plainmed score`: the five metrics and the loss of pairs of texts, here or on a server.

Knows a scorer only as a function from pairs to the answer of `/evaluate`; whether that is this
process's models or a client makes no difference to it. A row that cannot be scored gets a
message in its `error` column and the job goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serve_app.cli_tables import Row, Table, check_suffix, read_table, write_table
from serve_app.client import PlainMedAPIError, PlainMedClient
from serve_app.errors import InvalidInput, MetricFailed, PlainMedError
from serve_app.loss import METRICS, LossFunction, check_weights
from serve_app.schemas import EvaluateResponse, EvaluationOut

ORIGINAL_COLUMNS = ("original", "source_text", "texts_original")
GENERATED_COLUMNS = ("generated", "target_text", "summary", "texts_generated")
RESULT_COLUMNS = (*METRICS, "loss", "error")

Scorer = Callable[[Sequence[str], Sequence[str]], EvaluateResponse]


def scorer_here(weights: Sequence[float] | None, warn: Callable[[str], None]) -> Scorer:
    """Scores with the models and targets of the settings, loaded now.

    Raises:
        ConfigError: a setting, model or targets file is wrong.
        InvalidInput: bad weights.
    """
    # Seconds of imports, so not before they are needed.
    from serve_app.evaluation import evaluate
    from serve_app.metrics.suite import MetricSuite
    from serve_app.responses import evaluation_out
    from serve_app.settings import load_settings
    from serve_app.targets import load_targets

    used = check_weights(weights).tolist()
    settings = load_settings()
    targets = load_targets(settings)
    loss = LossFunction(targets, settings.loss_steepness, settings.loss_direction)
    suite = MetricSuite.from_settings(settings)
    for warning in targets.made_with_other_models(suite.models):
        warn(warning)

    def score(originals: Sequence[str], generated: Sequence[str]) -> EvaluateResponse:
        results = evaluate(suite.measure(originals, generated), loss, weights=used)
        return EvaluateResponse(
            results=[evaluation_out(*pair) for pair in zip(generated, results, strict=True)],
            weights=used,
            models=suite.models,
        )

    return score


def scorer_of(client: PlainMedClient, weights: Sequence[float] | None) -> Scorer:
    """Scores on the client's server."""
    check_weights(weights)
    return lambda originals, generated: client.evaluate(originals, generated, weights=weights)


def parse_weights(text: str | None) -> list[float] | None:
    """`0.25,0.25,0.2,0.15,0.15` as numbers.

    Raises:
        InvalidInput: they are no weights.
    """
    if text is None:
        return None
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"weights must be numbers with commas between, not {text!r}") from None
    check_weights(weights)
    return weights


@dataclass(frozen=True)
class ScoreJob:
    """A table to score, with every question about files and columns already settled."""

    table: Table
    original: str
    generated: str
    out: Path
    prefix: str

    @classmethod
    def prepare(
        cls, source: Path, out: Path, original: str | None, generated: str | None, prefix: str
    ) -> ScoreJob:
        """Reads the table and checks all that can fail before models are loaded.

        Raises:
            InvalidInput: a file, row or column is wrong; it is named.
        """
        check_suffix(out)
        if not out.parent.is_dir():
            raise InvalidInput(f"cannot write {out}: there is no folder {out.parent}")
        table = read_table(source)
        clash = [prefix + name for name in RESULT_COLUMNS if prefix + name in table.columns]
        if clash:
            raise InvalidInput(
                f"{source}: there is already a column {clash[0]!r}; "
                "name the new ones with --prefix, such as --prefix new_"
            )
        return cls(
            table,
            table.column(original, ORIGINAL_COLUMNS, "--original-column"),
            table.column(generated, GENERATED_COLUMNS, "--generated-column"),
            out,
            prefix,
        )

    def run(self, score: Scorer, batch_size: int, console: Console) -> int:
        """Scores every row and writes the output; returns how many rows have no score."""
        columns = [*self.table.columns, *(self.prefix + name for name in RESULT_COLUMNS)]
        with _progress(console) as progress:
            bar = progress.add_task("scoring", total=len(self.table.rows))
            failed = 0

            def rows() -> Iterator[Row]:
                nonlocal failed
                for row, outcome in self._scored(score, batch_size):
                    failed += isinstance(outcome, str)
                    progress.advance(bar)
                    yield {**row, **_cells(outcome, self.prefix)}

            write_table(self.out, columns, rows())
        return failed

    def _scored(self, score: Scorer, batch_size: int) -> Iterator[tuple[Row, EvaluationOut | str]]:
        """Each row with its result, or with why it has none."""
        rows = self.table.rows
        lost: str | None = None
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            outcomes: list[EvaluationOut | str | None] = [self._problem(row) for row in chunk]
            todo = [index for index, outcome in enumerate(outcomes) if outcome is None]
            pairs = [(chunk[i][self.original], chunk[i][self.generated]) for i in todo]
            if pairs and lost is None:
                try:
                    found = _bisect(score, pairs)
                except PlainMedError as error:
                    lost = str(error)
                else:
                    for index, result in zip(todo, found, strict=True):
                        outcomes[index] = result
            for row, outcome in zip(chunk, outcomes, strict=True):
                yield row, outcome if outcome is not None else lost or ""

    def _problem(self, row: Row) -> str | None:
        for column in (self.original, self.generated):
            value = row.get(column)
            if not isinstance(value, str):
                kind = "missing" if value is None else f"not text but {type(value).__name__}"
                return f"column {column!r} is {kind}"
        return None


def _bisect(score: Scorer, pairs: Sequence[tuple[str, str]]) -> list[EvaluationOut | str]:
    """Scores the pairs together; where that fails for their texts, halves until alone.

    Raises:
        PlainMedError: the failure has nothing to do with the texts (no server, no access).
    """
    try:
        answer = score([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    except PlainMedError as error:
        if not _about_texts(error):
            raise
        if len(pairs) == 1:
            return [error.message if error.field is None else f"{error.field}: {error.message}"]
        middle = len(pairs) // 2
        return _bisect(score, pairs[:middle]) + _bisect(score, pairs[middle:])
    return [*answer.results]


def _about_texts(error: PlainMedError) -> bool:
    if isinstance(error, PlainMedAPIError):
        return error.status in (400, 413, 422, 500)
    return isinstance(error, InvalidInput | MetricFailed)


def _cells(outcome: EvaluationOut | str, prefix: str) -> dict[str, Any]:
    if isinstance(outcome, str):
        values: dict[str, Any] = {**dict.fromkeys((*METRICS, "loss")), "error": outcome}
    else:
        values = {**outcome.metrics.model_dump(), "loss": outcome.loss, "error": None}
    return {prefix + name: value for name, value in values.items()}


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
