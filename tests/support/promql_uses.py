"""Which metrics a Prometheus expression reads, and which of their labels it relies on.

By the parser that Prometheus-compatible databases use, so an expression that is none does not pass.
It knows no metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

promql = pytest.importorskip("promql_parser", reason="needs promql-parser, of the dev extra")


@dataclass(frozen=True)
class Use:
    """One series selector.

    Attributes:
        metric: its name.
        labels: that its series must have: it selects, groups or matches by them, or a legend shows
            them.
        equal: labels that must have a value.
        rated: whether its increase is taken.
    """

    metric: str
    labels: frozenset[str]
    equal: frozenset[tuple[str, str]]
    rated: bool


def uses(expression: str, wanted: frozenset[str] = frozenset()) -> list[Use]:
    """The selectors of an expression whose result must have the `wanted` labels.

    Raises:
        ValueError: it is no expression, or drops a label that is wanted.
    """
    return list(_walk(promql.parse(expression), wanted, rated=False))


def _walk(node: Any, wanted: frozenset[str], rated: bool) -> Iterator[Use]:
    if isinstance(node, promql.VectorSelector):
        matchers = node.matchers.matchers
        equal = {(one.name, one.value) for one in matchers if one.op == promql.MatchOp.Equal}
        names = frozenset(one.name for one in matchers)
        yield Use(node.name, wanted | names, frozenset(equal), rated)
    elif isinstance(node, promql.MatrixSelector):
        yield from _walk(node.vector_selector, wanted, rated)
    elif isinstance(node, promql.AggregateExpr):
        kept = frozenset(node.modifier.labels) if node.modifier else frozenset()
        if wanted - kept:
            raise ValueError(f"{sorted(wanted - kept)} dropped by {node}")
        yield from _walk(node.expr, kept, rated)
    elif isinstance(node, promql.Call):
        name = node.func.name
        for one in node.args:
            within = wanted | {"le"} if name == "histogram_quantile" else wanted
            # What is absent has the labels of its selector, and no others.
            within = frozenset() if name == "absent" else within
            yield from _walk(one, within, rated or name in ("rate", "increase"))
    elif isinstance(node, promql.BinaryExpr):
        matching = node.modifier.matching if node.modifier else None
        on = frozenset(matching.labels) if matching else frozenset()
        yield from _walk(node.lhs, wanted | on, rated)
        right = on if str(node.op) in ("unless", "and") else wanted | on
        yield from _walk(node.rhs, right, rated)
    elif isinstance(node, promql.ParenExpr):
        yield from _walk(node.expr, wanted, rated)
    elif not isinstance(node, promql.NumberLiteral):
        raise ValueError(f"what is {type(node).__name__}?")
