"""Prefix: the reuse rule that never changes an answer. The longest cached prefix is read, the rest is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ragcache.reuse.plan import Computed, Exact, ReusePlan
from ragcache.tree.segment import Segment


class Sized(Protocol):
    """What is known of a segment's cached KV: its length in tokens."""

    @property
    def size(self) -> int: ...


class Kept(Sized, Protocol):
    """Cached KV of a segment behind its ancestors: a node of the knowledge tree."""

    @property
    def kv(self) -> Any:
        """The KV on the device, opaque; None while it is not there."""


def plan(path: Sequence[Segment], nodes: Sequence[Kept]) -> ReusePlan:
    """Reads `nodes` and computes what of `path` lies behind them.

    `nodes` are those of the first segments of `path`, in order. Raises ValueError if there are more than segments.
    """
    if len(nodes) > len(path):
        raise ValueError(f"{len(nodes)} nodes cannot be those of the first of {len(path)} segments")
    read = [Exact(node.size, node.kv) for node in nodes]
    return (*read, *[Computed(segment.tokens) for segment in path[len(nodes) :]])


def cached_tokens(nodes: Iterable[Sized]) -> int:
    """Tokens that the plan over these nodes reads instead of computing them: its exact length, without the plan."""
    return sum(node.size for node in nodes)
