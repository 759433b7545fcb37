"""Survey: an LMDB data file read page by page without LMDB, to see whether it is safe to open it with LMDB.

LMDB trusts its file: a flipped bit in a page of a B-tree ends the process by a signal, one in the list of free pages
makes it write over pages in use. Here every page that LMDB would follow is read with `pread` and compared with the
format (LMDB 0.9, data version 1, little-endian): its number, its kind, the place of each node in it, the order of the
keys, the run of each long value, the counts in the table's root, and that no page has two owners. The content of long
values is not checked, as LMDB does not look at it: the store has checksums for it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from retrieval.lmdb_pages import (
    BRANCH,
    DEEPEST,
    EMPTY,
    HEADER,
    LEAF,
    LONG,
    PAGE_HEADER,
    ROOT,
    TABLE,
    DamagedPages,
    Node,
    is_run,
    node_at,
    read_metas,
    run_length,
)

_INTEGER_KEYS = 8
FREE, MAIN = "free pages", "tables"  # the two tables whose roots stand in the meta pages
_LATEST = 2**62  # transactions are counted; a larger number was damaged

Progress = Callable[[int, int], None]  # (done, of how many)


@dataclass(frozen=True, slots=True)
class Survey:
    """A sound file: `pages` is where LMDB would grow it, `used` counts those in tables, `leaked` those nowhere."""

    page_size: int
    pages: int
    used: int
    leaked: int


@dataclass(slots=True)
class _Table:
    """The root of a B-tree as stored, and beside it what its pages were found to hold."""

    name: str
    flags: int
    depth: int
    stored: tuple[int, int, int, int]  # branch pages, leaf pages, pages of long values, entries
    root: int
    branches: int = 0
    leaves: int = 0
    long_pages: int = 0
    entries: int = 0

    @classmethod
    def unpack(cls, name: str, raw: bytes) -> _Table:
        """The root that is stored as `raw`; DamagedPages if it is not one of a table like ours."""
        pad, flags, depth, *stored, root = ROOT.unpack(raw)
        # of the free list, a field that others have no use for is the size of all pages
        if flags != (_INTEGER_KEYS if name == FREE else 0) or (pad and name != FREE):
            raise DamagedPages(f"the root of table {name!r} has flags {flags:#x} and pad {pad:#x}")
        return cls(name, flags, depth, tuple(stored), root)


def survey(path: Path, tables: Collection[bytes], progress: Progress | None = None) -> Survey:
    """Reads every page that LMDB would follow in `path`, with a byte of memory for each.

    DamagedPages if anything is wrong or the file has another table than `tables`, OSError if it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return _Surveyor(file.fileno(), frozenset(tables), progress).survey()


