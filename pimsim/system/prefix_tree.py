"""PrefixTree: documents' KV by the path that leads to them, a dense part each and a sparse part a path (HeterRAG, 4.4).

A node is a document behind others. Its sparse entry holds its important tokens as they are behind these; the dense part
is the document's own, whatever stands before it, and goes with its last sparse entry. The sparse entry used longest
ago goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

ROOT = 0  # before the first document


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
        self._nodes: dict[tuple[int, int], int] = {}  # by the node before it and its document
        # of each node its key; used longest ago first, so that no node goes before those behind it
        self._entries: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._paths: dict[int, int] = {}  # sparse entries of each document
        self._next = ROOT + 1

    def find(self, sequence: Sequence[int]) -> Found:
        """What is there, changing nothing. Once a path breaks, all behind have at best their dense part."""
        both: list[int] = []
        dense: list[int] = []
        neither: list[int] = []
        node: int | None = ROOT
        for at, document in enumerate(sequence):
            node = None if node is None else self._nodes.get((node, document))
            kind = both if node is not None else dense if document in self._paths else neither
            kind.append(at)
        return Found(tuple(both), tuple(dense), tuple(neither))

    def keep(self, sequence: Sequence[int]) -> None:
        """Store what was computed of a sequence, and count its path as used now, the deepest node longest ago."""
        nodes, entries, paths = self._nodes, self._entries, self._paths
        node, path = ROOT, []
        for document in sequence:
            key = (node, document)
            found = nodes.get(key)
            if found is None:
                found = nodes[key] = self._next
                self._next += 1
                entries[found] = key
                held = paths.get(document, 0)
                paths[document] = held + 1
                self.used += self.sparse + (0 if held else self.dense)
            path.append(found)
            node = found
        for found in reversed(path):
            entries.move_to_end(found)
        used = self.used
        while used > self.capacity and entries:
            _, key = entries.popitem(last=False)
            del nodes[key]
            document = key[1]
            self.evicted += 1
            used -= self.sparse
            left = paths[document] - 1
            if left:
                paths[document] = left
            else:
                del paths[document]
                used -= self.dense
        self.used = used

    def check(self) -> None:
        """ValueError unless the bytes used are those of the entries and of the documents they are of, and each entry
        stands behind one that is there."""
        documents = {document for _, document in self._entries.values()}
        bytes_held = len(self._entries) * self.sparse + len(documents) * self.dense
        if documents != set(self._paths) or abs(bytes_held - self.used) > 1e-6 * max(1.0, bytes_held):
            raise ValueError(f"the tree counts {self.used} bytes and holds {bytes_held}")
        lost = [before for before, _ in self._entries.values() if before != ROOT and before not in self._entries]
        if lost or len(self._nodes) != len(self._entries):
            raise ValueError(f"{len(lost)} entries stand behind none, {len(self._nodes)} of {len(self._entries)} found")
