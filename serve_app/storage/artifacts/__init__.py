"""Where weights come from: a reference in, a local path out. Knows nothing of what is in them.

Nothing is downloaded unless the reference says so.
"""

from serve_app.storage.artifacts.resolve import (
    Downloads,
    cache_root,
    embedded_path,
    named_parts,
    reference_name,
    require_reference,
    resolve,
)

__all__ = [
    "Downloads",
    "cache_root",
    "embedded_path",
    "named_parts",
    "reference_name",
    "require_reference",
    "resolve",
]