class _Surveyor:
    def __init__(self, descriptor: int, tables: frozenset[bytes], progress: Progress | None) -> None:
        self._fd = descriptor
        self._tables = tables
        self._progress = progress
        self._bytes = os.fstat(descriptor).st_size
        self._page_size = 0
        self._owned = np.zeros(0, dtype=np.bool_)
        self._claimed = 0

    def survey(self) -> Survey:
        """Reads the newest state of the file; DamagedPages if anything in it is wrong."""
        free, main, transaction = self._newest_meta()
        surveyed: list[_Table] = []

        def table(node: Node, page: bytes) -> None:
            if node.key not in self._tables or node.flags != TABLE or node.size != ROOT.size:
                raise DamagedPages(f"{node.key[:40]!r} is not a table of this store")
            surveyed.append(_Table.unpack(node.key.decode(), page[node.data : node.data + node.size]))

        self._walk(main, table)
        for each in surveyed:
            self._walk(each, None)
        used = self._claimed

        def free_pages(node: Node, page: bytes) -> None:
            self._claim_free(node, self._value(node, page), transaction)

        self._walk(free, free_pages)
        leaked = len(self._owned) - int(np.count_nonzero(self._owned))
        return Survey(self._page_size, len(self._owned), used, leaked)

    def _newest_meta(self) -> tuple[_Table, _Table, int]:
        """The roots of the free list and of all tables in the newer of the two meta pages, and its transaction."""
        metas = read_metas(self._fd)
        for number, meta in enumerate(metas):
            transaction = meta.transaction
            if meta.address or (transaction and transaction % 2 != number) or transaction > _LATEST:
                raise DamagedPages(f"meta page {number} says transaction {transaction} at address {meta.address:#x}")
        older, newer = sorted(metas, key=lambda meta: meta.transaction)
        # each transaction flushes the one before, so none is skipped
        if newer.transaction - older.transaction != (newer.transaction > 0):
            raise DamagedPages(f"the meta pages say transactions {older.transaction} and {newer.transaction}")
        self._page_size, last = newer.page_size, newer.last
        if last < 1 or last > 2**48 or last > 2 * max(self._bytes // self._page_size, 2**20):
            raise DamagedPages(f"the meta page says the last page is {last} in a file of {self._bytes} bytes")
        self._owned = np.zeros(last + 1, dtype=np.bool_)
        self._claim(0, 2, "the meta pages")
        return _Table.unpack(FREE, newer.free), _Table.unpack(MAIN, newer.main), newer.transaction

    def _claim(self, first: int, count: int, owner: str) -> None:
        """Notes pages in use: each has one owner and lies within the file, or else the map would end this process."""
        end = first + count
        if end > len(self._owned):
            raise DamagedPages(f"{owner} has page {end - 1}, past the last ({len(self._owned) - 1})")
        if end * self._page_size > self._bytes:
            raise DamagedPages(f"truncated: {owner} has page {end - 1}, the file ends at {self._bytes} bytes")
        if self._owned[first:end].any():
            raise DamagedPages(f"{owner} has pages {first} to {end - 1}, and so has another")
        self._owned[first:end] = True
        self._claimed += count
        if self._progress is not None:
            self._progress(self._claimed, len(self._owned))

    def _claim_free(self, node: Node, value: bytes, transaction: int) -> None:
        """Notes a list of free pages, largest first, by the transaction that freed them. They may lie past the end."""
        if len(node.key) != 8 or len(value) < 8 or len(value) % 8:
            raise DamagedPages(f"a list of free pages has {len(node.key)} and {len(value)} bytes")
        freed_by = int.from_bytes(node.key, "little")
        numbers = np.frombuffer(value, dtype="<u8")
        count, pages = int(numbers[0]), numbers[1:]
        if count > len(pages) or not 0 < freed_by <= transaction:
            raise DamagedPages(f"transaction {freed_by} freed {count} pages in a list of {len(pages)}")
        pages = pages[:count]
        if count == 0:
            return
        if not (pages[:-1] > pages[1:]).all() or pages[0] >= len(self._owned):
            raise DamagedPages(f"the pages freed by transaction {freed_by} are out of order or out of range")
        pages = pages.astype(np.int64)
        if self._owned[pages].any():
            raise DamagedPages(f"pages freed by transaction {freed_by} are in use")
        self._owned[pages] = True

    def _walk(self, table: _Table, each: Callable[[Node, bytes], None] | None) -> None:
        """Checks every page of a B-tree, in the order of its keys, and hands its entries to `each`."""
        if table.root == EMPTY:
            if table.depth or any(table.stored):
                raise DamagedPages(f"table {table.name!r} is empty and is not")
            return
        if not 0 < table.depth <= DEEPEST:
            raise DamagedPages(f"table {table.name!r} is {table.depth} pages deep")
        # (page, depth, keys in it are at least, keys in it are below); None is unbounded
        stack: list[tuple[int, int, bytes | None, bytes | None]] = [(table.root, 1, None, None)]
        while stack:
            number, depth, least, below = stack.pop()
            page, kind = self._page(number, table.name)
            if (kind == LEAF) != (depth == table.depth):
                raise DamagedPages(f"page {number} of table {table.name!r} is of kind {kind} at depth {depth}")
            nodes = self._nodes(number, page, table, leaf=kind == LEAF)
            keys = [_ordered(node.key, table) for node in nodes]
            if kind == BRANCH:
                keys[0] = least or b""  # LMDB does not look at the first key of a branch
            if any(first >= second for first, second in pairwise(keys)) or (
                (least is not None and keys[0] < least) or (below is not None and keys[-1] >= below)
            ):
                raise DamagedPages(f"the keys of page {number} of table {table.name!r} are out of order")
            if kind == BRANCH:
                table.branches += 1
                bounds: list[bytes | None] = [least, *keys[1:], below]
                children = [(node.data, depth + 1, *span) for node, span in zip(nodes, pairwise(bounds), strict=True)]
                stack.extend(reversed(children))
                continue
            table.leaves += 1
            table.entries += len(nodes)
            for node in nodes:
                if node.flags == LONG:
                    table.long_pages += self._claim_run(node, page, table.name)
                if each is not None:
                    each(node, page)
        if (table.branches, table.leaves, table.long_pages, table.entries) != table.stored:
            raise DamagedPages(f"table {table.name!r} counts otherwise than its pages")

    def _page(self, number: int, owner: str) -> tuple[bytes, int]:
        self._claim(number, 1, f"table {owner!r}")
        page = os.pread(self._fd, self._page_size, number * self._page_size)
        own_number, _, kind, _, _ = HEADER.unpack_from(page)
        if own_number != number or kind not in (BRANCH, LEAF):
            raise DamagedPages(f"page {number} of table {owner!r} is page {own_number} of kind {kind:#x}")
        return page, kind

    def _nodes(self, number: int, page: bytes, table: _Table, *, leaf: bool) -> list[Node]:
        """The nodes of a page by key. They fill it from `upper` to its end without a gap, in any order."""
        _, _, _, lower, upper = HEADER.unpack_from(page)
        count = (lower - PAGE_HEADER) // 2
        # a branch of one child is met only in the free list, where LMDB allows for it
        least = 1 if leaf or table.flags == _INTEGER_KEYS else 2
        if lower % 2 or not PAGE_HEADER + 2 * least <= lower <= upper <= self._page_size:
            raise DamagedPages(f"page {number} of table {table.name!r} is filled to {lower} and from {upper}")
        nodes, extents = [], []
        for place in struct.unpack_from(f"<{count}H", page, PAGE_HEADER):
            node = node_at(page, place, leaf=leaf)
            if (
                node is None
                or place < upper
                or not (leaf <= len(node.key) < 512)  # LMDB does not look at the first key of a branch
                or (node.flags == TABLE and table.name != MAIN)
            ):
                raise DamagedPages(f"page {number} of table {table.name!r} has a damaged node at {place}")
            nodes.append(node)
            extents.append((place, node.end + node.end % 2))
        extents.sort()
        ends = [upper, *(end for _, end in extents)]
        if [place for place, _ in extents] != ends[:-1] or ends[-1] != self._page_size:
            raise DamagedPages(f"the nodes of page {number} of table {table.name!r} overlap or leave gaps")
        return nodes

    def _claim_run(self, node: Node, page: bytes, owner: str) -> int:
        first = int.from_bytes(page[node.data : node.data + 8], "little")
        count = run_length(node.size, self._page_size)
        self._claim(first, count, f"a long value of table {owner!r}")
        if not is_run(os.pread(self._fd, PAGE_HEADER, first * self._page_size), first, count):
            raise DamagedPages(f"pages {first} to {first + count - 1} of table {owner!r} are not the long value there")
        return count

    def _value(self, node: Node, page: bytes) -> bytes:
        if node.flags != LONG:
            return page[node.data : node.data + node.size]
        first = int.from_bytes(page[node.data : node.data + 8], "little")
        return os.pread(self._fd, node.size, first * self._page_size + PAGE_HEADER)


def _ordered(key: bytes, table: _Table) -> bytes:
    """A key whose bytes compare as LMDB compares it: the free list's keys are native integers."""
    return key[::-1] if table.flags == _INTEGER_KEYS else key
