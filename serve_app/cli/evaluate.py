"""`plainmed evaluate`: all that POST /evaluate answers about one pair. Parses and prints."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app.cli.options import Profile, Url, Weights
from serve_app.cli.score import evaluated, parse_weights
from serve_app.core.errors import InvalidInput


def evaluate(
    source: Annotated[
        str, typer.Argument(help="The original, a text file; - reads standard input.")
    ],
    summary: Annotated[str, typer.Argument(help="Its summary, a text file.")],
    human: Annotated[
        str | None,
        typer.Option(help="A human summary; with LOSS_TARGETS=human the target, as in /evaluate."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add positions, plain words and deviations.")
    ] = False,
    findings: Annotated[
        bool, typer.Option(help="Add what the summary says otherwise, and leaves out.")
    ] = True,
    weights: Weights = None,
    profile: Profile = None,
    url: Url = None,
) -> None:
    """Print all that is known about a summary, as JSON: the answer of POST /evaluate.

    Metrics, targets, errors and loss, each sentence's factuality with the passage behind it,
    findings, difficult words, truncation.
    """
    if human is not None and profile is not None:
        raise typer.BadParameter("--human and --profile each say the targets: give one of them")
    texts = (
        _with_words(source),
        _with_words(summary),
        human if human is None else _with_words(human),
    )
    numbers = parse_weights(weights)
    answer = evaluated(*texts, numbers, url, profile=profile, explain=explain, findings=findings)
    typer.echo(answer.model_dump_json(indent=2))


def _with_words(name: str) -> str:
    """The text of a file, or of standard input.

    Raises:
        InvalidInput: it cannot be read, or not be scored; the message names it.
    """
    from serve_app.cli.generate import read_source
    from serve_app.text.validation import require_text

    text = read_source(name)
    try:
        require_text(text, name)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error.message}", code=error.code) from None
    return text
