"""Where the repository is, for tests at any depth."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALIGNSCORE = ROOT / "tests" / "fixtures" / "alignscore"
"""Tiny weights with scores by the reference code; scripts/make_alignscore_fixture.py."""
