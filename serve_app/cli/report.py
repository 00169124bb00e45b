"""`plainmed report` and `plainmed compare`: systems side by side. Only parses, reads and writes.

`report` writes a page and may let the models of the settings read a few texts; `compare` prints the
same numbers of files that may have no texts at all, and loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import GeneratedColumn, OriginalColumn, Weights

if TYPE_CHECKING:
    from serve_app.metrics.loss import LossFunction
    from serve_app.metrics.suite import MetricSuite
    from serve_app.offline.report.analysis import Choices, Report
    from serve_app.offline.report.biolaysumm import Submission
    from serve_app.offline.report.rouge import SuiteScores
    from serve_app.offline.report.systems import System


class Suite(StrEnum):
    """What a shared task reports besides."""

    BIOLAYSUMM = "biolaysumm"


Files = Annotated[
    list[str],
    typer.Argument(
        help="Scored .csv, .jsonl or .parquet files, paths or s3://BUCKET/KEY, with relevance, "
        "factuality, fkgl, smog and dale_chall.",
        metavar="FILE...",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="Name of the system in each file, in order; once a file."),
]
Id = Annotated[
    str | None,
    typer.Option("--id", help="Column that pairs rows; default: id, doc_id, ..., else originals."),
]
ModelColumn = Annotated[
    str | None,
    typer.Option(help="Column that names a row's system; default: model or system, if there."),
]
Prefix = Annotated[str, typer.Option(help="What stands before the names of the scores.")]
TargetsFile = Annotated[
    Path | None, typer.Option(help="Targets of the loss; default: those of the settings.")
]
MarkdownFile = Annotated[Path | None, typer.Option(help="Also write the Markdown summary here.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write all numbers here.")]


def report(
    files: Files,
    out: Annotated[Path, typer.Option(help="Where to write the page (HTML).")],
    name: Names = None,
    id_column: Id = None,
    model_column: ModelColumn = None,
    original_column: OriginalColumn = None,
    generated_column: GeneratedColumn = None,
    prefix: Prefix = "",
    targets: TargetsFile = None,
    weights: Weights = None,
    worst: Annotated[int, typer.Option(help="Worst examples a system.", min=0, max=100)] = 5,
    models: Annotated[
        bool,
        typer.Option(
            help="Let the models of the settings read what a file does not say: factuality of the "
            "worst examples' sentences, truncation of a sample."
        ),
    ] = True,
    suite: Annotated[
        Suite | None,
        typer.Option(help="FILEs are folders of that shared task; score and report them."),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder of the suite's .jsonl; default: each FILE's own.")
    ] = None,
    markdown: MarkdownFile = None,
    json_file: JsonFile = None,
) -> None:
    """Compare scored systems: one page that needs no network, and a summary here.

    Distributions beside the targets, the loss and its parts, paired differences with intervals and
    effect sizes, win rates, correlations, worst examples, length and truncation.
    """
    from serve_app.offline.report.reader import Columns

    if references is not None and suite is None:
        raise typer.BadParameter("--references is for --suite biolaysumm")
    outputs = _Outputs(out, markdown, json_file)
    outputs.check()
    columns = Columns(id_column, model_column, original_column, generated_column, prefix)
    if suite is None:
        from serve_app.offline.report.reader import read_systems

        systems = read_systems(files, name or (), columns)
        loaded = _loaded(models and any(one.has_texts for one in systems))
        choices = _choices(targets, weights, id_column, worst)
    else:
        from serve_app.offline.report.biolaysumm import read_submissions
        from serve_app.offline.report.rouge import rouge_scorer

        rouge_scorer()  # before minutes of scoring
        submissions = read_submissions(files, name or (), references)
        loaded = _loaded(models)
        choices = _choices(targets, weights, id_column, worst)
        systems, scores = _score(submissions, loaded)
        choices = _with_suite(choices, scores, loaded)
    if loaded is not None:
        typer.echo("the models read the worst examples; --no-models leaves that out", err=True)
        choices = _with_models(choices, loaded)
    _finish(systems, choices, outputs)
    typer.echo(f"the report is in {out}", err=True)


def compare(
    files: Files,
    name: Names = None,
    id_column: Id = None,
    model_column: ModelColumn = None,
    prefix: Prefix = "",
    targets: TargetsFile = None,
    weights: Weights = None,
    markdown: MarkdownFile = None,
    json_file: JsonFile = None,
) -> None:
    """Compare scored systems in the terminal: as report, from metrics alone, without a page.

    Takes the CSV of the earlier system too: model, doc_id, relevance, factuality, fkgl, smog,
    dale_chall. The loss is computed from the metrics. No model is loaded.
    """
    from serve_app.offline.report.reader import Columns, read_systems

    outputs = _Outputs(None, markdown, json_file)
    outputs.check()
    columns = Columns(id_column, model_column, prefix=prefix)
    systems = read_systems(files, name or (), columns)
    _finish(systems, _choices(targets, weights, id_column, 0), outputs)


@dataclass(frozen=True)
class _Outputs:
    page: Path | None
    markdown: Path | None
    json: Path | None

    def check(self) -> None:
        """Raises `InvalidInput` before the work where one cannot be written."""
        from serve_app.storage.locate import locate

        for path in (self.page, self.markdown, self.json):
            if path is not None:
                locate(path).check_writable()


def _loaded(wanted: bool) -> MetricSuite | None:
    """The models of the settings."""
    if not wanted:
        return None
    from serve_app.core.settings import load_settings
    from serve_app.metrics.suite import MetricSuite

    return MetricSuite.from_settings(load_settings())


def _choices(
    targets: Path | None, weights: str | None, id_column: str | None, worst: int
) -> Choices:
    from serve_app.cli.score import parse_weights
    from serve_app.offline.report.analysis import Choices

    return Choices(_loss(targets), parse_weights(weights), id_column, worst)


def _loss(path: Path | None) -> LossFunction:
    from serve_app.core.settings import load_settings
    from serve_app.metrics.loss import LossFunction, Targets
    from serve_app.metrics.targets import load_targets

    settings = load_settings()
    targets = load_targets(settings) if path is None else Targets.load(path)
    return LossFunction(targets, settings.loss_steepness, settings.loss_direction)


def _score(
    submissions: Sequence[Submission], suite: MetricSuite | None
) -> tuple[list[System], SuiteScores]:
    """Scores a suite's predictions, with a progress bar on a terminal."""
    from rich.console import Console

    from serve_app.cli.score import progress_bar
    from serve_app.offline.report.biolaysumm import score_submissions

    with progress_bar(Console(stderr=True)) as progress:
        bar = progress.add_task("scoring", total=sum(one.rows for one in submissions))
        return score_submissions(submissions, suite, lambda count: progress.advance(bar, count))


