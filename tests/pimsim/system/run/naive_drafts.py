"""Drafts and the prefix tree without arrays, for tests: dictionaries, one document at a time."""

from __future__ import annotations

from collections import OrderedDict

from pimsim.system.run.drafts import Kept
from pimsim.system.run.prefix_tree import BOTH, DENSE, NEITHER


class NaiveTree:
    """Paths are tuples of documents; the one used longest ago goes first, and none before those behind it."""

    def __init__(self, capacity, dense, sparse):
        self.capacity, self.dense, self.sparse = capacity, dense, sparse
        self.paths = OrderedDict()
        self.evicted = 0

    @property
    def used(self):
        return len(self.paths) * self.sparse + len({path[-1] for path in self.paths}) * self.dense

    def find(self, sequence):
        known = {path[-1] for path in self.paths}
        return [
            BOTH if tuple(sequence[: i + 1]) in self.paths else DENSE if document in known else NEITHER
            for i, document in enumerate(sequence)
        ]

    def keep(self, sequence):
        for i in range(len(sequence), 0, -1):
            self.paths[tuple(sequence[:i])] = None
            self.paths.move_to_end(tuple(sequence[:i]))
        while self.used > self.capacity and self.paths:
            self.paths.popitem(last=False)
            self.evicted += 1


class NaiveDraft:
    """The draft of one retrieval: `documents` are its result, `there` the vertices whose KV an earlier one left."""

    def __init__(self, documents, there, strangers):
        self.documents, self.there, self.strangers = documents, there, strangers
        self.order = self.behind = ()
        self.computed, self.dense, self.wasted = {}, set(), 0

    @property
    def waiting(self):
        return sum(vertex not in self.there and vertex not in self.computed for vertex in self.order)

    @property
    def sequence(self):
        count = len(self.documents)
        return [self.documents[i] if i < count else self.strangers[i] for i in self.order]

    def prefill(self, kept, tokens, important, tree, *, last):
        """Pieces, and tokens loaded."""
        same = 0
        while same < min(len(self.behind), len(self.order)) and self.behind[same] == self.order[same]:
            same += 1
        for vertex in self.behind[same:] if kept is not Kept.ALL else ():
            has = self.computed.pop(vertex, None)
            if has is None:
                continue
            lost = min(has, important) if kept is Kept.DENSE else has
            self.wasted += lost
            if kept is Kept.DENSE:
                self.computed[vertex] = has - lost
                self.dense.add(vertex)
        if last:
            self.wasted += sum(self.computed.pop(vertex, 0) for vertex in self.strangers)
        self.behind = self.order
        cached = tree.find(self.sequence) if tree is not None else [NEITHER] * len(self.order)
        pieces, loaded = [], 0
        for i, vertex in enumerate(self.order):
            if vertex in self.there or (vertex in self.computed and vertex not in self.dense):
                continue
            needed = tokens
            if cached[i] == BOTH:
                needed = 0
            elif cached[i] == DENSE or (tree is not None and vertex in self.dense):
                needed = important
            if needed < tokens:
                loaded += tokens
            if needed:
                pieces.append((needed, i * tokens))
            self.computed[vertex] = self.computed.get(vertex, 0) + needed
            self.dense.discard(vertex)
        return pieces, loaded
