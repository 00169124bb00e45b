"""What the command line prints: metrics of a pair, candidates, settings. Computes nothing."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from serve_app.core.schemas import CandidateOut, EvaluationOut
from serve_app.core.settings import Settings
from serve_app.metrics.loss import METRIC_NAMES

_HEADS = ("Relevance", "Factuality", "FKGL", "SMOG", "Dale-\nChall")


def metrics_table(
    result: EvaluationOut, weights: Sequence[float], models: Mapping[str, str]
) -> Table:
    """The five metrics of one summary beside their targets, and the loss."""
    table = Table(show_footer=True)
    table.add_column("Metric", footer="Loss (0 is best, 1 worst)")
    for name in ("Value", "Target", "Error", "Weight"):
        table.add_column(name, justify="right")
    table.columns[3].footer = f"{result.loss:.4f}"
    table.add_column("Model")
    for (metric, label), weight in zip(METRIC_NAMES.items(), weights, strict=True):
        table.add_row(
            label,
            f"{getattr(result.metrics, metric):.4f}",
            f"{getattr(result.targets, metric):.4f}",
            f"{getattr(result.errors, metric):.4f}",
            f"{weight:g}",
            models.get(metric, ""),
        )
    return table


def candidates_table(candidates: Sequence[CandidateOut]) -> Table:
    """The candidates in the order given: what each scored, its words and how it begins."""
    scored = any(one.scores is not None for one in candidates)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("Variant", *(("Loss", *_HEADS) if scored else ()), "Words"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Begins")
    for one in candidates:
        numbers: list[str] = []
        if one.scores is not None:
            metrics = [getattr(one.scores.metrics, metric) for metric in METRIC_NAMES]
            numbers = [f"{one.scores.loss:.4f}", *(f"{value:.2f}" for value in metrics)]
        elif scored:
            numbers = [""] * (1 + len(METRIC_NAMES))
        words = one.summary.split()
        # Of the text, not the column: the column shrinks to what the terminal leaves it.
        begins = Text(" ".join(words[:12]), no_wrap=True, overflow="ellipsis")
        table.add_row(str(one.variant), *numbers, str(len(words)), begins)
    return table


def settings_rows() -> list[tuple[str, str, str, str]]:
    """(environment variable, values, default, meaning) of every setting, in order."""
    rows = []
    for name, info in Settings.model_fields.items():
        default = "" if info.default is None else str(info.default)
        rows.append((name.upper(), _values(info.annotation), default, info.description or ""))
    return rows


def settings_table() -> Table:
    """The settings for a terminal."""
    table = Table()
    table.add_column("Setting", no_wrap=True)
    for name in ("Values", "Default", "Meaning"):
        table.add_column(name, overflow="fold")
    for row in settings_rows():
        table.add_row(*(Text(repr(cell)[1:-1]) for cell in row))
    return table


def settings_markdown() -> str:
    """The settings as a Markdown table, for docs/settings.md."""
    lines = ["| Setting | Values | Default | Meaning |", "| --- | --- | --- | --- |"]
    for name, values, default, meaning in settings_rows():
        shown = f"`{repr(default)[1:-1]}`" if default else "unset"
        cells = (f"`{name}`", values, shown, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _values(annotation: Any) -> str:
    """`a, b` for a choice, else the type's name."""
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(get_args(annotation))
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return " or ".join(_values(kind) for kind in kinds)
    known = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return known.get(annotation, "secret text")
