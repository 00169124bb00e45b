"""Renders a report: as one HTML page, as Markdown, as JSON.

The page asks for nothing: no script, no other file, no network. Jinja escapes whatever comes from
a corpus; only our own drawings are put in as markup. The page's policy forbids scripts and requests
too, so that a mistake here would run nothing. The Markdown has the tables without drawings and
texts; the JSON has every number and no text of the corpus.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from serve_app.core.printable import CONTROL
from serve_app.metrics.loss import METRIC_NAMES, METRICS
from serve_app.metrics.profiles import TERM_NAMES
from serve_app.offline.report import phrases
from serve_app.offline.report.analysis import NUMBERS, Comparison, Report, SystemReport
from serve_app.offline.report.charts import IntervalBar, Segment, intervals, stacked
from serve_app.offline.report.examples import MarkedSummary
from serve_app.offline.report.rouge import MEASURE_NAMES, MEASURES, NOT_COMPUTED
from serve_app.offline.report.statistics import Wins
from serve_app.offline.svg_charts import Band, axis_span, histogram

PART_NAMES: dict[str, str] = {**METRIC_NAMES, **TERM_NAMES}  # of the loss
_SPECIAL = re.compile(r"([\\`*_<>|\[\]#])")


def to_html(report: Report) -> str:
    """The whole page."""
    return _render(
        "page.html",
        report,
        histograms=_histograms(report),
        parts=_parts(report),
        differences=_differences,
        wins=_wins,
        shade=_shade,
    )


def to_markdown(report: Report) -> str:
    """The summary."""
    sources = dict.fromkeys(phrases.truncation(one.truncation, report) for one in report.systems)
    return _render("summary.md", report, sources=sources)


def to_json(report: Report) -> str:
    """The numbers; null where there is none."""
    return json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _render(template: str, report: Report, **own: Any) -> str:
    return environment().get_template(template).render(report=report, **own)


@cache
def environment() -> Environment:
    """The templates of the package's pages, which escape whatever they are given."""
    found = Environment(
        loader=PackageLoader("serve_app.offline.report", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["md"] = _markdown_text
    found.globals |= {
        "words": phrases,
        "numbers": NUMBERS,
        "metrics": METRICS,
        "metric_names": METRIC_NAMES,
        "part_names": PART_NAMES,
        "measures": MEASURES,
        "measure_names": MEASURE_NAMES,
        "not_computed": NOT_COMPUTED,
    }
    return found


def _markdown_text(text: str) -> str:
    """Text of a file as text of the Markdown: no markup, no control characters of a terminal."""
    return _SPECIAL.sub(r"\\\1", CONTROL.sub(" ", text))


def _plain(value: Any) -> Any:
    if isinstance(value, MarkedSummary):
        # Counts are numbers; the summary itself stays on the page.
        return {
            "unsupported": value.unsupported,
            "difficult": value.difficult,
            "findings": len(value.findings),
            "omissions": len(value.omissions),
        }
    if isinstance(value, Wins):
        return {**dataclasses.asdict(value), "rate": value.rate}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return _plain(
            {name: one for name, one in fields.items() if not isinstance(one, np.ndarray)}
        )
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- drawings ---------------------------------------------------------------------------


def _histograms(report: Report) -> dict[str, list[tuple[str, Markup]]]:
    """By number, a drawing for each system that has any, all on one axis."""
    systems = [one for one in report.systems if one.scored]
    found: dict[str, list[tuple[str, Markup]]] = {}
    for at, name in enumerate(NUMBERS):
        if systems:
            values = np.concatenate([one.table[:, at] for one in systems])
            band = _band(report, name)
            span = axis_span(values if band else np.append(values, 0.0), band)
        found[name] = [(one.name, _histogram(report, one, at, name, span)) for one in systems]
    return found


def _band(report: Report, name: str) -> Band | None:
    if name not in report.targets:
        return None
    mean, sigma = report.targets[name], report.sigmas[name]
    return Band(mean, mean - sigma, mean + sigma)


def _histogram(
    report: Report, one: SystemReport, at: int, name: str, span: tuple[float, float]
) -> Markup:
    found = one.numbers[name]
    subtitle = f"mean {found.mean:.3f}, median {found.quantiles[2]:.3f}"
    if name in one.in_band:
        subtitle += f"; {phrases.share(one.in_band[name])} in the band"
    drawing = histogram(
        one.table[:, at],
        phrases.NAMES[name],
        subtitle=subtitle,
        band=_band(report, name),
        quantiles=found.quantiles,
        span=span,
    )
    return Markup(drawing)  # noqa: S704 - ours; `histogram` escapes the texts it is given


def _parts(report: Report) -> Markup:
    """The mean loss of each system, a segment a metric or term."""
    rows = [
        (
            one.name,
            [
                Segment(PART_NAMES[name], one.parts[name], f"m{at}")
                for at, name in enumerate(report.weights)
            ],
        )
        for one in report.systems
        if one.parts
    ]
    if not rows:
        return Markup("")
    most = max(sum(part.value for part in parts) for _, parts in rows) or 1.0
    text = "; ".join(f"{name}: {sum(part.value for part in parts):.3f}" for name, parts in rows)
    drawing = stacked(rows, f"Mean loss by parts. {text}. The table has every part.", most * 1.02)
    return Markup(drawing)  # noqa: S704 - ours; `stacked` escapes


def _differences(report: Report, one: Comparison) -> Markup:
    """Differences in units of the targets' standard deviations, so that one axis serves all."""
    rows = []
    for metric in METRICS:
        found, sigma = one.differences[metric], report.sigmas[metric]
        ends = None
        if found.interval is not None:
            ends = (found.interval[0] / sigma, found.interval[1] / sigma)
        rows.append(IntervalBar(METRIC_NAMES[metric], found.mean / sigma, ends))
    said = "; ".join(f"{row.label} {row.centre:+.2f}" for row in rows)
    drawing = intervals(
        rows, f"{one.one} less {one.other}, in standard deviations of the targets. {said}."
    )
    return Markup(drawing)  # noqa: S704 - ours; `intervals` escapes


def _wins(one: Comparison) -> Markup:
    """Shares of pairs in which each system is nearer the target."""
    rows = []
    for name in NUMBERS:
        won = one.wins[name]
        segments = [
            Segment(f"{one.one} nearer", won.won / won.n, "won"),
            Segment("tied", won.tied / won.n, "tied"),
            Segment(f"{one.other} nearer", won.lost / won.n, "lost"),
        ]
        rows.append((phrases.NAMES[name], segments))
    said = "; ".join(f"{name} {100 * parts[0].value:.0f} %" for name, parts in rows)
    drawing = stacked(rows, f"Share of pairs in which {one.one} is nearer the target. {said}.", 1.0)
    return Markup(drawing)  # noqa: S704 - ours; `stacked` escapes


def _shade(value: float | None) -> str:
    """The class of a correlation's cell: its sign and how strong it is, in quarters."""
    if value is None:
        return ""
    strength = int(np.clip(abs(value) * 4, 0, 3))
    return f"{'minus' if value < 0 else 'plus'}{strength}"
