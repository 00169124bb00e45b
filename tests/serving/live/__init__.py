"""Tests over HTTP against a real Ray Serve instance."""
