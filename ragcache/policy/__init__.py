"""Which KV is given up first: one protocol, a file a policy, and their names."""

from collections.abc import Callable

from ragcache.policy.belady import Belady
from ragcache.policy.gdsf import GDSF
from ragcache.policy.lfu import LFU
from ragcache.policy.lru import LRU
from ragcache.policy.pgdsf import PGDSF
from ragcache.policy.priority import PriorityPolicy
from ragcache.policy.protocol import Policy

# by name, made for a tier of a capacity in tokens
POLICIES: dict[str, Callable[[int], Policy]] = {
    "lru": lambda _: LRU(),
    "lfu": lambda _: LFU(),
    "gdsf": lambda _: GDSF(),
    "pgdsf": lambda _: PGDSF(),
}

__all__ = ["GDSF", "LFU", "LRU", "PGDSF", "POLICIES", "Belady", "Policy", "PriorityPolicy"]
