"""A report as one HTML page that asks for nothing: no script, no other file, no network.

Jinja escapes whatever comes from a corpus; what is put in as markup are our own drawings. The
page's policy forbids scripts and requests besides, so that a mistake here would run nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from serve_app.metrics.loss import METRIC_NAMES, METRICS
from serve_app.offline.report import phrases
from serve_app.offline.report.analysis import NUMBERS, Comparison, Report, SystemReport
from serve_app.offline.report.charts import IntervalBar, Segment, intervals, stacked
from serve_app.offline.report.rouge import MEASURE_NAMES, MEASURES, NOT_COMPUTED
from serve_app.offline.svg_charts import Band, Quantiles, histogram


def to_html(report: Report) -> str:
    """The whole page."""
    return _template().render(
        report=report,
        words=phrases,
        numbers=NUMBERS,
        metrics=METRICS,
        metric_names=METRIC_NAMES,
        measures=MEASURES,
        measure_names=MEASURE_NAMES,
        not_computed=NOT_COMPUTED,
        histograms=_histograms(report),
        parts=_parts(report),
        differences=_differences,
        wins=_wins,
        shade=_shade,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("serve_app.offline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _histograms(report: Report) -> dict[str, list[tuple[str, Markup]]]:
    """By number, a drawing for each system that has any, all on one axis."""
    systems = [one for one in report.systems if one.scored]
    found: dict[str, list[tuple[str, Markup]]] = {}
    for at, name in enumerate(NUMBERS):
        span = _span(report, [one.table[:, at] for one in systems], name) if systems else None
        found[name] = [(one.name, _histogram(report, one, at, name, span)) for one in systems]
    return found


def _span(report: Report, columns: Sequence[Any], name: str) -> tuple[float, float]:
    ends = [float(end) for column in columns for end in (column.min(), column.max())]
    if name in report.targets:
        ends += [
            report.targets[name] - report.sigmas[name],
            report.targets[name] + report.sigmas[name],
        ]
    else:
        ends.append(0.0)
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _histogram(
    report: Report, one: SystemReport, at: int, name: str, span: tuple[float, float] | None
) -> Markup:
    found = one.numbers[name]
    band = None
    subtitle = f"mean {found.mean:.3f}, median {found.quantiles[2]:.3f}"
    if name in report.targets:
        mean, sigma = report.targets[name], report.sigmas[name]
        band = Band(mean, mean - sigma, mean + sigma)
        subtitle += f"; {phrases.share(one.in_band[name])} in the band"
    drawing = histogram(
        one.table[:, at],
        phrases.NAMES[name],
        subtitle=subtitle,
        band=band,
        quantiles=Quantiles(found.quantiles),
        span=span,
    )
    return Markup(drawing)  # noqa: S704 - ours; `histogram` escapes the texts it is given


def _parts(report: Report) -> Markup:
    """The mean loss of each system, a segment a metric."""
    rows = [
        (
            one.name,
            [
                Segment(METRIC_NAMES[metric], one.parts[metric], f"m{at}")
                for at, metric in enumerate(METRICS)
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
