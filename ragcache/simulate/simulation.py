"""Simulation: a trace replayed through the knowledge cache, without tensors and without waiting."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tqdm import tqdm

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.interface import HostTier
from ragcache.cost import PrefillCost
from ragcache.errors import ConfigError
from ragcache.policy import POLICIES, Belady, Policy, PolicyChoice, policy_factory, policy_name
from ragcache.reuse.arrangement import Group, arrange, check_order
from ragcache.reuse.popularity import Popularity
from ragcache.simulate.trace import Requested, Trace
from ragcache.storage.imaginary import Imaginary
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree

SIMULATED = (*POLICIES, "belady")
_REPORT_EVERY = 2000  # requests


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy achieved at a capacity. `hits` counts documents; `hit_ratio` is their share of those asked for.

    With a host tier, `hits` counts those of both tiers, and `host_hits` those of them that the device lacked; loading
    them takes no time. `evictions` are the device's.

    `seconds_saved` is the prefill time of all documents without a cache less that with it, and `seconds_saved_ratio`
    its share of the time without.
    """

    policy: str
    capacity: int
    hits: int
    requests: int
    hit_ratio: float
    token_hit_ratio: float
    seconds_saved: float
    seconds_saved_ratio: float
    evictions: int
    host_capacity: int = 0
    host_hits: int = 0


class Simulation:
    """Replays one trace, once for each policy and capacity. A request ends before the next one begins.

    Capacities are in the trace's unit of size (tokens) and bound the size of the cached documents. Of a path that is
    larger, only the beginning that fits is cached. With admission "competes", what a request computes lies outside the
    capacity until the request ends. With a `host_capacity` above 0, a host tier of that size lies below the cache,
    under the same policy. `cost` prices prefills. The `order` of a request's documents is "retrieval", that of the
    trace, or "tree", by what is cached. Raises ConfigError for a negative `host_capacity` and an unknown `order`.

    A policy is a name (those of POLICIES, or "belady", which knows the future), `module:Class`, or a class or function
    that is called with the capacity or with nothing.
    """

    def __init__(
        self,
        trace: Trace,
        cost: PrefillCost,
        admission: str = "always",
        host_capacity: int = 0,
        order: str = "retrieval",
    ) -> None:
        if host_capacity < 0:
            raise ConfigError(f"a host's capacity is 0 or more, not {host_capacity}")
        check_order(order, ConfigError)
        self.trace = trace
        self.cost = cost
        self.admission = admission
        self.host_capacity = host_capacity
        self.order = order
        self._future: dict[int, list[int]] | None = None

    def run_all(self, policies: Sequence[PolicyChoice], capacities: Sequence[int]) -> list[Outcome]:
        """The outcome of each policy at each capacity. On a terminal, a bar on stderr shows the time left."""
        total = len(policies) * len(capacities) * len(self.trace)
        with tqdm(total=total, unit="requests", unit_scale=True, disable=None, leave=False, delay=1) as bar:
            outcomes = []
            for policy in policies:
                for capacity in capacities:
                    bar.set_description(f"{policy_name(policy)} at {capacity}", refresh=False)
                    outcomes.append(self.run(policy, capacity, on_progress=bar.update))
        return outcomes

    def run(
        self,
        policy: PolicyChoice,
        capacity: int,
        *,
        on_progress: Callable[[int], object] | None = None,
        on_request: Callable[[int], object] | None = None,
    ) -> Outcome:
        """The outcome of one policy at one capacity.

        `on_progress` gets numbers of requests done, `on_request` the number of cached documents of each request. Raises
        ConfigError for a policy that is not known and a capacity below 1.
        """
        policies, host = [self._policy(policy, capacity)], None
        if self.host_capacity:
            policies.append(self._policy(policy, self.host_capacity))
            host = HostTier(self.host_capacity, 1, policies[1], Imaginary())
        working = max(self.trace.tokens) if self.admission == "competes" else 0
        cache = KnowledgeCache(
            capacity + working, 1, policies[0], cost=self.cost, admission=self.admission, working=working, host=host
        )
        clairvoyants = [each for each in policies if isinstance(each, Belady)]
        cost = self.cost
        arranged = _by_tree(cache) if self.order == "tree" else None
        hits = hit_tokens = 0
        seconds = saved = 0.0
        for number, (path, tokens) in enumerate(zip(self.trace.paths, self.trace.tokens, strict=True)):
            for clairvoyant in clairvoyants:
                clairvoyant.now = number
            if arranged is not None:
                path = arranged(path)
            if tokens > capacity:
                path = _beginning(path, capacity)
            lease = cache.lease(path, 0)
            assert lease is not None  # no other lease is open, and the path fits
            if lease.missed_tokens:
                lease.commit((True,) * len(lease.missing))
            lease.release()
            cached = lease.cached_tokens
            hits += lease.cached
            hit_tokens += cached
            full = cost(0, tokens)
            seconds += full
            if cached:
                saved += full - cost(cached, tokens - cached)
            if on_request is not None:
                on_request(lease.cached)
            if on_progress is not None and number % _REPORT_EVERY == _REPORT_EVERY - 1:
                on_progress(_REPORT_EVERY)
        if on_progress is not None:
            on_progress(len(self.trace) % _REPORT_EVERY)
        cache.check_integrity()
        below = cache.hierarchy.host
        return Outcome(
            policy=policy_name(policy),
            capacity=capacity,
            hits=hits,
            requests=len(self.trace),
            hit_ratio=hits / self.trace.documents,
            token_hit_ratio=hit_tokens / sum(self.trace.tokens),
            seconds_saved=saved,
            seconds_saved_ratio=saved / seconds if seconds else 0.0,
            evictions=cache.counts.evictions,
            host_capacity=self.host_capacity,
            host_hits=0 if below is None else below.counts.hits,
        )

    def _policy(self, choice: PolicyChoice, capacity: int) -> Policy:
        if capacity < 1:
            raise ConfigError(f"a capacity is 1 or more, not {capacity}")
        if choice == "belady":
            if self.order != "retrieval":
                raise ConfigError("belady knows the future of paths as the trace has them: leave it or the order out")
            if self._future is None:
                self._future = self.trace.future(KnowledgeTree().root("default").path_key)
            return Belady(self._future)
        return policy_factory(choice, more=["belady"])(capacity)


