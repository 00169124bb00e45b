"""Options shared by several commands of `plainmed`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serve_app.core.schemas import ProfileName


class Engine(StrEnum):
    """What scores a table or a corpus."""

    AUTO = "auto"
    LOCAL = "local"
    RAY = "ray"


Config = Annotated[
    Path | None, typer.Argument(help="A Serve config such as serve_config.yaml.", dir_okay=False)
]
Url = Annotated[
    str | None,
    typer.Option(help="Call the server at this URL; default: load the models in this process."),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster: auto, HOST:PORT or ray://HOST:PORT."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of model copies on Ray; default: one per CPU (or GPU).", min=1
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Discard saved progress and start over.")]
OriginalColumn = Annotated[
    str | None,
    typer.Option(
        help="Default: the only one of original, source_text, texts_original, original_text, "
        "input_text, article."
    ),
]
GeneratedColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--generated-column",
        help="Column of summaries; several times: one system each. Default: the only one of "
        "generated, target_text, summary, texts_generated, generated_text, predicted_summary, "
        "lay_summary and the like.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(help="Loss weights: relevance,factuality,fkgl,smog,dale_chall; default 0.2 each."),
]
Profile = Annotated[
    ProfileName | None,
    typer.Option(help="Whom the summaries are for: sets targets and weights; default: cochrane."),
]
