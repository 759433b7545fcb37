"""Popularity: how often segments are asked for, lately."""

from __future__ import annotations

import math
from collections import OrderedDict

HALF_LIFE = 20_000  # requests
MOST_KNOWN = 100_000  # segments: some 20 MB


class Popularity:
    """Counts of the requests that asked for a segment. A count halves within `half_life` requests.

    Knows `most` segments; of more, it forgets those that were not asked for the longest. Segments of different
    namespaces have nothing to do with each other.
    """

    def __init__(self, half_life: float = HALF_LIFE, most: int = MOST_KNOWN) -> None:
        self._half_life = half_life
        self._most = most
        self._requests = 0
        # the count as it was at the last request that asked, and the number of that request; the latest asked last
        self._counts: OrderedDict[tuple[str, bytes], tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        """The number of segments that it knows."""
        return len(self._counts)

    def count(self, namespace: str, keys: list[bytes]) -> None:
        """A request of this namespace asks for the segments with these keys."""
        self._requests += 1
        for key in keys:
            self._counts[namespace, key] = self.of(namespace, key) + 1.0, self._requests
            self._counts.move_to_end((namespace, key))
        while len(self._counts) > self._most:
            self._counts.popitem(last=False)

    def of(self, namespace: str, key: bytes) -> float:
        """The count as of now; 0 for a segment that it does not know."""
        known = self._counts.get((namespace, key))
        if known is None:
            return 0.0
        count, last = known
        return count * math.exp2((last - self._requests) / self._half_life)
