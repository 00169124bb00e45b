"""Faults while requests are under way, against a real Ray Serve on several nodes (`make chaos`)."""
