"""LMDB pages: the format of an LMDB data file, and a reader of its tables that no damage to the file can end.

LMDB itself maps its file and trusts it: where the file was cut, or a page in it changed, the process ends by a signal.
The reader fetches each page with `pread` and holds it against the format (LMDB 0.9, data version 1, little-endian)
before it follows it. It is for files that no process writes any more.
"""

import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

PAGE_HEADER = 16  # bytes before what a page, or a run of pages that holds one long value, contains
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8  # kinds of page
LONG, TABLE = 1, 2  # kinds of node: the value is a run of pages; it is the root of a table
MAGIC, VERSION = 0xBEEFC0DE, 1
EMPTY = 2**64 - 1  # the root of a table without entries
DEEPEST = 32  # LMDB's cursors go no deeper
META_FIELDS = struct.Struct("<IIQQ48s48sQQ")
ROOT = struct.Struct("<IHHQQQQQ")
NODE = struct.Struct("<HHHH")
HEADER = struct.Struct("<QHHHH")
RUN_HEADER = struct.Struct("<QHHI")
PAGE_SIZES = frozenset(2**bits for bits in range(8, 17))

_PAGES_KEPT = 256  # pages of the trees: the branches of a store of gigabytes


class DamagedPages(Exception):
    """The file is not what LMDB would have written, or ends too early; the message says where."""


class Node(NamedTuple):
    """An entry of a page. `data` says where in the page its value, or the number of the value's first page, stands; in
    a branch it is the number of the child. `end` is where in the page the node ends."""

    flags: int
    key: bytes
    size: int  # of the value
    data: int
    end: int


def node_at(page: bytes, place: int, *, leaf: bool) -> Node | None:
    """The node at a place of a leaf or a branch; None if it is of no kind, or does not lie within the page."""
    key = place + NODE.size
    if place < PAGE_HEADER or key > len(page):
        return None
    low, high, flags, key_size = NODE.unpack_from(page, place)
    data = key + key_size
    if leaf:
        size = low | high << 16
        node = Node(flags, page[key:data], size, data, data + (8 if flags == LONG else size))
    else:
        node = Node(0, page[key:data], 0, low | high << 16 | flags << 32, data)
    return node if node.end <= len(page) and node.flags in (0, LONG, TABLE) else None


class Meta(NamedTuple):
    """What a meta page says: the root of the list of free pages and that of all tables, the last page, and the
    transaction that wrote it. `address` is 0 unless the map must lie at one."""

    page_size: int
    address: int
    free: bytes
    main: bytes
    last: int
    transaction: int


def read_metas(descriptor: int) -> tuple[Meta, Meta]:
    """The two meta pages of a file; DamagedPages if either is not one."""
    metas: list[Meta] = []
    for number in (0, 1):
        raw = os.pread(descriptor, PAGE_HEADER + META_FIELDS.size, number * metas[0].page_size if metas else 0)
        if len(raw) < PAGE_HEADER + META_FIELDS.size:
            raise DamagedPages(f"its {os.fstat(descriptor).st_size} bytes are too few")
        page, _, kind, _, _ = HEADER.unpack_from(raw)
        magic, version, address, _, free, main, last, transaction = META_FIELDS.unpack_from(raw, PAGE_HEADER)
        page_size = ROOT.unpack(free)[0]  # what has no meaning for the list of free pages is the size of all pages
        if (magic, kind, page) != (MAGIC, META, number):
            raise DamagedPages(f"page {number} is not a meta page of LMDB")
        if version != VERSION:
            raise DamagedPages(f"written by another LMDB: data version {version}, expected {VERSION}")
        if page_size not in PAGE_SIZES or (metas and page_size != metas[0].page_size):
            raise DamagedPages(f"meta page {number} says pages have {page_size} bytes")
        metas.append(Meta(page_size, address, free, main, last, transaction))
    return metas[0], metas[1]


def run_length(size: int, page_size: int) -> int:
    """Pages in the run that holds a value of this size."""
    return (PAGE_HEADER - 1 + size) // page_size + 1


def is_run(header: bytes, first: int, count: int) -> bool:
    """Whether the header of page `first` is that of a run of `count` pages."""
    if len(header) < PAGE_HEADER:
        return False
    own_number, _, kind, pages = RUN_HEADER.unpack(header)
    return bool((own_number, kind, pages) == (first, OVERFLOW, count))


@dataclass(frozen=True, slots=True)
class PageTable:
    """The root of a table and its number of entries."""

    root: int
    depth: int
    entries: int


