"""Derives MODEL_NAME from the reference of an adapter. Touches no file."""

from __future__ import annotations

import re

from serve_app.core.errors import ConfigError
from serve_app.storage.artifacts import named_parts

# One part of an S3 key and of a path, as it was given: spaces too.
_ALLOWED = re.compile(r"[^\W_]([^/\\\x00-\x1f\x7f]*[^/\\\s\x00-\x1f\x7f])?")


def derive_model_name(adapter: str) -> str:
    """The name of the model merged from the adapter at a path or reference.

    A last part that has `__` is the name. Else the last two parts are joined by `__`, as
    organisation and model. A last folder such as `final` is left out, and `checkpoint-N` is joined
    to the part before it, so that a checkpoint never replaces the finished model.

    Raises:
        ConfigError: no name can be made of it.

    >>> derive_model_name("outputs/org__model-run/final")
    'org__model-run'
    >>> derive_model_name("hf://org/model-run@main")
    'org__model-run'
    >>> derive_model_name("s3://bucket/adapters/org__model-run/checkpoint-300/")
    'org__model-run-checkpoint-300'
    """
    parts = named_parts(adapter)
    name = parts[-1] if parts and "__" in parts[-1] else "__".join(parts[-2:])
    if not _ALLOWED.fullmatch(name):
        raise ConfigError(f"no model name can be made of {adapter!r}; give one by --model-name")
    return name


def require_model_name(name: str) -> str:
    """`name`, if it can be one part of an S3 key and of a path.

    Raises:
        ConfigError: it cannot.
    """
    if not _ALLOWED.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a model name: it must begin with a letter or digit and have no "
            "slash, backslash or control character, nor a space at its end"
        )
    return name
