"""Drawings of a report as SVG text: stacked bars, intervals around zero.

Histograms are those of `serve_app.offline.svg_charts`. Colours are classes, which the page's style
sheet gives a light and a dark value. Knows numbers and labels only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from serve_app.offline.svg_charts import ticks

WIDTH = 720
_LABEL, _RIGHT, _ROW, _BAR = 190, 24, 34, 20
_LONGEST_LABEL = 26


@dataclass(frozen=True)
class Segment:
    """A part of a bar: its name, its length, and the class that colours it."""

    name: str
    value: float
    style: str


@dataclass(frozen=True)
class IntervalBar:
    """A point with its interval; without one (None) only the point is drawn."""

    label: str
    centre: float
    interval: tuple[float, float] | None


def stacked(rows: Sequence[tuple[str, Sequence[Segment]]], title: str, most: float) -> str:
    """One bar a row, made of segments that begin at 0.

    Args:
        rows: label and segments.
        title: what a screen reader says.
        most: the end of the axis, above 0.
    """
    height = _ROW * len(rows) + 40

    def x(value: float) -> float:
        return _LABEL + value / most * (WIDTH - _LABEL - _RIGHT)

    parts = []
    for at, (label, segments) in enumerate(rows):
        top = 8 + at * _ROW
        parts.append(_label(label, top + 15))
        start = 0.0
        for one in segments:
            end = start + max(one.value, 0.0)
            width = x(end) - x(start)
            if width > 0:
                parts.append(
                    f'<rect class="{escape(one.style)}" x="{x(start):.2f}" y="{top}" '
                    f'width="{width:.2f}" height="{_BAR}"><title>{escape(one.name)}: '
                    f"{one.value:.3g}</title></rect>"
                )
            start = end
    parts += _axis(0.0, most, height - 30, x)
    return _svg(parts, height, title)


def intervals(rows: Sequence[IntervalBar], title: str) -> str:
    """Points with their intervals around a line at zero.

    Args:
        rows: at least one.
        title: what a screen reader says.
    """
    ends = [0.0]
    for row in rows:
        ends += [row.centre, *(row.interval or ())]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    height = _ROW * len(rows) + 40

    def x(value: float) -> float:
        return _LABEL + (value - low) / (high - low) * (WIDTH - _LABEL - _RIGHT)

    base = height - 30
    parts = [f'<line class="zero" x1="{x(0):.2f}" y1="4" x2="{x(0):.2f}" y2="{base}"/>']
    for at, row in enumerate(rows):
        middle = 18 + at * _ROW
        parts.append(_label(row.label, middle + 5))
        if row.interval is not None:
            left, right = (x(end) for end in row.interval)
            parts.append(
                f'<line class="interval" x1="{left:.2f}" y1="{middle}" '
                f'x2="{right:.2f}" y2="{middle}"/>'
            )
        parts.append(f'<circle class="point" cx="{x(row.centre):.2f}" cy="{middle}" r="5"/>')
    parts += _axis(low, high, base, x)
    return _svg(parts, height, title)


def _axis(low: float, high: float, base: float, x: Callable[[float], float]) -> list[str]:
    parts = [f'<line class="axis" x1="{_LABEL}" y1="{base}" x2="{WIDTH - _RIGHT}" y2="{base}"/>']
    for value in ticks(low, high):
        at = x(value)
        parts.append(
            f'<line class="tick" x1="{at:.2f}" y1="{base}" x2="{at:.2f}" y2="{base + 4}"/>'
        )
        parts.append(f'<text x="{at:.2f}" y="{base + 18}" text-anchor="middle">{value:g}</text>')
    return parts


def _label(text: str, y: float) -> str:
    short = text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
    return f'<text class="label" x="{_LABEL - 10}" y="{y}" text-anchor="end">{escape(short)}</text>'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wide" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
