"""`plainmed validate`: which metrics notice what, and agree with readers. Parses and shows."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import OriginalColumn, Weights
from serve_app.cli.score import parse_weights, progress_bar, tell

if TYPE_CHECKING:
    from rich.console import Console

    from serve_app.metrics.difficulty import Difficulty
    from serve_app.offline.validation.measuring import Suite
    from serve_app.offline.validation.page import Sample, Validation
    from serve_app.offline.validation.texts import Texts


WIDTH = 100  # of the tables: narrower, numbers would be cut


def validate(
    file: Annotated[
        str | None,
        typer.Argument(
            help="Originals and summaries, as for plainmed score: a .csv, .tsv, .jsonl, .json or "
            ".parquet file, maybe with .gz, or a folder; a path or s3://BUCKET/KEY.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    rated: Annotated[
        str | None,
        typer.Option(
            help="Texts with human ratings, read in the same way; originals may be missing."
        ),
    ] = None,
    original_column: OriginalColumn = None,
    generated_column: Annotated[
        str | None,
        typer.Option(help="Column of summaries; default: the only usual name, as plainmed score."),
    ] = None,
    rating_column: Annotated[
        str | None,
        typer.Option(help="Column of ratings; default: rating, score, human_score or easiness."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only rows with this value in the column split.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Texts of each file that the models read, drawn at random.", min=3)
    ] = 100,
    share: Annotated[
        float, typer.Option(help="Share of the sentences that an edit changes, in (0, 1].")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Random seed of rows and edits.", min=0)] = 0,
    weights: Weights = None,
    difficulty: Annotated[
        Path | None,
        typer.Option(help="A difficulty model of scripts/fit_difficulty.py; default: ours."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a page (HTML) here.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Measure the metrics: what does each notice, and does it agree with readers?

    Summaries are edited in 18 ways (sentences deleted, numbers changed, sides exchanged, ...), and
    for each way each of the five metrics, the loss, the findings and the estimate of difficulty is
    measured before and after. With --rated: their rank correlation with human ratings.
    """
    from rich.console import Console

    from serve_app.offline.validation import page
    from serve_app.storage.locate import locate

    if file is None and rated is None:
        raise typer.BadParameter("give FILE, --rated or both")
    if not 0 < share <= 1:
        raise typer.BadParameter("--share is above 0 and at most 1")
    numbers = parse_weights(weights)
    if out is not None:
        locate(out).check_writable()
    found = _measure(
        *_read(file, rated, original_column, generated_column, rating_column, split, limit, seed),
        numbers,
        difficulty,
        share,
        seed,
        Console(stderr=True),
    )
    if out is not None:
        with locate(out).written() as stream:
            stream.write(page.to_html(found).encode("utf-8", "backslashreplace"))
        tell(f"the page is in {out}")
    if json_output:
        typer.echo(page.to_json(found))
        return
    console = Console()
    console.width = max(console.width, WIDTH)
    if found.kinds:
        console.print(page.effects_table(found.kinds))
        console.print(page.LEGEND, highlight=False)
    if found.correlations:
        console.print(page.correlations_table(found.correlations))


def _read(
    file: str | None,
    rated: str | None,
    original: str | None,
    generated: str | None,
    rating: str | None,
    split: str | None,
    limit: int,
    seed: int,
) -> tuple[Texts | None, Texts | None]:
    """The texts of both files, read before any model is loaded; says what was chosen."""
    from serve_app.core.settings import load_settings
    from serve_app.offline.validation.texts import read_rated, read_summaries

    check = load_settings().language_check != "off"
    pairs = ratings = None
    if file is not None:
        pairs = read_summaries(
            file,
            original=original,
            generated=generated,
            split=split,
            limit=limit,
            seed=seed,
            language_check=check,
        )
    if rated is not None:
        if file is not None and (original is not None or generated is not None):
            tell(f"the columns named are those of {file}; to name those of {rated}, give it alone")
            original = generated = None
        ratings = read_rated(
            rated,
            original=original,
            generated=generated,
            rating=rating,
            split=split,
            limit=limit,
            seed=seed,
            language_check=check,
        )
    for texts in (pairs, ratings):
        if texts is not None:
            for note in texts.notes:
                tell(note)
            columns = ", ".join(f"{what} in {name!r}" for what, name in texts.columns.items())
            used = f"{len(texts.numbers)} of {texts.rows} rows of {texts.name}"
            left = f"; {texts.left_out} without a text or a number" if texts.left_out else ""
            tell(f"{used}: {columns}{left}")
    return pairs, ratings


def _measure(
    pairs: Texts | None,
    ratings: Texts | None,
    weights: list[float] | None,
    difficulty: Path | None,
    share: float,
    seed: int,
    console: Console,
) -> Validation:
    from datetime import UTC, datetime

    from serve_app import __version__
    from serve_app.metrics.difficulty import Difficulty
    from serve_app.offline.validation import analysis, measuring
    from serve_app.offline.validation import ratings as correlating
    from serve_app.offline.validation.page import REFERENCE, Validation

    estimate = Difficulty.load(difficulty)
    suite = None
    if pairs is not None or (ratings is not None and ratings.originals):
        suite = _suite(weights, estimate)
    started = time.perf_counter()
    kinds, correlations = [], {}
    total = sum(len(one.originals) for one in (pairs, ratings) if one is not None)
    with progress_bar(console) as progress:
        bar = progress.add_task("measuring", total=total)
        step = partial(progress.advance, bar)
        if pairs is not None and suite is not None:
            measured = measuring.measure_perturbed(
                pairs, suite, share=share, seed=seed, on_text=step
            )
            kinds = analysis.effects(measured, seed)
        if ratings is not None:
            table = (
                measuring.measure_rated(ratings, suite, step)
                if suite is not None and ratings.originals
                else measuring.measure_readability(ratings, estimate)
            )
            correlations = correlating.correlations(
                table, ratings.ratings, reference=REFERENCE, seed=seed
            )
    models = {} if suite is None else suite.metrics.models
    tokens = 0
    if suite is not None:
        tokens = suite.metrics.relevance.tokens + suite.metrics.factuality.tokens
    return Validation(
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        models=models,
        seed=seed,
        share=share,
        seconds=time.perf_counter() - started,
        tokens=tokens,
        perturbed=_sample(pairs),
        kinds=kinds,
        rated=_sample(ratings),
        correlations=correlations,
    )


def _suite(weights: list[float] | None, difficulty: Difficulty) -> Suite:
    """The models and the loss of the settings, loaded now."""
    from serve_app.core.settings import load_settings
    from serve_app.metrics.loss import LossFunction
    from serve_app.metrics.suite import MetricSuite
    from serve_app.offline.validation.measuring import Suite

    settings = load_settings()
    loss = LossFunction.of(settings)
    metrics = MetricSuite.from_settings(settings)
    for warning in loss.targets.made_with_other_models(metrics.models):
        tell(f"warning: {warning}")
    return Suite(metrics, loss, weights, difficulty)


def _sample(texts: Texts | None) -> Sample | None:
    from serve_app.offline.validation.page import Sample

    if texts is None:
        return None
    return Sample(
        file=PurePosixPath(texts.name).name,
        sha256=texts.sha256,
        rows=texts.rows,
        used=len(texts.numbers),
        left_out=texts.left_out,
        columns=dict(texts.columns),
    )
