"""PrefixTree: documents' KV by the path that leads to them: a dense part each, a sparse part a path (HeterRAG, 4.4).

A node is a document behind others. Its sparse entry holds its important tokens as they are behind these; the dense part
is the document's own, whatever stands before it, and goes with its last sparse entry. The sparse entry used longest ago
goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pimsim.compiled import kernel, part

NEITHER, DENSE, BOTH = range(3)  # parts of a document's KV
NONE = -1  # no entry; and the one before a path's first
OLDEST, NEWEST, FREE, HELD, EVICTED = range(5)
CAPACITY, DENSE_BYTES, SPARSE_BYTES, USED = range(4)
FEWEST = 64  # entries there is room for at first
SCATTER = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: Knuth's multiplicative hashing


class Tables(NamedTuple):
    """A tree for kernels: arrays of its entries, and a hash table of them with open addressing."""

    places: np.ndarray  # int64 [a power of two]: an entry, or NONE
    before: np.ndarray  # int64 [entries]: the entry before it on its path
    document: np.ndarray  # int64 [entries]
    older: np.ndarray  # int64 [entries]: used before it
    newer: np.ndarray  # int64 [entries]; of free entries the next free one
    paths: np.ndarray  # int64 [documents]: sparse entries of each
    counts: np.ndarray  # int64 [5]: OLDEST, NEWEST and FREE are entries
    bytes: np.ndarray  # float64 [4]


class PrefixTree:
    """A tree of up to `capacity` bytes; a document's dense part takes `dense` of them, a sparse entry `sparse`.

    Documents are numbers below `documents`.
    """

    def __init__(self, capacity: float, dense: float, sparse: float, documents: int) -> None:
        self.tables = _tables(FEWEST, np.zeros(documents, np.int64), np.array([capacity, dense, sparse, 0.0]))

    @property
    def used(self) -> float:
        """Bytes of all entries."""
        return float(self.tables.bytes[USED])

    @property
    def evicted(self) -> int:
        """How many sparse entries have been evicted."""
        return int(self.tables.counts[EVICTED])

    def find(self, sequence: Sequence[int]) -> list[int]:
        """Which parts of each document are there, changing nothing: NEITHER, DENSE or BOTH.

        Where a path breaks, all documents behind have at best their dense part.
        """
        documents = np.array(sequence, np.int64)
        kept = np.empty(len(documents), np.int64)
        find(self.tables, documents, len(documents), kept)
        return kept.tolist()

    def keep(self, sequence: Sequence[int]) -> None:
        """Store what was computed of a sequence, and count its path as used now, the deepest entry longest ago."""
        documents = np.array(sequence, np.int64)
        self.reserve(len(documents))
        keep(self.tables, documents, len(documents))

    def reserve(self, more: int) -> None:
        """Make room in the tables for this many more entries."""
        old = self.tables
        needed = int(old.counts[HELD]) + more
        if needed <= len(old.before):
            return
        self.tables = _tables(2 * needed, old.paths, old.bytes)
        _copy(old, self.tables)

    def entries(self) -> list[tuple[int, int, int]]:
        """All entries, used longest ago first: its number, that of the entry before it or NONE, and its document."""
        tables, entries = self.tables, []
        entry = int(tables.counts[OLDEST])
        while entry != NONE:
            entries.append((entry, int(tables.before[entry]), int(tables.document[entry])))
            entry = int(tables.newer[entry])
        return entries


def _tables(entries: int, paths: np.ndarray, sizes: np.ndarray) -> Tables:
    newer = np.arange(1, entries + 1)
    newer[-1] = NONE
    places = np.full(1 << (2 * entries - 1).bit_length(), NONE, np.int64)
    before, document, older = (np.empty(entries, np.int64) for _ in range(3))
    return Tables(places, before, document, older, newer, paths, np.array([NONE, NONE, 0, 0, 0]), sizes)


@kernel
def find(tables: Any, sequence: Any, count: Any, kept: Any) -> None:
    """Write to `kept` which parts are there of the sequence's first `count` documents."""
    entry = NONE
    whole = True
    for position in range(count):
        document = sequence[position]
        if whole:
            entry = tables.places[_place(tables, entry, document)]
            whole = entry != NONE
        kept[position] = BOTH if whole else DENSE if tables.paths[document] else NEITHER


