"""What a merged model is called: MODEL_NAME, from where its adapter is. Touches no file."""

from __future__ import annotations

import os
import re

from serve_app.core.errors import ConfigError

_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def derive_model_name(adapter: str) -> str:
    """The name of the model merged from the adapter at a path or reference.

    A last part that has `__` is the name. Else the last two parts are joined by `__`, as
    organisation and model. A trailing `checkpoint-N` belongs to the part before it.

    Raises:
        ConfigError: no name can be made of it.

    >>> derive_model_name("outputs/org__model-run")
    'org__model-run'
    >>> derive_model_name("hf://org/model-run@main")
    'org__model-run'
    >>> derive_model_name("s3://bucket/adapters/org__model-run/checkpoint-300/")
    'org__model-run-checkpoint-300'
    >>> derive_model_name("org/model-run")
    'org__model-run'
    """
    scheme, mark, rest = adapter.partition("://")
    path = rest if mark else os.path.abspath(os.path.expanduser(adapter))
    if scheme == "hf" and mark:
        path = path.partition("@")[0]
    elif mark:
        path = path.partition("/")[2]  # the bucket is no part of the name
    parts = [part for part in re.split(r"[/\\]", path) if part]
    if len(parts) > 1 and re.fullmatch(r"checkpoint-\d+", parts[-1]):
        parts[-2:] = [f"{parts[-2]}-{parts[-1]}"]
    name = parts[-1] if parts and "__" in parts[-1] else "__".join(parts[-2:])
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if not name:
        raise ConfigError(f"no model name can be made of {adapter!r}; give one")
    return name


def require_model_name(name: str) -> str:
    """`name`, if it can be one part of an S3 key and of a path.

    Raises:
        ConfigError: it cannot.
    """
    if not _ALLOWED.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a model name; use letters, digits, '.', '_' and '-', and begin "
            "with a letter or digit"
        )
    return name
