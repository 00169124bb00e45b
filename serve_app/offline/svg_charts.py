"""Histograms as SVG text: bars, a target band, quantiles. Knows numbers and labels only.

A drawing needs no script, style sheet, font or other file, so it can be a file or part of a page.
It has no ids and no style rules, which would apply to the whole page.
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
    """A target: a line at `centre` in a band from `low` to `high`, in units of the values."""

    centre: float
    low: float
    high: float


def histogram(
    values: ArrayLike,
    title: str,
    *,
    subtitle: str = "",
    band: Band | None = None,
    quantiles: Sequence[float] | None = None,
    span: tuple[float, float] | None = None,
    at: tuple[float, float] = (0, 0),
) -> str:
    """One histogram as an `<svg>` element.

    Args:
        values: at least one number, all finite.
        title: first line; screen readers read it with the subtitle.
        subtitle: a second, smaller line.
        band: the target.
        quantiles: five, drawn under the bars: a line from the first to the last, a box between the
            second and the fourth, a tick at the median.
        span: ends of the axis, to make several alike; None: those of the values and the band.
        at: left and upper edge inside another `<svg>`, in pixels.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if not numbers.size or not np.isfinite(numbers).all():
        raise ValueError("a histogram needs finite values")
    low, high = span or axis_span(numbers, band)
    bars = min(_MOST_BARS, max(5, math.ceil(math.sqrt(numbers.size))))
    counts, edges = np.histogram(numbers, bins=bars, range=(low, high))
    base, top = HEIGHT - _BOTTOM, _TOP
    inner = WIDTH - _LEFT - _RIGHT

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * inner

    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(_LEFT, 18, title, size=13, font_weight="600"),
    ]
    if subtitle:
        parts.append(_text(_LEFT, 34, subtitle, size=11, fill=_FAINT))
    if band is not None:
        left, right = x(max(low, band.low)), x(min(high, band.high))
        parts.append(_rect("band", left, top, right - left, base - top, _BAND))
    tallest = max(1, int(counts.max()))
    for count, start, end in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            height = count / tallest * (base - top)
            width = x(end) - x(start) - 1
            parts.append(_rect("bar", x(start) + 0.5, base - height, width, height, _BARS, 0.8))
    if band is not None and low <= band.centre <= high:
        parts.append(_line("centre", x(band.centre), top - 4, x(band.centre), base, _LINE, 2))
    parts += _axis(low, high, base, x)
    if quantiles is not None:
        parts += _box([x(min(max(value, low), high)) for value in quantiles], base + 36)
    label = escape(f"{title}. {subtitle}".strip(". "))
    place = f'x="{at[0]:g}" y="{at[1]:g}" ' if at != (0, 0) else ""
    return (
        f'<svg {_SVG} {place}width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{label}" {_FONT}>{"".join(parts)}</svg>'
    )


def grid(charts: Sequence[str], title: str, caption: Sequence[str] = (), columns: int = 3) -> str:
    """Drawings made with `at` from `cell`, in rows under a title and caption lines: one `<svg>`."""
    rows = math.ceil(len(charts) / columns)
    width, height = WIDTH * columns, HEIGHT * rows + _head(len(caption))
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    parts.append(_text(_LEFT, 26, title, size=16, font_weight="600"))
    for number, line in enumerate(caption):
        parts.append(_text(_LEFT, 46 + 17 * number, line, size=12, fill=_FAINT))
    return (
        f'<svg {_SVG} width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f"{_FONT}><title>{escape(title)}</title>{''.join([*parts, *charts])}</svg>\n"
    )


def cell(number: int, captions: int = 0, columns: int = 3) -> tuple[float, float]:
    """Position of drawing `number` (from 0) in a `grid` with that many caption lines."""
    return number % columns * WIDTH, number // columns * HEIGHT + _head(captions)


def _head(captions: int) -> int:
    return 40 + 17 * captions


def axis_span(numbers: NDArray[np.float64], band: Band | None) -> tuple[float, float]:
    """Ends of an axis with all the numbers and the band on it."""
    ends = [float(numbers.min()), float(numbers.max())]
    if band is not None:
        ends += [band.low, band.high]
    low, high = min(ends), max(ends)
    # Equal values still need an axis with a length.
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _axis(low: float, high: float, base: float, x: Callable[[float], float]) -> list[str]:
    parts = [_line("axis", _LEFT, base, WIDTH - _RIGHT, base, _INK, 1)]
    for value in ticks(low, high):
        at = x(value)
        parts.append(_line("tick", at, base, at, base + 4, _INK, 1))
        parts.append(_text(at, base + 17, f"{value:g}", size=11, text_anchor="middle"))
    return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About that many round numbers in [low, high], in steps of 1, 2 or 5 times a power of ten."""
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
    name: str, x: float, y: float, wide: float, high: float, fill: str, opacity: float = 1
) -> str:
    return (
        f'<rect class="{name}" x="{x:.2f}" y="{y:.2f}" width="{max(wide, 0):.2f}" '
        f'height="{max(high, 0):.2f}" fill="{fill}" fill-opacity="{opacity:g}"/>'
    )


def _line(name: str, x: float, y: float, to_x: float, to_y: float, colour: str, wide: float) -> str:
    return (
        f'<line class="{name}" x1="{x:.2f}" y1="{y:.2f}" x2="{to_x:.2f}" y2="{to_y:.2f}" '
        f'stroke="{colour}" stroke-width="{wide:g}"/>'
    )


def _text(x: float, y: float, text: str, size: int, **options: str) -> str:
    style = {"font-weight": "400", "fill": _INK, "text-anchor": "start"}
    style |= {name.replace("_", "-"): value for name, value in options.items()}
    attributes = " ".join(f'{name}="{value}"' for name, value in style.items())
    return f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size}" {attributes}>{escape(text)}</text>'
