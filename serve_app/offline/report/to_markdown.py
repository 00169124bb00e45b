"""A report as Markdown: the tables of the page without its drawings and texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serve_app.metrics.loss import METRIC_NAMES, METRICS
from serve_app.offline.report.analysis import NUMBERS, Comparison, Report
from serve_app.offline.report.phrases import (
    EFFECT,
    NAMES,
    TRUNCATION_NAMES,
    clear,
    failures,
    interval,
    mean_sd,
    number,
    paired,
    remarks,
    share,
    signed,
    target,
    truncation,
)
from serve_app.offline.report.rouge import MEASURE_NAMES, MEASURES, NOT_COMPUTED, SuiteScores

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_SPECIAL = re.compile(r"([\\`*_<>|\[\]#])")


def to_markdown(report: Report) -> str:
    """The whole summary."""
    parts = ["# Comparison of systems", *_about(report)]
    if report.systems:
        parts += ["## Systems", _systems(report), *_failed(report)]
        parts += ["## Metrics: mean ± standard deviation", _metrics(report)]
        parts += ["## Loss by parts: weight × mean error", _parts(report)]
    if report.comparisons:
        parts += ["## Paired differences", f"{EFFECT} In bold: intervals without zero."]
        for one in report.comparisons:
            parts += [
                f"### {safe(one.one)} less {safe(one.other)}",
                safe(paired(one)),
                *([_differences(one)] if one.pairs else []),
            ]
    if report.systems:
        parts += ["## Length and truncation", _lengths(report)]
    if report.suite is not None:
        parts += [f"## {report.suite.name}", _suite(report.suite), NOT_COMPUTED]
    return "\n\n".join(parts) + "\n"


def safe(text: str) -> str:
    """Text of a file as text of the Markdown: no markup, no control characters of a terminal."""
    return _SPECIAL.sub(r"\\\1", _CONTROL.sub(" ", text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(report: Report) -> list[str]:
    weights = ", ".join(f"{name} {value:g}" for name, value in report.weights.items())
    lines = [
        f"PlainMed {report.version}, {report.made}. Weights: {weights}. Intervals: "
        f"{report.confidence:.0%} BCa bootstrap of {report.resamples} resamples."
    ]
    found = remarks(report)
    return lines + (["\n".join(f"- {safe(one)}" for one in found)] if found else [])


def _systems(report: Report) -> str:
    head = ["System", "File", "Rows", "Scored", "Mean loss", "Interval", "Median loss"]
    rows = []
    for one in report.systems:
        loss = one.numbers.get("loss")
        ends = ("–", "–", "–")
        if loss is not None:
            ends = (number(loss.mean), interval(loss.interval), number(loss.quantiles[2]))
        rows.append([safe(one.name), safe(one.file), str(one.rows), str(one.scored), *ends])
    return _table(head, rows)


def _failed(report: Report) -> list[str]:
    return [
        f"{safe(one.name)}: {one.rows - one.scored} rows without numbers "
        f"({safe(failures(one.failures))})."
        for one in report.systems
        if one.rows > one.scored
    ]


def _metrics(report: Report) -> str:
    rows = []
    for metric in NUMBERS:
        cells = []
        for one in report.systems:
            text = mean_sd(one.numbers[metric]) if one.numbers else "–"
            if metric in one.in_band:
                text += f" ({share(one.in_band[metric])} in the band)"
            cells.append(text)
        rows.append([NAMES[metric], target(report, metric), *cells])
    return _table(["Metric", "Target ± σ", *(safe(one.name) for one in report.systems)], rows)


def _parts(report: Report) -> str:
    rows = []
    for metric in METRICS:
        cells = [number(one.parts[metric]) if one.parts else "–" for one in report.systems]
        rows.append([METRIC_NAMES[metric], f"{report.weights[metric]:g}", *cells])
    return _table(["Metric", "Weight", *(safe(one.name) for one in report.systems)], rows)


def _differences(one: Comparison) -> str:
    head = ["", "Difference", "Interval", "d_z", "Nearer the target", "Tied", "Farther"]
    rows = []
    for name in NUMBERS:
        found, won = one.differences[name], one.wins[name]
        ends = interval(found.interval, plus=True)
        rows.append(
            [
                NAMES[name],
                signed(found.mean),
                f"**{ends}**" if clear(found) else ends,
                signed(found.d_z, 2),
                f"{won.won} ({share(won.won / won.n)})",
                str(won.tied),
                str(won.lost),
            ]
        )
    return _table(head, rows)


def _lengths(report: Report) -> str:
    head = ["System", "Words of originals", "Words of summaries", "Summary / original"]
    head += [f"Cut: {name}" for name in TRUNCATION_NAMES.values()]
    rows = []
    for one in report.systems:
        cells = [
            mean_sd(one.lengths[name]) if name in one.lengths else "–"
            for name in ("original", "generated", "ratio")
        ]
        cut = one.truncation
        cells += (
            ["–"] * len(TRUNCATION_NAMES)
            if cut is None
            else [share(cut.counts[name] / cut.rows) for name in TRUNCATION_NAMES]
        )
        rows.append([safe(one.name), *cells])
    sources = dict.fromkeys(truncation(one.truncation, report) for one in report.systems)
    return f"{_table(head, rows)}\n\nTruncation: {safe('; '.join(sources))}."


def _suite(suite: SuiteScores) -> str:
    head = ["System", "Data", "Rows", *(MEASURE_NAMES[name] for name in MEASURES)]
    rows = []
    for one in suite.scores:
        count = "" if one.rows is None else f"{one.scored} of {one.rows}"
        values = [number(one.means[name], 4) for name in MEASURES]
        rows.append([safe(one.system), one.dataset, count, *values])
    lines = [_table(head, rows)]
    for name, found in suite.failures.items():
        if found:
            lines.append(f"{safe(name)}: rows without numbers: {safe(failures(found))}.")
    return "\n\n".join(lines)
