"""Order: whose turn it is among waiting requests, by how much of each is cached (RAGCache, section 5.2)."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence

from ragcache.cache.contract import CachedPath, CachedPaths
from ragcache.reuse import prefix
from ragcache.tree.segment import Segment
from ragcache.tree.tree import path_key


class Waiting:
    """A request that waits, as the order sees it.

    `tokens` is the length of its path. Of that, the first `depth` segments are cached, which are `cached` tokens: the
    exact part of the plan that it would get now.
    """

    __slots__ = ("arrival", "cached", "depth", "namespace", "path", "path_keys", "tokens", "version")

    def __init__(self, path: Sequence[Segment], namespace: str) -> None:
        self.path = path
        self.namespace = namespace
        self.tokens = sum(map(len, path))
        self.path_keys: list[int] = []  # one for each of its prefixes, the shortest first
        self.arrival = -1
        self.depth = 0
        self.cached = 0
        self.version = 0  # its latest entry in the heap has this number


class Order:
    """Gives the turn to the request with the largest cached length / computation length, ties by arrival.

    Fully cached requests come first. What another request is computing counts as cached where the `cached` paths have
    it already: it need not be computed again. A request is overtaken by at most `window` later ones; with a window of 0
    the order is that of arrival. Cached lengths are updated as the tree changes, so that a turn costs the logarithm of
    the number of waiting requests, and as much for each one whose cached length has changed since.

    Pure but for following the `cached` paths: no clock, no I/O. A collision of path keys misleads the order and has no
    other effect.
    """

    def __init__(self, cached: CachedPaths, window: int) -> None:
        self._tree = cached
        self._window = window
        self._arrivals = 0
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()  # by arrival
        self._by_key: dict[int, dict[int, Waiting]] = {}  # by the key of each prefix of their path, then by arrival
        self._heap: list[tuple[float, int, int, Waiting]] = []
        self._passed: list[int] = []  # arrivals that overtook the oldest request still waiting, ascending
        if window:
            cached.follow(self._changed)

    def __len__(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    def add(self, request: Waiting) -> None:
        """Adds a request that waits from now on."""
        request.arrival = self._arrivals
        self._arrivals += 1
        self._waiting[request.arrival] = request
        if self._window:
            root = self._tree.root(request.namespace)
            cached = self._tree.match(root, request.path)
            request.depth = len(cached)
            request.cached = prefix.cached_tokens(cached)
            key = root.path_key
            for segment in request.path:
                key = path_key(key, segment.key)
                request.path_keys.append(key)
                self._by_key.setdefault(key, {})[request.arrival] = request
            self._push(request)

    def withdraw(self, request: Waiting) -> None:
        """Removes a request that waits no longer; does nothing if it was not waiting."""
        if self._waiting.pop(request.arrival, None) is None or not self._window:
            return
        request.version = -1
        for key in request.path_keys:
            same = self._by_key[key]
            del same[request.arrival]
            if not same:
                del self._by_key[key]
        self._forget_passed()

    def is_cached(self, request: Waiting) -> bool:
        """Whether the whole path of a waiting request is cached, or being computed by others."""
        if self._window:
            return request.depth == len(request.path)
        return len(self._tree.match(self._tree.root(request.namespace), request.path)) == len(request.path)

    def next(self) -> Waiting | None:
        """The request whose turn it is, which goes on waiting; None if none waits."""
        if not self._waiting:
            return None
        oldest = next(iter(self._waiting.values()))
        if len(self._passed) >= self._window:
            return oldest
        while True:
            _, _, version, request = self._heap[0]
            if request.version == version:
                return request
            heapq.heappop(self._heap)

    def take(self, request: Waiting) -> None:
        """Removes a request that has had its turn."""
        self.withdraw(request)
        if self._window and self._waiting and request.arrival > next(iter(self._waiting)):
            insort(self._passed, request.arrival)

    def _forget_passed(self) -> None:
        """Keeps only arrivals later than the oldest waiting request: the others did not overtake it."""
        if self._passed:
            oldest = next(iter(self._waiting), self._arrivals)
            del self._passed[: bisect_left(self._passed, oldest)]

    def _changed(self, node: CachedPath, there: bool) -> None:
        """Updates cached lengths when a node has entered (`there`) or left the tree, as a leaf."""
        depth = -1
        for request in list(self._by_key.get(node.path_key, {}).values()):
            if depth < 0 or depth >= len(request.path_keys) or request.path_keys[depth] != node.path_key:
                depth = request.path_keys.index(node.path_key)
            if there and request.depth == depth:
                request.depth += 1
                request.cached += node.size
            elif not there and request.depth > depth:
                request.cached -= sum(map(len, request.path[depth : request.depth]))
                request.depth = depth
            else:
                continue
            self._push(request)

    def _push(self, request: Waiting) -> None:
        computed = request.tokens - request.cached
        priority = request.cached / computed if computed else float("inf")
        request.version += 1
        heapq.heappush(self._heap, (-priority, request.arrival, request.version, request))
        if len(self._heap) > 2 * len(self._waiting) + 64:  # more stale than live
            self._heap = [entry for entry in self._heap if entry[3].version == entry[2]]
            heapq.heapify(self._heap)
