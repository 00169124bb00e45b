"""Tests; `tests.texts` and `tests.tiny_models` are shared by several files."""
