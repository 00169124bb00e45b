"""Fixtures every test file may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported. Its threads would fight those of the servers the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A loaded machine must not fail a test, and a failure must come again for whoever looks at it.
settings.register_profile("plainmed", deadline=None, derandomize=True)
settings.load_profile("plainmed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The team's data folder, beside the checkout; not part of a plain clone."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared data folder, which is not at {folder}")
    return folder
