"""How what is not on this machine is fetched: where it is kept, how much, with which token.

One value, made of the settings by who loads models and passed on to where references are
resolved. It fetches nothing, and nothing of it is kept between calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings
from serve_app.storage.artifacts.cache import cache_root
from serve_app.storage.artifacts.eviction import Cache


@dataclass(frozen=True, slots=True)
class Downloads:
    """The settings that downloads depend on.

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