class PageFile:
    """Read-only access by key to the tables of an LMDB file. Any thread may read, and so may a forked child.

    Methods raise DamagedPages where the file is not as it should be, and OSError where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.page_size, self._last, main = self._newest_meta()
        except BaseException:
            self._file.close()
            raise
        self._main = PageTable(*main)
        self._page = lru_cache(maxsize=_PAGES_KEPT)(self._tree_page)

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._page.cache_clear()
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._file.closed

    def table(self, name: bytes) -> PageTable:
        """The table of this name; KeyError if there is none."""
        value = self._value(self._main, name, TABLE)
        if value is None:
            raise KeyError(name)
        if len(value) != ROOT.size:
            raise DamagedPages(f"the root of table {name.decode()!r} has {len(value)} bytes")
        return PageTable(*_root(value))

    def get(self, table: PageTable, key: bytes) -> bytes | None:
        """The value of a key; None if the table does not have it."""
        return self._value(table, key, 0)

    def _newest_meta(self) -> tuple[int, int, tuple[int, int, int]]:
        """Page size, last page and root of all tables, by the newer of the two meta pages."""
        newest = max(read_metas(self._file.fileno()), key=lambda meta: meta.transaction)
        if (needed := (newest.last + 1) * newest.page_size) > self.size:
            raise DamagedPages(f"cut short: it has {self.size} bytes of {needed}")
        return newest.page_size, newest.last, _root(newest.main)

    def _tree_page(self, number: int) -> bytes:
        if number > self._last:
            raise DamagedPages(f"page {number} is past the last ({self._last})")
        page = os.pread(self._file.fileno(), self.page_size, number * self.page_size)
        if len(page) < self.page_size:
            raise DamagedPages(f"cut short: page {number} is missing")
        own_number, _, kind, lower, upper = HEADER.unpack_from(page)
        if own_number != number or kind not in (BRANCH, LEAF):
            raise DamagedPages(f"page {number} is page {own_number} of kind {kind:#x}")
        if lower % 2 or not PAGE_HEADER < lower <= upper <= self.page_size:
            raise DamagedPages(f"page {number} is filled to {lower} and from {upper}")
        return page

    def _node(self, number: int, page: bytes, index: int) -> Node:
        place: int = struct.unpack_from("<H", page, PAGE_HEADER + 2 * index)[0]
        node = node_at(page, place, leaf=HEADER.unpack_from(page)[2] == LEAF)
        if node is None:
            raise DamagedPages(f"page {number} has a damaged node at {place}")
        return node

    def _value(self, table: PageTable, key: bytes, flags: int) -> bytes | None:
        if table.root == EMPTY:
            return None
        number = table.root
        for depth in range(1, table.depth + 1):
            page = self._page(number)
            leaf = HEADER.unpack_from(page)[2] == LEAF
            if leaf != (depth == table.depth):
                raise DamagedPages(f"page {number} is at depth {depth} of {table.depth}")
            # the last node whose key is not above; the first key of a branch counts as lower than any
            low, high = 0 if leaf else 1, (HEADER.unpack_from(page)[3] - PAGE_HEADER) // 2
            while low < high:
                middle = (low + high) // 2
                if self._node(number, page, middle).key <= key:
                    low = middle + 1
                else:
                    high = middle
            if low == 0:
                return None
            node = self._node(number, page, low - 1)
            if not leaf:
                number = node.data
            elif node.key != key:
                return None
            elif node.flags & TABLE != flags:
                raise DamagedPages(f"page {number} has a node of kind {node.flags}")
            else:
                return self._long(node, page) if node.flags == LONG else page[node.data : node.data + node.size]
        raise DamagedPages(f"a table is {table.depth} pages deep")

    def _long(self, node: Node, page: bytes) -> bytes:
        """The value that a node keeps in a run of pages."""
        first = int.from_bytes(page[node.data : node.data + 8], "little")
        count = run_length(node.size, self.page_size)
        if first + count - 1 > self._last:  # before memory is taken for it
            raise DamagedPages(f"pages {first} to {first + count - 1} are past the last ({self._last})")
        header = os.pread(self._file.fileno(), PAGE_HEADER, first * self.page_size)
        value = os.pread(self._file.fileno(), node.size, first * self.page_size + PAGE_HEADER)
        if len(header) < PAGE_HEADER or len(value) < node.size:
            raise DamagedPages(f"cut short: pages {first} to {first + count - 1} are missing")
        if not is_run(header, first, count):
            raise DamagedPages(f"pages {first} to {first + count - 1} are not the long value that is looked for")
        return value


def _root(raw: bytes) -> tuple[int, int, int]:
    """Page, depth and number of entries of a table's root."""
    _, flags, depth, _, _, _, entries, root = ROOT.unpack(raw)
    if flags or depth > DEEPEST or (root == EMPTY) != (depth == 0):
        raise DamagedPages(f"the root of a table has flags {flags:#x} and depth {depth}")
    return root, depth, entries
