"""Histograms as SVG text: bars, a target band, quantiles. Knows numbers and labels only.

Each drawing stands alone: no script, style sheet, font or other file. So it can be a file, or be
put into a page as it is. Colours are of attributes, and no id is used, since in a page both would
be the whole page's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 360, 230  # of one histogram, in pixels at its natural size

_LEFT, _RIGHT, _TOP, _BOTTOM = 14, 14, 46, 50
_INK, _FAINT, _BARS, _BAND, _LINE = "#222222", "#666666", "#7fa8bd", "#f3dcb8", "#9c3d10"
_FONT = 'font-family="system-ui, sans-serif"'
_MOST_BARS = 40
_SVG = 'xmlns="http://www.w3.org/2000/svg"'


@dataclass(frozen=True)
class Band:
    """A target on the axis of values: a line at `centre` in a band from `low` to `high`."""

    centre: float
    low: float
    high: float


@dataclass(frozen=True)
class Quantiles:
    """Five shares of the values: a line from the first to the last, a box between the inner two
    of them, and a tick at the median."""

    values: tuple[float, float, float, float, float]


def histogram(
    values: ArrayLike,
    title: str,
    *,
    subtitle: str = "",
    band: Band | None = None,
    quantiles: Quantiles | None = None,
    span: tuple[float, float] | None = None,
    at: tuple[float, float] = (0, 0),
) -> str:
    """One histogram as an `<svg>` element.

    Args:
        values: what is counted; at least one number, all finite.
        title: above it; also what a screen reader says, with the subtitle.
        subtitle: a second line, smaller.
        band: the target.
        quantiles: drawn under the bars.
        span: ends of the axis, so that several are alike; None: of the values and the band.
        at: its left and upper edge inside another `<svg>`, in pixels.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if not numbers.size or not np.isfinite(numbers).all():
        raise ValueError("a histogram needs finite values")
    low, high = span or _span(numbers, band)
    bars = min(_MOST_BARS, max(5, math.ceil(math.sqrt(numbers.size))))
    counts, edges = np.histogram(numbers, bins=bars, range=(low, high))
    base, top = HEIGHT - _BOTTOM, _TOP
    inner = WIDTH - _LEFT - _RIGHT

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * inner

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    parts.append(_text(_LEFT, 18, title, size=13, weight="600"))
    if subtitle:
        parts.append(_text(_LEFT, 34, subtitle, size=11, colour=_FAINT))
    if band is not None:
        left, right = x(max(low, band.low)), x(min(high, band.high))
        parts.append(_rect("band", left, top, right - left, base - top, _BAND))
    tallest = max(1, int(counts.max()))
    for count, start, end in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            height = count / tallest * (base - top)
            parts.append(
                _rect(
                    "bar", x(start) + 0.5, base - height, x(end) - x(start) - 1, height, _BARS, 0.8
                )
            )
    if band is not None and low <= band.centre <= high:
        parts.append(_line("centre", x(band.centre), top - 4, x(band.centre), base, _LINE, 2))
    parts += _axis(low, high, base, x)
    if quantiles is not None:
        parts += _box([x(min(max(value, low), high)) for value in quantiles.values], base + 36)
    label = escape(f"{title}. {subtitle}".strip(". "))
    place = f'x="{at[0]:g}" y="{at[1]:g}" ' if at != (0, 0) else ""
    return (
        f'<svg {_SVG} {place}width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{label}" {_FONT}>{"".join(parts)}</svg>'
    )


def grid(charts: Sequence[str], title: str, caption: Sequence[str] = (), columns: int = 3) -> str:
    """Several drawings in rows under one title, as one `<svg>`.

    Args:
        charts: made with `at` from `cell`.
        title: above them.
        caption: lines under the title.
        columns: drawings a row.
    """
    rows = math.ceil(len(charts) / columns)
    width, height = WIDTH * columns, HEIGHT * rows + _head(len(caption))
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    parts.append(_text(_LEFT, 26, title, size=16, weight="600"))
    for number, line in enumerate(caption):
        parts.append(_text(_LEFT, 46 + 17 * number, line, size=12, colour=_FAINT))
    return (
        f'<svg {_SVG} width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f"{_FONT}><title>{escape(title)}</title>{''.join([*parts, *charts])}</svg>\n"
    )


def cell(number: int, captions: int = 0, columns: int = 3) -> tuple[float, float]:
    """Where the drawing `number` (from 0) of a `grid` with so many caption lines goes."""
    return number % columns * WIDTH, number // columns * HEIGHT + _head(captions)


def _head(captions: int) -> int:
    return 40 + 17 * captions


def _span(numbers: NDArray[np.float64], band: Band | None) -> tuple[float, float]:
    ends = [float(numbers.min()), float(numbers.max())]
    if band is not None:
        ends += [band.low, band.high]
    low, high = min(ends), max(ends)
    # All values alike still need an axis with a length.
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _axis(low: float, high: float, base: float, x: Callable[[float], float]) -> list[str]:
    parts = [_line("axis", _LEFT, base, WIDTH - _RIGHT, base, _INK, 1)]
    for value in ticks(low, high):
        at = x(value)
        parts.append(_line("tick", at, base, at, base + 4, _INK, 1))
        parts.append(_text(at, base + 17, f"{value:g}", size=11, anchor="middle"))
    return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in [low, high], about so many, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _box(places: Sequence[float], middle: float) -> list[str]:
    least, lower, median, upper, most = places
    return [
        _line("whisker", least, middle, most, middle, _FAINT, 1),
        _rect("box", lower, middle - 5, upper - lower, 10, _BARS),
        _line("median", median, middle - 7, median, middle + 7, _INK, 2),
    ]


def _rect(
    name: str, x: float, y: float, width: float, height: float, colour: str, opacity: float = 1
) -> str:
    return (
        f'<rect class="{name}" x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" '
        f'height="{max(height, 0):.2f}" fill="{colour}" fill-opacity="{opacity:g}"/>'
    )


def _line(
    name: str, x: float, y: float, to_x: float, to_y: float, colour: str, width: float
) -> str:
    return (
        f'<line class="{name}" x1="{x:.2f}" y1="{y:.2f}" x2="{to_x:.2f}" y2="{to_y:.2f}" '
        f'stroke="{colour}" stroke-width="{width:g}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    colour: str = _INK,
    weight: str = "400",
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
    )
