"""Which KV is given up first: one protocol, one file for each policy, and their names."""

from collections.abc import Callable, Sequence

from ragcache.policy.arc import ARC
from ragcache.policy.belady import Belady
from ragcache.policy.choice import PolicyChoice, choose, policy_name
from ragcache.policy.gdsf import GDSF
from ragcache.policy.ghost import GhostList
from ragcache.policy.lfu import LFU
from ragcache.policy.lru import LRU
from ragcache.policy.pgdsf import PGDSF
from ragcache.policy.priority import PriorityPolicy
from ragcache.policy.protocol import Policy
from ragcache.policy.queues import QueuePolicy
from ragcache.policy.recency import RecencyList
from ragcache.policy.s3fifo import S3FIFO
from ragcache.policy.sieve import SIEVE
from ragcache.policy.sketch import FrequencySketch
from ragcache.policy.wtinylfu import WTinyLFU

# by name; each makes a policy for a tier whose capacity is given in tokens
POLICIES: dict[str, Callable[[int], Policy]] = {
    "lru": lambda _: LRU(),
    "lfu": lambda _: LFU(),
    "gdsf": lambda _: GDSF(),
    "pgdsf": lambda _: PGDSF(),
    "arc": ARC,
    "sieve": lambda _: SIEVE(),
    "s3fifo": S3FIFO,
    "wtinylfu": WTinyLFU,
}


def policy_factory(choice: PolicyChoice, *, more: Sequence[str] = ()) -> Callable[[int], Policy]:
    """A function that makes the chosen policy for a tier of a capacity in tokens.

    `choice` is a name of POLICIES, `module:Class` (the current folder can be imported from), or a class or function
    that is called with the capacity or with nothing. `more` are names that the caller knows besides, for the message.
    Raises ConfigError, in one line, for what is not known, cannot be imported, or lacks a method of Policy.
    """
    return choose(choice, POLICIES, more)


__all__ = [
    "ARC",
    "GDSF",
    "LFU",
    "LRU",
    "PGDSF",
    "POLICIES",
    "S3FIFO",
    "SIEVE",
    "Belady",
    "FrequencySketch",
    "GhostList",
    "Policy",
    "PolicyChoice",
    "PriorityPolicy",
    "QueuePolicy",
    "RecencyList",
    "WTinyLFU",
    "policy_factory",
    "policy_name",
]
