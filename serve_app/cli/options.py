"""Options shared by several commands of `plainmed`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Engine(StrEnum):
    """What scores a table or a corpus."""

    AUTO = "auto"
    LOCAL = "local"
    RAY = "ray"


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
    str | None, typer.Option(help="Default: original, source_text or texts_original.")
]
GeneratedColumn = Annotated[
    str | None,
    typer.Option(help="Default: generated, target_text, summary or texts_generated."),
]
Weights = Annotated[
    str | None,
    typer.Option(help="Loss weights: relevance,factuality,fkgl,smog,dale_chall; default 0.2 each."),
]
