"""naive_lru: LRU over a prefix tree the slow way, for the cache to be compared with."""

from collections.abc import Sequence

from ragcache.tree.segment import Segment


class NaiveTree:
    """LRU over a prefix tree the slow way: a dictionary of paths, searched in full at each eviction."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.last_use: dict[tuple[str, ...], int] = {}
        self.size: dict[tuple[str, ...], int] = {}
        self.clock = 0
        self.evicted: list[tuple[str, ...]] = []

    def use(self, path: Sequence[Segment], extra: int) -> int:
        prefixes = [tuple(s.label for s in path[: n + 1]) for n in range(len(path))]
        hits = sum(prefix in self.size for prefix in prefixes)
        self._touch(prefixes[:hits])
        missing = dict(zip(prefixes[hits:], map(len, path[hits:]), strict=True))
        while sum(self.size.values()) + sum(missing.values()) + extra > self.capacity:
            leaves = [p for p in self.size if not any(q[:-1] == p for q in self.size) and p not in prefixes]
            victim = min(leaves, key=self.last_use.__getitem__)
            del self.size[victim]
            self.evicted.append(victim)
        self.size |= missing
        self._touch(prefixes[hits:])
        return hits

    def _touch(self, prefixes: Sequence[tuple[str, ...]]) -> None:
        for prefix in prefixes:
            self.clock += 1
            self.last_use[prefix] = self.clock
