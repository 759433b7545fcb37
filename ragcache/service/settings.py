"""ServiceSettings: how a service is set up, whatever computes: sizes of its caches, policy, admission and limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ragcache.cache.cache import check_admission
from ragcache.errors import ConfigError
from ragcache.policy import POLICIES, Policy
from ragcache.reuse.arrangement import check_order
from ragcache.service.limits import Limits
from ragcache.sizes import DiskCache

_LEAST = {
    "top_k": 1,
    "max_tokens": 1,
    "prefill_chunk": 1,
    "max_batch": 1,
    "max_prefill_batch": 1,
    "device_cache": 0,
    "host_cache": 0,
    "max_waiting": 0,
    "reorder_window": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings(Limits):
    """The limits, and how KV is kept. Checked here, and nowhere else: ConfigError names the setting that cannot be.

    `device_cache` and `host_cache` are bytes of memory for KV, `disk_cache` a folder and its bytes; a host or disk
    cache of 0 bytes or None is not there. `policy` makes the eviction policy of a tier for a capacity in tokens.
    `admission` is "always" or "competes", as KnowledgeCache says. Unless it `keeps`, KV is dropped with its request.
    With `share_in_flight`, a request waits for KV that another one is computing, where KV is kept.
    `prefill_chunk` bounds the prompt tokens that the engine computes in a step. The others are those of Limits.
    """

    device_cache: int
    host_cache: int = 0
    disk_cache: DiskCache | None = None
    policy: Callable[[int], Policy] = POLICIES["pgdsf"]
    admission: str = "always"
    keeps: bool = True
    share_in_flight: bool = True
    prefill_chunk: int = 512
    top_k: int = 2
    max_tokens: int = 128

    @classmethod
    def of(cls, source: object, **others: Any) -> ServiceSettings:
        """Settings from the attributes of `source` that have their names; `others` go before those.

        A setting that neither gives has its default. Raises ConfigError, which names the setting that cannot be.
        """
        names = {field.name for field in fields(cls)} - others.keys()
        return cls(**{name: getattr(source, name) for name in names if hasattr(source, name)}, **others)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        check_admission(self.admission, ConfigError)
        check_order(self.order, ConfigError)
        if not self.keeps and (self.host_cache or self.disk_cache):
            raise ConfigError(
                "a host cache or a disk cache has no use where no KV is kept (--no-cache, or policy none): leave out "
                "one or the other"
            )

    @property
    def limits(self) -> Limits:
        """What the service accepts, and what a question gets that does not say."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})