def choices(policies: str, capacities: str, order: str = "retrieval") -> tuple[list[str], list[int]]:
    """The policies and capacities of a command line: names with commas between or "all", and whole numbers.

    All are those that can replay a trace in this order of documents.

    Raises ConfigError for a name that is not known and a number below 1."""
    every = SIMULATED if order == "retrieval" else POLICIES
    names = list(every) if policies == "all" else [name.strip() for name in policies.split(",")]
    for name in names:
        if name != "belady":
            policy_factory(name, more=["belady", "all"])  # checked now, before a trace is read
    sizes = []
    for text in capacities.split(","):
        if not (text.strip().isascii() and text.strip().isdigit() and int(text) >= 1):
            raise ConfigError(f"a capacity is a whole number of 1 or more, not {text!r}")
        sizes.append(int(text))
    return list(dict.fromkeys(names)), list(dict.fromkeys(sizes))


def report(outcomes: Sequence[Outcome], *, as_json: bool) -> str:
    """The outcomes as a JSON list, or as a table for people."""
    with_host = bool(outcomes[0].host_capacity)
    if as_json:
        left_out = set() if with_host else {"host_capacity", "host_hits"}
        rows = [{name: value for name, value in asdict(o).items() if name not in left_out} for o in outcomes]
        return json.dumps(rows, indent=2)
    width_of_names = max(10, *(len(outcome.policy) + 2 for outcome in outcomes))
    columns = {
        "policy": -width_of_names,
        "capacity": 14,
        "hits": 12,
        "documents": 11,
        "tokens": 9,
        "time": 9,
        "saved": 14,
    }
    columns |= {"evictions": 12} | ({"host hits": 12} if with_host else {})
    lines = ["".join(name.ljust(-width) if width < 0 else name.rjust(width) for name, width in columns.items())]
    capacity = outcomes[0].capacity
    for outcome in sorted(outcomes, key=lambda outcome: outcome.capacity):
        if outcome.capacity != capacity:
            lines.append("")
            capacity = outcome.capacity
        lines.append(
            f"{outcome.policy:<{width_of_names}}{outcome.capacity:>14,}{outcome.hits:>12,}{outcome.hit_ratio:>11.2%}"
            f"{outcome.token_hit_ratio:>9.2%}{outcome.seconds_saved_ratio:>9.2%}{outcome.seconds_saved:>12,.1f} s"
            f"{outcome.evictions:>12,}" + f"{outcome.host_hits:>12,}" * with_host
        )
    lines += ["", f"of {outcomes[0].requests:,} requests; documents, tokens and time: the share that the cache saved"]
    if with_host:
        lines[-1] += f"; with a host of {outcomes[0].host_capacity:,}, whose hits are among the hits"
    return "\n".join(lines)


def _by_tree(cache: KnowledgeCache) -> Callable[[Requested], Requested]:
    """Puts each request's documents in the order that a service chooses by what is cached."""
    popularity = Popularity()

    def arranged(path: Requested) -> Requested:
        order = arrange(
            [Group((segment,)) for segment in path],
            lambda numbers: cache.held([path[number] for number in numbers]),
            lambda segment: popularity.of("", segment.key),
        )
        popularity.count("", [segment.key for segment in path])
        return tuple(path[number] for number in order)

    return arranged


def _beginning(path: tuple[Segment, ...], capacity: int) -> tuple[Segment, ...]:
    """The longest beginning of the path that fits into the capacity."""
    used = 0
    for count, segment in enumerate(path):
        used += len(segment.tokens)
        if used > capacity:
            return path[:count]
    return path
