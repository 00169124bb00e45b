"""A validation as a page, as a table for a terminal, and as JSON.

The page asks for nothing, as a report's (`serve_app.offline.report.render`). None of the three has
a text of the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from serve_app.offline.report.charts import IntervalBar, intervals
from serve_app.offline.report.render import environment
from serve_app.offline.validation.analysis import Effect, KindEffects
from serve_app.offline.validation.measuring import MEASURES
from serve_app.offline.validation.ratings import Correlation

REFERENCE = "fkgl"
"""The measure with whose correlation the others' are compared."""
_HEADS = (
    *("Rele-\nvance", "Factu-\nality", "FKGL", "SMOG", "Dale-\nChall", "Loss"),
    *("Severe\nfinds", "Left\nout", "Diffi-\nculty"),
)
_NOTES = {
    "same": "nothing should change: the share that got worse, and 50% is right",
    "better": "the share that got better",
}


@dataclass(frozen=True)
class Sample:
    """The rows of a file that were used: its name without folders, its SHA-256, how many rows it
    has, how many were used, how many had no text or no number, and the columns."""

    file: str
    sha256: str
    rows: int
    used: int
    left_out: int
    columns: dict[str, str]


@dataclass(frozen=True)
class Validation:
    """What `plainmed validate` found.

    Attributes:
        version, made: of PlainMed; when, in UTC.
        models: of the metrics, by metric; none where no model was needed.
        seed, share: of the edits.
        seconds, tokens: of the measuring; tokens are those that the models encoded.
        perturbed: the summaries that were edited, and what each edit did.
        rated: the rated texts, and each measure's correlation.
    """

    version: str
    made: str
    models: dict[str, str]
    seed: int
    share: float
    seconds: float
    tokens: int
    perturbed: Sample | None = None
    kinds: Sequence[KindEffects] = field(default_factory=list)
    rated: Sample | None = None
    correlations: dict[str, Correlation] = field(default_factory=dict)


def to_json(found: Validation) -> str:
    """All numbers; null where there is none."""
    document: dict[str, Any] = asdict(found)
    for kind, row in zip(found.kinds, document["kinds"], strict=True):
        for name, effect in kind.effects.items():
            row["effects"][name]["seen"] = effect.seen
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def to_html(found: Validation) -> str:
    """The whole page."""
    return (
        environment()
        .get_template("validation.html")
        .render(
            found=found,
            measures=MEASURES,
            notes=_NOTES,
            cell=cell,
            shade=_shade,
            charts=[(MEASURES[name], _chart(found, name)) for name in MEASURES],
            reference=MEASURES[REFERENCE],
        )
    )


def effects_table(kinds: Sequence[KindEffects]) -> Table:
    """The share of texts in which each measure moved as it should, by edit."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("Edit", no_wrap=True)
    for head in ("Texts", *_HEADS):
        table.add_column(head, justify="right", no_wrap=True)
    aspect = ""
    for kind in kinds:
        if kind.aspect != aspect:
            aspect = kind.aspect
            table.add_section()
            table.add_row(Text(aspect, style="bold"))
        mark = {"same": "=", "better": "+"}.get(kind.wanted, "")
        cells = [_coloured(kind, effect) for effect in kind.effects.values()]
        table.add_row(f"{kind.name}{mark}", str(kind.n), *cells)
    return table


LEGEND = """\
Share of texts in which the measure moved as it should; 50% is a measure that does not see the edit.
In brackets: the 95% interval holds 50%. +: better is wanted. =: nothing should change, and the cell
is the share that got worse."""


def correlations_table(found: dict[str, Correlation]) -> Table:
    """Rank correlations of the measures with the ratings."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("Measure", "Spearman", "Kendall", "Beyond FKGL"):
        table.add_column(name, no_wrap=True)
    for name, one in found.items():
        table.add_row(
            MEASURES[name],
            _shown(one.spearman, one.spearman_interval),
            _shown(one.kendall, one.kendall_interval),
            _shown(one.beyond, one.beyond_interval),
        )
    return table


def _shown(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or interval is None:
        return "" if value is None else f"{value:+.2f}"
    return f"{value:+.2f} ({interval[0]:+.2f} to {interval[1]:+.2f})"


def cell(effect: Effect) -> str:
    """The share that moved; in brackets where it may be chance."""
    share = f"{effect.moved:.0%}"
    return f"({share})" if effect.seen is None else share


def _coloured(kind: KindEffects, effect: Effect) -> Text:
    right = effect.seen if kind.wanted != "same" else effect.seen is None
    style = {True: "green", False: "red", None: ""}[right]
    return Text(cell(effect), style=style)


def _shade(effect: Effect) -> str:
    """The class of a cell: the way it moved and how often, in steps of a sixth."""
    if effect.seen is None:
        return ""
    steps = min(3, 1 + int(6 * abs(effect.moved - 0.5)))
    return f"{'plus' if effect.seen else 'minus'}{steps}"


def _chart(found: Validation, name: str) -> Markup:
    """How far a measure moved under each edit, in its standard deviations."""
    rows = [
        IntervalBar(kind.name, effect.effect, effect.effect_interval)
        for kind in found.kinds
        if (effect := kind.effects.get(name)) is not None and effect.effect is not None
    ]
    if not rows:
        return Markup("")
    said = "; ".join(f"{row.label} {row.centre:+.2f}" for row in rows)
    drawing = intervals(rows, f"{MEASURES[name]}, in its standard deviations. {said}.")
    return Markup(drawing)  # noqa: S704 - ours; `intervals` escapes
