"""Where weights come from: a reference in, a local path out.

A reference is a local directory or file, `embedded:NAME` (inside an installed package),
`s3://bucket/key`, or `hf://org/name[@revision]`. Nothing is downloaded unless the
reference says so.
"""

from serve_app.storage.artifacts.embedded import embedded_path
from serve_app.storage.artifacts.fetch_options import Downloads
from serve_app.storage.artifacts.resolve import resolve

__all__ = ["Downloads", "embedded_path", "resolve"]
