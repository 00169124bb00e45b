"""Work on whole files without a server: scoring a corpus, calibrating targets, reports.

Knows the metrics and files; knows nothing of HTTP.
"""

__all__ = ["calibration", "corpus", "report"]
