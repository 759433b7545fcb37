"""PrefixTree: documents' KV by the path that leads to them, a dense part each and a sparse part a path (HeterRAG, 4.4).

A node is a document behind others. Its sparse entry holds its important tokens as they are behind these; the dense part
is the document's own, whatever stands before it, and goes with its last sparse entry. The sparse entry used longest
ago goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """Documents of a sequence, by what the tree had of them: positions in the sequence."""

    both: tuple[int, ...]
    dense: tuple[int, ...]
    neither: tuple[int, ...]


class PrefixTree:
    """Holds up to `capacity` bytes; a document's dense part takes `dense` of them, a sparse entry `sparse`."""

    def __init__(self, capacity: float, dense: float, sparse: float) -> None:
        self.capacity, self.dense, self.sparse = capacity, dense, sparse
        self.used = 0.0
        self.evicted = 0
        self._entries: OrderedDict[tuple[int, ...], None] = OrderedDict()  # by path; used longest ago first
        self._paths: dict[int, int] = {}  # sparse entries of each document

    def find(self, sequence: Sequence[int]) -> Found:
        """What is there, changing nothing. Once a path breaks, all behind have at best their dense part."""
        both: list[int] = []
        dense: list[int] = []
        neither: list[int] = []
        path, whole = tuple(sequence), True
        for at, document in enumerate(path):
            whole = whole and path[: at + 1] in self._entries
            kind = both if whole else dense if document in self._paths else neither
            kind.append(at)
        return Found(tuple(both), tuple(dense), tuple(neither))

    def keep(self, sequence: Sequence[int]) -> None:
        """Store what was computed of a sequence, and count its path as used now, the deepest node longest ago."""
        path = tuple(sequence)
        while path:
            if path in self._entries:
                self._entries.move_to_end(path)
            else:
                self._entries[path] = None
                held = self._paths.get(path[-1], 0)
                self._paths[path[-1]] = held + 1
                self.used += self.sparse + (0 if held else self.dense)
            path = path[:-1]
        while self.used > self.capacity and self._entries:
            self._evict()

    def _evict(self) -> None:
        path, _ = self._entries.popitem(last=False)
        self.evicted += 1
        self.used -= self.sparse
        self._paths[path[-1]] -= 1
        if not self._paths[path[-1]]:
            del self._paths[path[-1]]
            self.used -= self.dense

    def check(self) -> None:
        """ValueError unless the bytes used are those of the entries and of the documents they are of."""
        documents = {path[-1] for path in self._entries}
        bytes_held = len(self._entries) * self.sparse + len(documents) * self.dense
        if documents != set(self._paths) or abs(bytes_held - self.used) > 1e-6 * max(1.0, bytes_held):
            raise ValueError(f"the tree counts {self.used} bytes and holds {bytes_held}")
