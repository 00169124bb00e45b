"""A report as JSON: every number, no text of the corpus."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np

from serve_app.offline.report.analysis import Report
from serve_app.offline.report.highlights import Marked
from serve_app.offline.report.statistics import Wins


def to_json(report: Report) -> str:
    """The report; what is no number there is null."""
    return json.dumps(_plain(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Marked):
        # A count is a number; the summary itself stays on the page.
        return {"unsupported": value.unsupported, "difficult": value.difficult}
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
