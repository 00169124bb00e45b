"""Writes what was measured as Markdown, between two marks of a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import Row


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _deviation(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def cases(rows: Iterable[Row]) -> str:
    """The table of cases."""
    lines = [
        "| case | peer | precision | peer, s | ours, s | ratio | wanted | largest deviation | |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        wanted = "" if row.target is None else f"{row.target:g}"
        mark = "" if row.reached is None else "" if row.reached else " (missed)"
        lines.append(
            f"| {row.case} | {row.peer} | {row.dtype} | {row.peer_s:.3f} | {row.ours_s:.3f} "
            f"| **{_number(row.ratio)}**{mark} | {wanted} | {_deviation(row.deviation)} "
            f"| {row.note} |"
        )
    return "\n".join(lines)


def encoder(shares: Iterable[dict[str, Any]]) -> str:
    """The table of the encoder against the machine's own matrix products."""
    lines = [
        "| precision | dense GEMM, GFLOP/s | encoder, GFLOP/s | share | wanted "
        "| the transformers module, GFLOP/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for item in shares:
        mark = "" if item["share"] >= item["target"] else " (missed)"
        lines.append(
            f"| {item['dtype']} | {item['peak_gflops']:.0f} | {item['encoder_gflops']:.0f} "
            f"| **{item['share']:.0%}**{mark} | {item['target']:.0%} "
            f"| {item['module_gflops']:.0f} |"
        )
    return "\n".join(lines)


def ranking(rows: Iterable[dict[str, Any]]) -> str:
    """The table of what bfloat16 changes."""
    lines = [
        "| metric | pairs | Kendall's tau | mean change | largest | standard deviation of scores |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['metric']} | {row['pairs']} | {row['kendall_tau']:.4f} "
        f"| {row['mean_change']:+.1e} | {row['largest_deviation']:.1e} | {row['spread']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def generation(rows: Iterable[dict[str, Any]]) -> str:
    """The table of tokens a second and times to the first token."""
    lines = [
        "| model | precision | at once | one at a time, tokens/s | ours, tokens/s | ratio | wanted "
        "| first token, one at a time: alone, last of all | ours: median, last |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        wanted = "" if row["target"] is None else f"{row['target']:g}"
        mark = " (missed)" if row["target"] is not None and row["ratio"] < row["target"] else ""
        lines.append(
            f"| {row['model']} | {row['dtype']} | {row['at_once']} | {row['plain_tokens_s']:.1f} "
            f"| {row['ours_tokens_s']:.1f} | **{_number(row['ratio'])}**{mark} | {wanted} "
            f"| {row['plain_first_s']:.2f} s, {row['plain_last_first_s']:.2f} s "
            f"| {row['first_s']:.2f} s, {row['last_first_s']:.2f} s |"
        )
    return "\n".join(lines)


def facts(found: dict[str, str]) -> str:
    """The machine in one paragraph."""
    return "; ".join(f"{name}: {value}" for name, value in found.items() if value) + "."


def replace(page: Path, name: str, text: str) -> None:
    """Puts `text` between the page's marks `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = page.read_text(encoding="utf-8")
    if begin not in whole or end not in whole:
        raise ValueError(f"{page} has no {begin} ... {end}")
    head, rest = whole.split(begin, 1)
    _, tail = rest.split(end, 1)
    page.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}", encoding="utf-8")


def publish(page: Path, tables: Mapping[str, str], document: Mapping[str, Any] | None) -> None:
    """Prints the tables; with a `document`, writes them into `page` and it into a .json beside.

    Raises:
        ValueError: the page has no marks for a table.
    """
    for name, table in tables.items():
        print(f"\n## {name}\n\n{table}")
        if document is not None:
            replace(page, name, table)
    if document is not None:
        text = json.dumps(document, indent=2) + "\n"
        page.with_suffix(".json").write_text(text, encoding="utf-8")