def _with_suite(choices: Choices, scores: SuiteScores, suite: MetricSuite | None) -> Choices:
    from dataclasses import replace

    if suite is None:
        notes: tuple[str, ...] = ("Without models: no BERTScore, no AlignScore, no loss.",)
    else:
        notes = tuple(choices.loss.targets.made_with_other_models(suite.models))
    return replace(choices, suite=scores, notes=notes)


def _with_models(choices: Choices, suite: MetricSuite) -> Choices:
    from dataclasses import replace

    from serve_app.offline.report.evidence import SuiteReader

    return replace(choices, reader=SuiteReader(suite))


def _finish(systems: Sequence[System], choices: Choices, outputs: _Outputs) -> None:
    """Computes, prints the summary, writes the files."""
    from serve_app.offline.report.analysis import analyse
    from serve_app.offline.report.to_markdown import to_markdown

    found = analyse(systems, choices)
    summary = to_markdown(found)
    _write(outputs, found, summary)
    typer.echo(summary, nl=False)


def _write(outputs: _Outputs, found: Report, summary: str) -> None:
    from serve_app.offline.report.to_json import to_json
    from serve_app.storage.locate import locate

    written = {}
    if outputs.page is not None:
        from serve_app.offline.report.to_html import to_html

        written[outputs.page] = to_html(found)
    if outputs.markdown is not None:
        written[outputs.markdown] = summary
    if outputs.json is not None:
        written[outputs.json] = to_json(found)
    for path, text in written.items():
        # A lone surrogate of a corpus has no UTF-8 form.
        with locate(path).written() as file:
            file.write(text.encode("utf-8", "backslashreplace"))
