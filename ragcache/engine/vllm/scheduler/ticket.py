"""Ticket: one request in vLLM's scheduler, from its first look-up to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from ragcache.cache.hierarchy import Held
from ragcache.tree.segment import Segment
from ragcache.tree.tree import Node


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's path, where its KV came from, and what it holds.

    What was counted when it was first scheduled stays, though it may be preempted and scheduled again.
    """

    request: str  # its id in vLLM
    path: list[Segment]
    namespace: str
    name: str = ""  # what a service in front calls it, if there is one
    prompt_tokens: int = 0
    reached: int = 0  # prompt tokens that have been in a step
    local: int = 0  # tokens that vLLM had itself at the last look-up
    committed: int = 0  # segments of the path that are known to be computed
    nodes: list[Node] = field(default_factory=list)  # of those segments
    held: Held = field(default_factory=list)
    loaded_by_tier: dict[str, int] = field(default_factory=dict)  # tokens of the last load
    counted: bool = False  # whether it has been scheduled, and what follows is set
    cached_tokens: int = 0  # prompt tokens that were not computed then
    sources: dict[str, int] = field(default_factory=dict)  # these tokens by tier
    price: float = 0.0  # seconds for each token that it has to compute
    used: int = 0  # segments of the path that were counted as used
