"""`plainmed report` and `plainmed compare`: systems side by side. Parses, reads and writes.

`report` writes a page, for which the models of the settings may read a few texts; `compare` prints
the same numbers, of files that may have no texts, and loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import Profile, Weights
from serve_app.cli.score import parse_weights, progress_bar, tell
from serve_app.core.errors import InvalidInput

if TYPE_CHECKING:
    from serve_app.core.schemas import ProfileName
    from serve_app.metrics.suite import MetricSuite
    from serve_app.offline.report.analysis import Choices
    from serve_app.offline.report.biolaysumm import Submission
    from serve_app.offline.report.rouge import SuiteScores
    from serve_app.offline.report.systems import System


class Suite(StrEnum):
    """A shared task whose own measures are reported too."""

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
    typer.Option("--name", help="Name of the system in a file: in order, one per file."),
]
Id = Annotated[
    str | None,
    typer.Option(
        "--id", help="Column that pairs rows; default: id, doc_id, ..., else the originals."
    ),
]
ModelColumn = Annotated[
    str | None,
    typer.Option(
        help="Column with each row's system; default: model or system, where there is one."
    ),
]
TextColumns = Annotated[
    list[str] | None,
    typer.Option(help="Column of texts in a file that does not say it: in order, one per file."),
]
Prefix = Annotated[str, typer.Option(help="Prefix of the score columns.")]
TargetsFile = Annotated[
    Path | None, typer.Option(help="Targets of the loss; default: those of the settings.")
]
MarkdownFile = Annotated[Path | None, typer.Option(help="Also write the Markdown summary here.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write all numbers here.")]


def report(
    files: Files,
    out: Annotated[Path | None, typer.Option(help="Where to write the page (HTML).")] = None,
    stdout: Annotated[
        bool,
        typer.Option("--stdout", help="Print the page, and the summary on standard error."),
    ] = False,
    name: Names = None,
    id_column: Id = None,
    model_column: ModelColumn = None,
    original_column: TextColumns = None,
    generated_column: TextColumns = None,
    prefix: Prefix = "",
    targets: TargetsFile = None,
    weights: Weights = None,
    profile: Profile = None,
    worst: Annotated[int, typer.Option(help="Worst examples per system.", min=0, max=100)] = 5,
    models: Annotated[
        bool,
        typer.Option(
            help="Let the models of the settings compute what a file lacks: factuality of the "
            "worst examples' sentences, truncation of a sample."
        ),
    ] = True,
    suite: Annotated[
        Suite | None,
        typer.Option(help="FILEs are folders of this shared task; score and report them."),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Folder of the suite's .jsonl; default: each FILE's own.")
    ] = None,
    markdown: MarkdownFile = None,
    json_file: JsonFile = None,
) -> None:
    """Compare scored systems: writes one page that needs no network, prints a summary.

    Distributions beside the targets, the loss and its parts, paired differences with intervals and
    effect sizes, win rates, correlations, worst examples, length and truncation.
    """
    from dataclasses import replace

    from serve_app.offline.report.examples import SuiteReader
    from serve_app.offline.report.reader import Columns, read_systems

    if (out is None) != stdout:
        raise typer.BadParameter("give --out or --stdout")
    if references is not None and suite is None:
        raise typer.BadParameter("--references is for --suite biolaysumm")
    if targets is not None and profile is not None:
        raise typer.BadParameter("--targets and --profile each say the targets: give one of them")
    outputs = _Outputs(out, markdown, json_file, stdout)
    outputs.check()
    columns = [
        Columns(id_column, model_column, original, generated, prefix)
        for original, generated in zip(
            _per_file(original_column, files, "--original-column"),
            _per_file(generated_column, files, "--generated-column"),
            strict=True,
        )
    ]
    if suite is None:
        systems = read_systems(files, name or (), columns)
        loaded = _loaded(models and any(one.has_texts for one in systems))
        choices = _choices(targets, weights, id_column, worst, profile)
    else:
        from serve_app.offline.report.biolaysumm import read_submissions
        from serve_app.offline.report.rouge import rouge_scorer

        rouge_scorer()  # before minutes of scoring
        submissions = read_submissions(files, name or (), references)
        loaded = _loaded(models)
        choices = _choices(targets, weights, id_column, worst, profile)
        systems, scores = _score(submissions, loaded)
        notes = ["Without models: no BERTScore, no AlignScore, no loss."]
        if loaded is not None:
            notes = choices.loss.targets.made_with_other_models(loaded.models)
        choices = replace(choices, suite=scores, notes=tuple(notes))
    choices = replace(choices, check=True)
    if loaded is not None:
        tell("the models read the worst examples; --no-models leaves that out")
        choices = replace(choices, reader=SuiteReader(loaded))
    _finish(systems, choices, outputs)
    if out is not None:
        tell(f"the report is in {out}")


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
    """Compare scored systems in the terminal: as report, but from metrics alone, without a page.

    Also takes the CSV of the earlier system: model, doc_id, relevance, factuality, fkgl, smog,
    dale_chall. The loss is computed from the metrics. No model is loaded.
    """
    from serve_app.offline.report.reader import Columns, read_systems

    outputs = _Outputs(None, markdown, json_file)
    outputs.check()
    columns = Columns(id_column, model_column, prefix=prefix)
    systems = read_systems(files, name or (), columns, texts=False)
    _finish(systems, _choices(targets, weights, id_column, 0), outputs)


def _per_file(
    columns: Sequence[str] | None, files: Sequence[str], option: str
) -> Sequence[str | None]:
    """The column in each file."""
    if not columns:
        return [None] * len(files)
    if len(columns) != len(files):
        raise InvalidInput(
            f"{len(columns)} {option} for {len(files)} files; give it once per file, in order"
        )
    return columns


@dataclass(frozen=True)
class _Outputs:
    page: Path | None
    markdown: Path | None
    json: Path | None
    print_page: bool = False

    def check(self) -> None:
        """Raises `InvalidInput`, before the work, where a file cannot be written."""
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
    targets: Path | None,
    weights: str | None,
    id_column: str | None,
    worst: int,
    profile: ProfileName | None = None,
) -> Choices:
    from serve_app.core.settings import load_settings
    from serve_app.metrics.loss import Targets
    from serve_app.metrics.profiles import load_profile
    from serve_app.offline.report.analysis import Choices

    given = Targets.load(targets) if targets else None
    chosen = load_profile(profile, load_settings(), given)
    used = parse_weights(weights) or chosen.weights
    return Choices(
        chosen.loss, used, profile=profile, terms=chosen.terms, id=id_column, worst=worst
    )


def _score(
    submissions: Sequence[Submission], suite: MetricSuite | None
) -> tuple[list[System], SuiteScores]:
    """Scores a suite's predictions, with a progress bar on a terminal."""
    from rich.console import Console

    from serve_app.offline.report.biolaysumm import score_submissions

    with progress_bar(Console(stderr=True)) as progress:
        bar = progress.add_task("scoring", total=sum(one.rows for one in submissions))
        return score_submissions(submissions, suite, lambda count: progress.advance(bar, count))


def _finish(systems: Sequence[System], choices: Choices, outputs: _Outputs) -> None:
    """Computes, writes the files, prints the summary."""
    from serve_app.offline.report.analysis import analyse
    from serve_app.offline.report.render import to_html, to_json, to_markdown
    from serve_app.storage.locate import locate

    found = analyse(systems, choices)
    summary = to_markdown(found)
    for path, render in (
        (outputs.page, to_html),
        (outputs.markdown, to_markdown),
        (outputs.json, to_json),
    ):
        if path is not None:
            # A lone surrogate of a corpus has no UTF-8 form.
            with locate(path).written() as file:
                file.write(render(found).encode("utf-8", "backslashreplace"))
    if outputs.print_page:
        # As in a file: UTF-8, whatever the terminal's encoding is.
        typer.echo(to_html(found).encode("utf-8", "backslashreplace"), nl=False)
    typer.echo(summary, nl=False, err=outputs.print_page)
