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
from ragcache.policy import POLICIES, Belady, Policy
from ragcache.simulate.trace import Trace
from ragcache.storage.imaginary import Imaginary
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree

SIMULATED = (*POLICIES, "belady")
_REPORT_EVERY = 2000  # requests


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy achieved. `hits` counts documents, and `hit_ratio` is the share of the documents asked for.

    With a host tier, hits are those of both tiers, `host_hits` of them those that the device lacked; loading them from
    there counts as no time. `evictions` are the device's.

    `seconds_saved` is the prefill time of all requests without a cache less that with it, documents alone, and its
    ratio is to that without.
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
    """Replays one trace as often as asked: requests one after the other, each ended before the next begins.

    A capacity is in the trace's unit of size and bounds what the documents take. Of a path that exceeds it, only the
    beginning that fits is cached. With admission "competes", what a request computes lies outside the capacity until
    the request ends. With a `host_capacity` there is a host tier of that size below each, under the same policy.
    """

    def __init__(self, trace: Trace, cost: PrefillCost, admission: str = "always", host_capacity: int = 0) -> None:
        if host_capacity < 0:
            raise ConfigError(f"a host's capacity is 0 or more, not {host_capacity}")
        self.trace = trace
        self.cost = cost
        self.admission = admission
        self.host_capacity = host_capacity
        self._future: dict[int, list[int]] | None = None

    def run_all(self, policies: Sequence[str], capacities: Sequence[int]) -> list[Outcome]:
        """Each policy at each capacity. On a terminal, a bar on stderr says how long it will take yet."""
        total = len(policies) * len(capacities) * len(self.trace)
        with tqdm(total=total, unit="requests", unit_scale=True, disable=None, leave=False, delay=1) as bar:
            outcomes = []
            for policy in policies:
                for capacity in capacities:
                    bar.set_description(f"{policy} at {capacity}", refresh=False)
                    outcomes.append(self.run(policy, capacity, on_progress=bar.update))
        return outcomes

    def run(
        self,
        policy_name: str,
        capacity: int,
        *,
        on_progress: Callable[[int], object] | None = None,
        on_request: Callable[[int], object] | None = None,
    ) -> Outcome:
        """One policy at one capacity. `on_progress` is told numbers of requests done, `on_request` the cached
        documents of each."""
        policy = self._policy(policy_name, capacity)
        policies, host = [policy], None
        if self.host_capacity:
            policies.append(self._policy(policy_name, self.host_capacity))
            host = HostTier(self.host_capacity, 1, policies[1], Imaginary())
        working = max(self.trace.tokens) if self.admission == "competes" else 0
        cache = KnowledgeCache(
            capacity + working, 1, policy, cost=self.cost, admission=self.admission, working=working, host=host
        )
        clairvoyants = [each for each in policies if isinstance(each, Belady)]
        cost = self.cost
        hits = hit_tokens = 0
        seconds = saved = 0.0
        for at, (path, tokens) in enumerate(zip(self.trace.paths, self.trace.tokens, strict=True)):
            for clairvoyant in clairvoyants:
                clairvoyant.now = at
            if tokens > capacity:
                path = _beginning(path, capacity)
            lease = cache.lease(path, 0)
            assert lease is not None  # nobody else holds anything, and the path fits
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
            if on_progress is not None and at % _REPORT_EVERY == _REPORT_EVERY - 1:
                on_progress(_REPORT_EVERY)
        if on_progress is not None:
            on_progress(len(self.trace) % _REPORT_EVERY)
        cache.check_integrity()
        below = cache.hierarchy.host
        return Outcome(
            policy=policy_name,
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

    def _policy(self, name: str, capacity: int) -> Policy:
        if capacity < 1:
            raise ConfigError(f"a capacity is 1 or more, not {capacity}")
        if name == "belady":
            if self._future is None:
                self._future = self.trace.future(KnowledgeTree().root("default").path_key)
            return Belady(self._future)
        if name not in POLICIES:
            raise ConfigError(f"unknown policy {name!r}; known are {', '.join(SIMULATED)}")
        return POLICIES[name](capacity)


def choices(policies: str, capacities: str) -> tuple[list[str], list[int]]:
    """The lists of a command line, checked: names with commas between or "all", and whole numbers."""
    names = list(SIMULATED) if policies == "all" else [name.strip() for name in policies.split(",")]
    for name in names:
        if name not in SIMULATED:
            raise ConfigError(f"unknown policy {name!r}; known are {', '.join(SIMULATED)}, or all")
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
        of_host = set() if with_host else {"host_capacity", "host_hits"}
        rows = [{name: value for name, value in asdict(o).items() if name not in of_host} for o in outcomes]
        return json.dumps(rows, indent=2)
    columns = {"policy": -10, "capacity": 14, "hits": 12, "documents": 11, "tokens": 9, "time": 9, "saved": 14}
    columns |= {"evictions": 12} | ({"host hits": 12} if with_host else {})
    lines = ["".join(name.ljust(-width) if width < 0 else name.rjust(width) for name, width in columns.items())]
    capacity = outcomes[0].capacity
    for outcome in sorted(outcomes, key=lambda outcome: outcome.capacity):
        if outcome.capacity != capacity:
            lines.append("")
            capacity = outcome.capacity
        lines.append(
            f"{outcome.policy:<10}{outcome.capacity:>14,}{outcome.hits:>12,}{outcome.hit_ratio:>11.2%}"
            f"{outcome.token_hit_ratio:>9.2%}{outcome.seconds_saved_ratio:>9.2%}{outcome.seconds_saved:>12,.1f} s"
            f"{outcome.evictions:>12,}" + f"{outcome.host_hits:>12,}" * with_host
        )
    lines += ["", f"of {outcomes[0].requests:,} requests; documents, tokens and time: the share that the cache saved"]
    if with_host:
        lines[-1] += f"; with a host of {outcomes[0].host_capacity:,}, whose hits are among the hits"
    return "\n".join(lines)


def _beginning(path: tuple[Segment, ...], capacity: int) -> tuple[Segment, ...]:
    """As many of the first documents as fit."""
    used = 0
    for count, segment in enumerate(path):
        used += len(segment.tokens)
        if used > capacity:
            return path[:count]
    return path
