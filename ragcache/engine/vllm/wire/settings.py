"""ConnectorSettings: the values of `kv_connector_extra_config`, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragcache.cache.cache import check_admission
from ragcache.errors import ConfigError
from ragcache.policy import policy_factory
from ragcache.sizes import DiskCache, parse_size

DEFAULT_HOST_CACHE = 4 * 2**30
DEFAULT_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class ConnectorSettings:
    """Settings of the connector. Sizes are in bytes, of all workers together, which share them evenly.

    ConfigError for values that do not fit, and for a `module:Class` that cannot be imported in vLLM's process.
    """

    host_cache: int = DEFAULT_HOST_CACHE  # bytes of host memory for KV
    disk_cache: str = ""  # PATH:SIZE; no disk tier if empty
    disk_cache_replace: bool = False  # remove at the start what other settings have left there
    policy: str = "pgdsf"  # a name of POLICIES, or module:Class
    admission: str = "always"
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS  # segments of a prompt that does not say where its documents end
    device_policy: bool = True  # whether the policy orders vLLM's free blocks as well
    profile: str = ""  # file of prefill times; estimated from the model's shape if empty
    reports: bool = False  # whether vLLM's statistics bring bulletins to a service in front

    def __post_init__(self) -> None:
        _ = policy_factory(self.policy)  # imported, and so checked
        check_admission(self.admission, ConfigError)
        if self.host_cache < 0 or self.chunk_tokens < 1:
            raise ConfigError("host_cache must be 0 or more bytes, and chunk_tokens 1 or more")
        if not (self.keeps or self.reports):
            raise ConfigError("a connector without caches and device_policy has nothing to do: leave it out")
        _ = self.disk  # parsed, and so checked

    @property
    def keeps(self) -> bool:
        """Whether any tier keeps KV by the policy."""
        return bool(self.host_cache or self.disk_cache or self.device_policy)

    @property
    def disk(self) -> DiskCache | None:
        """The folder and size of `disk_cache`; None without a disk tier."""
        if not self.disk_cache:
            return None
        return dataclasses.replace(DiskCache.parse(self.disk_cache), replace=self.disk_cache_replace)

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> ConnectorSettings:
        """The settings in `kv_connector_extra_config`; ConfigError for an unknown name or a value of the wrong type."""
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, value in extra.items():
            if name not in kinds:
                raise ConfigError(f"kv_connector_extra_config: unknown setting {name!r}; there are {', '.join(kinds)}")
            if name == "host_cache":
                value = parse_size(value, f"kv_connector_extra_config: {name}")
            if type(value).__name__ != kinds[name]:
                raise ConfigError(f"kv_connector_extra_config: {name} must be of type {kinds[name]}, not {value!r}")
            if isinstance(value, str) and "\0" in value:
                raise ConfigError(f"kv_connector_extra_config: {name} must be without NUL characters, not {value!r}")
            values[name] = value
        return cls(**values)
