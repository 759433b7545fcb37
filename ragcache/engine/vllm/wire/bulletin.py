"""Bulletin: what the connector reports to the service in front of it, with vLLM's own statistics of each step.

An engine core is another process, and a step's statistics are what vLLM brings from there without being asked. A
bulletin says what has changed since the one before. It is put together when a step ends, and read moments later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from ragcache.cache.report import CacheReport

NAME_PARAM = "name"  # of `kv_transfer_params`: what bulletins call the request; without one they leave it out
BULLETIN = "bulletin"  # key in the connector's statistics

Sources = dict[str, int]  # tokens of a prompt that were not computed, by the tier that had them
PathChange = tuple[int, int, bool]  # a path's key, the tokens of its last segment, and whether it is cached now


@dataclass(frozen=True, slots=True)
class Ended:
    """A request has ended, for which `computed` tokens of its prompt were computed; `kept` of these stay cached."""

    computed: int
    kept: int
    sources: Sources


@dataclass(frozen=True, slots=True)
class Work:
    """Totals of an engine core since its start.

    `steps` counts forward passes, `seconds` is the time in which at least one was under way. They computed
    `prefill_tokens` of prompts and `decode_tokens` of answers. `preemptions` counts requests that gave memory up.
    """

    steps: int = 0
    seconds: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class Bulletin:
    """What has changed since the bulletin before; a field that is None has not.

    `paths` are in order, parents before children when they enter. `moved` is how moves ended, each with its direction,
    the slower tier's name and the reason if it failed: all failures, and the success that follows one. `clears` counts
    how often the cache has given up what no request holds since the start.
    """

    paths: list[PathChange] = field(default_factory=list)
    sources: dict[str, Sources] = field(default_factory=dict)  # of requests that were scheduled, by their names
    ended: dict[str, Ended] = field(default_factory=dict)  # requests by their names
    moved: list[tuple[str, str, str | None]] = field(default_factory=list)
    clears: int = 0
    cache: CacheReport | None = None
    work: Work | None = None

    def to_wire(self) -> dict[str, Any]:
        """The bulletin in lists, dicts, strings and numbers, which vLLM can send."""
        values: dict[str, Any] = _BULLETIN.dump_python(self)
        return values

    @classmethod
    def from_wire(cls, values: dict[str, Any]) -> Bulletin:
        """The bulletin that `to_wire` was called on, though JSON or msgpack came between."""
        return _BULLETIN.validate_python(values)


_BULLETIN = TypeAdapter(Bulletin)
