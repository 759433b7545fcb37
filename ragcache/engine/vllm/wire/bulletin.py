"""Bulletin: what the connector tells the service in front of it, with vLLM's own statistics of each step.

The engine's core is another process, and a step's statistics are what vLLM brings from there without being asked. A
bulletin says what has changed since the one before; it is put together when a step ends and read moments later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from ragcache.cache.report import CacheReport

NAME_PARAM = "name"  # of `kv_transfer_params`: of a request whose `Begun` and `Ended` are to be told
BULLETIN = "bulletin"  # in the connector's statistics

Sources = dict[str, int]  # tokens of a prompt that were found, by tier
PathChange = tuple[int, int, bool]  # a path's key, the tokens of its last segment, and whether it is cached now


@dataclass(frozen=True, slots=True)
class Ended:
    """A request has ended. Of its prompt, `computed` tokens were computed for it, and `kept` of them stay cached."""

    computed: int
    kept: int
    sources: Sources


@dataclass(frozen=True, slots=True)
class Work:
    """Totals of an engine's core: forward passes, the seconds in which one was under way, prompt tokens and others
    that were computed in them, and requests that had to give their memory up."""

    steps: int = 0
    seconds: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class Bulletin:
    """Changes since the one before; what is None has not changed.

    `paths` in order, parents before children when they enter. `moved`: how moves ended, as Hierarchy.on_moved tells,
    with the reason of a failure: all failures, and the success that follows one. `clears` counts how often the cache
    was told to drop what nobody holds.
    """

    paths: list[PathChange] = field(default_factory=list)
    sources: dict[str, Sources] = field(default_factory=dict)  # of requests that were scheduled, by name
    ended: dict[str, Ended] = field(default_factory=dict)  # by name
    moved: list[tuple[str, str, str | None]] = field(default_factory=list)
    clears: int = 0
    cache: CacheReport | None = None
    work: Work | None = None

    def to_wire(self) -> dict[str, Any]:
        """As plain values, which vLLM can send."""
        values: dict[str, Any] = _BULLETIN.dump_python(self)
        return values

    @classmethod
    def from_wire(cls, values: dict[str, Any]) -> Bulletin:
        """What `to_wire` made, wherever it has been."""
        return _BULLETIN.validate_python(values)


_BULLETIN = TypeAdapter(Bulletin)