@kernel
def keep(tables: Any, sequence: Any, count: Any) -> None:
    """Store the sequence's first `count` documents, for which the tables have room."""
    counts, sizes, paths = tables.counts, tables.bytes, tables.paths
    path = np.empty(count, np.int64)
    known = np.ones(count, np.bool_)
    entry = NONE
    for position in range(count):
        document = sequence[position]
        place = _place(tables, entry, document)
        if tables.places[place] == NONE:
            known[position] = False
            _take(tables, place, entry, document)
            paths[document] += 1
            sizes[USED] += sizes[SPARSE_BYTES] if paths[document] > 1 else sizes[SPARSE_BYTES] + sizes[DENSE_BYTES]
        entry = tables.places[place]
        path[position] = entry
    for position in range(count - 1, -1, -1):
        if known[position]:
            _unlink(tables, path[position])
        _link(tables, path[position])
    while sizes[USED] > sizes[CAPACITY] and counts[OLDEST] != NONE:
        document = tables.document[counts[OLDEST]]
        _drop(tables, counts[OLDEST])
        counts[EVICTED] += 1
        sizes[USED] -= sizes[SPARSE_BYTES]
        paths[document] -= 1
        if not paths[document]:
            sizes[USED] -= sizes[DENSE_BYTES]


@part
def _home(tables: Any, before: Any, document: Any) -> Any:
    """Where the hash table looks for an entry first."""
    key = np.uint64(before + 1) * np.uint64(tables.paths.shape[0]) + np.uint64(document)
    key ^= key >> np.uint64(32)
    key *= np.uint64(SCATTER)
    return np.int64((key >> np.uint64(32)) & np.uint64(tables.places.shape[0] - 1))


@part
def _place(tables: Any, before: Any, document: Any) -> Any:
    """Where the entry stands in the hash table, or would."""
    last = tables.places.shape[0] - 1
    place = _home(tables, before, document)
    while True:
        entry = tables.places[place]
        if entry == NONE or (tables.before[entry] == before and tables.document[entry] == document):
            return place
        place = (place + 1) & last


@part
def _take(tables: Any, place: Any, before: Any, document: Any) -> None:
    """Make a free entry one for this document."""
    counts = tables.counts
    entry = counts[FREE]
    counts[FREE] = tables.newer[entry]
    counts[HELD] += 1
    tables.before[entry], tables.document[entry], tables.places[place] = before, document, entry


@part
def _drop(tables: Any, entry: Any) -> None:
    counts, places = tables.counts, tables.places
    last = places.shape[0] - 1
    gap = _place(tables, tables.before[entry], tables.document[entry])
    place = (gap + 1) & last
    while places[place] != NONE:  # what was pushed on past the gap comes back into it, so that it is found
        other = places[place]
        home = _home(tables, tables.before[other], tables.document[other])
        if ((place - home) & last) >= ((place - gap) & last):
            places[gap], gap = other, place
        place = (place + 1) & last
    places[gap] = NONE
    _unlink(tables, entry)
    tables.newer[entry], counts[FREE] = counts[FREE], entry
    counts[HELD] -= 1


@part
def _link(tables: Any, entry: Any) -> None:
    """Make an entry the one used last."""
    counts = tables.counts
    newest = counts[NEWEST]
    tables.older[entry], tables.newer[entry] = newest, NONE
    if newest == NONE:
        counts[OLDEST] = entry
    else:
        tables.newer[newest] = entry
    counts[NEWEST] = entry


@part
def _unlink(tables: Any, entry: Any) -> None:
    counts, older, newer = tables.counts, tables.older[entry], tables.newer[entry]
    if older == NONE:
        counts[OLDEST] = newer
    else:
        tables.newer[older] = newer
    if newer == NONE:
        counts[NEWEST] = older
    else:
        tables.older[newer] = older


@kernel
def _copy(old: Any, new: Any) -> None:
    """Copy all entries, each under its number."""
    entry, most = old.counts[OLDEST], old.before.shape[0]
    # numbers that the old tables have not taken follow those that are only in the new ones
    while entry != NONE:
        new.before[entry], new.document[entry] = old.before[entry], old.document[entry]
        entry = old.newer[entry]
    entry = old.counts[OLDEST]
    while entry != NONE:
        new.places[_place(new, new.before[entry], new.document[entry])] = entry
        _link(new, entry)
        entry = old.newer[entry]
    free = old.counts[FREE]
    new.counts[FREE] = most
    while free != NONE:
        after = old.newer[free]
        new.newer[free], new.counts[FREE] = new.counts[FREE], free
        free = after
    new.counts[HELD], new.counts[EVICTED] = old.counts[HELD], old.counts[EVICTED]
