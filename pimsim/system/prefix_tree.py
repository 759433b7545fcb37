"""PrefixTree: documents' KV by the path that leads to them, a dense part each and a sparse part a path (HeterRAG, 4.4).

A node is a document behind others. Its sparse entry holds its important tokens as they are behind these; the dense part
is the document's own, whatever stands before it, and goes with its last sparse entry. The sparse entry used longest
ago goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

ROOT = 0  # before the first document
NEITHER, DENSE, BOTH = range(3)  # parts of a document's KV


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

    def find(self, sequence: Sequence[int]) -> list[int]:
        """What is there of each document, changing nothing: NEITHER, DENSE or BOTH. Once a path breaks, all behind
        have at best their dense part."""
        nodes, paths = self._nodes, self._paths
        found: list[int] = []
        node: int | None = ROOT
        for document in sequence:
            if node is not None:
                node = nodes.get((node, document))
            found.append(BOTH if node is not None else DENSE if document in paths else NEITHER)
        return found

    def keep(self, sequence: Sequence[int]) -> None:
        """Store what was computed of a sequence, and count its path as used now, the deepest node longest ago."""
        nodes, entries, paths = self._nodes, self._entries, self._paths
        node, path = ROOT, []
        for document in sequence:
            key = (node, document)
            known = nodes.get(key)
            if known is None:
                node = nodes[key] = self._next
                self._next += 1
                held = paths.get(document, 0)
                paths[document] = held + 1
                self.used += self.sparse if held else self.sparse + self.dense
            else:
                node = known
            path.append((node, key))
        for node, key in reversed(path):
            if node in entries:
                entries.move_to_end(node)
            else:
                entries[node] = key
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
