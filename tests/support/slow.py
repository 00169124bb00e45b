"""Marks tests that take long beside what they say: `make test-slow` runs them too."""

from __future__ import annotations

import os

import pytest

WANTED = os.environ.get("PLAINMED_SLOW_TESTS") == "1"


def slow(seconds: int) -> pytest.MarkDecorator:
    """Skips a test unless PLAINMED_SLOW_TESTS=1; `seconds` is what it takes on two cores."""
    reason = f"takes some {seconds} s: PLAINMED_SLOW_TESTS=1, or make test-slow, runs it"
    return pytest.mark.skipif(not WANTED, reason=reason)
