"""Tests; `tests.support.texts` and `tests.support.tiny_models` are shared by several files."""
