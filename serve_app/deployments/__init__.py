"""Thin Ray Serve classes: batching, concurrency, health; no maths."""
