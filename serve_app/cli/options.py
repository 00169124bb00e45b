"""Options that several commands of `plainmed` take alike."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Engine(StrEnum):
    """Who scores a table or a corpus."""

    AUTO = "auto"
    LOCAL = "local"
    RAY = "ray"


Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster: auto, HOST:PORT or ray://HOST:PORT."),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Most sets of models on Ray; default: one for each CPU (or GPU).", min=1),
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget what a killed run has finished.")]
OriginalColumn = Annotated[
    str | None, typer.Option(help="Default: original, source_text or texts_original.")
]
GeneratedColumn = Annotated[
    str | None,
    typer.Option(help="Default: generated, target_text, summary or texts_generated."),
]
Weights = Annotated[
    str | None,
    typer.Option(help="relevance,factuality,fkgl,smog,dale_chall; default 0.2 each."),
]
