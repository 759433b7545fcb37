"""Traversal: what graph searches read, hop by hop, and its CSV form.

    # vertices=3949 dim=384
    query,hop,vertex,kind
    0,0,17,vector           hop 0 compares the entry point
    0,1,17,list             hop 1 expands it: its neighbour list is read,
    0,1,4,vector            then the vectors of those neighbours that were not compared before
    0,1,209,vector

`list` is a list of the graph's lowest level, `upper` one of a level above, `vector` a distance computed. Rows are
sorted by query and by hop; numbers may be left out. A hop has at most one list, which comes first; without the column
`kind` all rows are vectors. The column `rank`, which may be missing, says of a vector how many that the query compares
are nearer: 0 is the nearest; it stays empty behind the ranks that are recorded, and where a vertex is compared again.
Columns stand in any order. The line with `#` is optional and may give `vertices` (how many
the shard holds: rows name 0 … vertices − 1), `dim` (elements a vector has) and `neighbours` (of a list, upper levels;
the lowest has twice as many). Files are plain or gzipped.
"""

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pimsim.dimm_pim import rows
from pimsim.errors import TraceError

COLUMNS = ("query", "hop", "vertex", "kind", "rank")
KINDS = ("vector", "list", "upper")
NO_LIST, LOWEST, UPPER = 0, 1, 2  # what a hop reads before it compares
NOTES = ("vertices", "dim", "neighbours")


@dataclass(frozen=True, slots=True)
class Traversal:
    """What searches read, hop by hop.

    Query `q` has the hops `first_hop[q] … first_hop[q + 1]`; hop `h` compares `vertices[first_vector[h] :
    first_vector[h + 1]]` after reading the list of `list_vertex[h]` (-1: none).
    """

    queries: np.ndarray  # int64 [queries], their numbers in the file
    first_hop: np.ndarray  # int64 [queries + 1]
    list_vertex: np.ndarray  # int64 [hops]
    list_kind: np.ndarray  # int64 [hops]: NO_LIST, LOWEST or UPPER
    first_vector: np.ndarray  # int64 [hops + 1]
    vertices: np.ndarray  # int64 [vectors]
    shard: int  # vertices that the shard holds
    dim: int | None = None  # elements of a vector, where the file says so
    neighbours: int | None = None  # of a list on upper levels, where the file says so
    ranks: np.ndarray | None = None  # int64 [vectors], -1: not recorded; None: the file has none

    def first(self, count: int) -> "Traversal":
        """The first `count` queries, or all if there are no more."""
        count = min(count, len(self.queries))
        hops = int(self.first_hop[count])
        return Traversal(
            self.queries[:count],
            self.first_hop[: count + 1],
            self.list_vertex[:hops],
            self.list_kind[:hops],
            self.first_vector[: hops + 1],
            self.vertices[: int(self.first_vector[hops])],
            self.shard,
            self.dim,
            self.neighbours,
            None if self.ranks is None else self.ranks[: int(self.first_vector[hops])],
        )

    def met(self, vertices: int) -> np.ndarray:
        """Shares of each query's hops after which it has met its nearest, by rank, float64 [queries, vertices].

        A share is 2 where no rank is recorded.
        """
        shares = np.full((len(self.queries), vertices), 2.0)
        if self.ranks is not None:
            of_hop = np.diff(self.first_vector)
            hops = np.diff(self.first_hop)
            query = np.repeat(np.repeat(np.arange(len(hops)), hops), of_hop)
            hop = np.repeat(np.arange(len(of_hop)) - np.repeat(self.first_hop[:-1], hops), of_hop)
            known = (self.ranks >= 0) & (self.ranks < vertices)
            shares[query[known], self.ranks[known]] = (hop[known] + 1) / hops[query[known]]
        return shares

    @classmethod
    def read(cls, path: Path, shard: int | None = None) -> "Traversal":
        """Read a file. TraceError, with the line, for what is malformed, unsorted or outside the shard.

        `shard` overrides the file's `vertices`; without either the shard ends with the greatest vertex named.
        """
        if shard is not None and shard < 1:
            raise TraceError(f"a shard holds 1 vertex or more, not {shard}")
        text = _content(path)
        notes, header, body, line = _opening(path, text)
        columns = _columns(path, header, line)
        table, lines, problem = rows.parse(text, body, line + 1, columns)
        if problem is not None:
            raise TraceError(f"{path}, line {problem.line}: {problem.what}")
        if not len(lines):
            raise TraceError(f"{path}: no rows after the header; a traversal has a row for each list and vector")
        query, hop, vertex, kind, rank = table
        _require_order(path, query, hop, kind, lines)
        ranked = COLUMNS.index("rank") in columns
        if ranked:
            _require_ranks(path, query, kind, rank, lines)
        shard = shard or notes.get("vertices") or int(vertex.max()) + 1
        if vertex.max() >= shard:
            row = int(np.flatnonzero(vertex >= shard)[0])
            raise TraceError(
                f"{path}, line {lines[row]}: vertex {vertex[row]} is outside the shard, which holds {shard} (0 to "
                f"{shard - 1}); correct the row, or say how many vertices there are"
            )
        ranks = rank[kind == NO_LIST] if ranked else None
        return cls._of_rows(query, hop, vertex, kind, shard, notes.get("dim"), notes.get("neighbours"), ranks)

    @classmethod
    def _of_rows(
        cls,
        query: np.ndarray,
        hop: np.ndarray,
        vertex: np.ndarray,
        kind: np.ndarray,
        shard: int,
        dim: int | None,
        neighbours: int | None,
        ranks: np.ndarray | None,
    ) -> "Traversal":
        new_query = _changes(query)
        new_hop = new_query | _changes(hop)
        hop_rows = np.flatnonzero(new_hop)
        list_kind = kind[hop_rows]
        is_vector = kind == NO_LIST
        vectors_before = np.concatenate([[0], np.cumsum(is_vector)])
        return cls(
            queries=query[new_query],
            first_hop=np.append(np.flatnonzero(new_query[hop_rows]), len(hop_rows)),
            list_vertex=np.where(list_kind == NO_LIST, -1, vertex[hop_rows]),
            list_kind=list_kind,
            first_vector=np.append(vectors_before[hop_rows], vectors_before[-1]),
            vertices=vertex[is_vector],
            shard=shard,
            dim=dim,
            neighbours=neighbours,
            ranks=ranks,
        )

    def write(self, path: Path) -> None:
        """Write the file that `read` reads; gzipped if its name ends with .gz, and the same bytes every time."""
        notes = {"vertices": self.shard, "dim": self.dim, "neighbours": self.neighbours}
        text = "# " + " ".join(f"{name}={value}" for name, value in notes.items() if value is not None) + "\n"
        columns = COLUMNS[:-1] if self.ranks is None else COLUMNS
        text += ",".join(columns) + "\n" + "".join(self._lines())
        data = text.encode()
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)

    def _lines(self) -> Iterable[str]:
        first_vector, vertices = self.first_vector.tolist(), self.vertices.tolist()
        list_vertex, list_kind = self.list_vertex.tolist(), self.list_kind.tolist()
        ends = [""] * len(vertices)
        if self.ranks is not None:
            ends = [f",{rank}" if rank >= 0 else "," for rank in self.ranks.tolist()]
        of_list = "" if self.ranks is None else ","
        for number, query in enumerate(self.queries.tolist()):
            first = int(self.first_hop[number])
            for hop in range(first, int(self.first_hop[number + 1])):
                if list_kind[hop]:
                    yield f"{query},{hop - first},{list_vertex[hop]},{KINDS[list_kind[hop]]}{of_list}\n"
                for vector in range(first_vector[hop], first_vector[hop + 1]):
                    yield f"{query},{hop - first},{vertices[vector]},vector{ends[vector]}\n"


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before it; the first counts as different."""
    return np.concatenate([[True], values[1:] != values[:-1]])


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError as error:
        raise TraceError(f"{path}: no such file; check the path") from error
    except EOFError as error:
        raise TraceError(f"{path}: the gzip stream ends too soon; the file is cut, copy it again") from error
    except (OSError, zlib.error) as error:
        raise TraceError(f"{path}: cannot be read ({error}); give a CSV file, plain or gzipped") from error


def _opening(path: Path, text: bytes) -> tuple[dict[str, int], str, int, int]:
    """The notes, the header, where the rows begin, and the header's line."""
    notes: dict[str, int] = {}
    begin, line = 0, 0
    while begin < len(text):
        line += 1
        end = text.find(b"\n", begin)
        end = len(text) if end < 0 else end
        words = text[begin:end].decode(errors="replace").strip()
        begin = min(end + 1, len(text))
        if words.startswith("#"):
            notes |= _notes(path, words[1:], line)
        elif words:
            return notes, words, begin, line
    raise TraceError(f"{path}: the file is empty; a traversal begins with the header {','.join(COLUMNS)}")


def _notes(path: Path, words: str, line: int) -> dict[str, int]:
    notes = {}
    for word in words.split():
        name, _, value = word.partition("=")
        if name not in NOTES:
            continue  # a comment
        if not (value.isascii() and value.isdigit() and 0 < int(value) < rows.LIMIT):
            raise TraceError(f"{path}, line {line}: {name} must be a whole number from 1, not {value!r}")
        notes[name] = int(value)
    return notes


def _columns(path: Path, header: str, line: int) -> np.ndarray:
    names = [name.strip() for name in header.split(",")]
    if len(set(names)) < len(names) or not {"query", "hop", "vertex"} <= set(names) <= set(COLUMNS):
        raise TraceError(
            f"{path}, line {line}: the header is {header[:80]!r}; it must name query, hop, vertex and, unless all "
            "rows are vectors, kind; and may name rank"
        )
    return np.array([COLUMNS.index(name) for name in names], np.int64)


def _require_order(path: Path, query: np.ndarray, hop: np.ndarray, kind: np.ndarray, lines: np.ndarray) -> None:
    same_query = query[1:] == query[:-1]
    same_hop = same_query & (hop[1:] == hop[:-1])
    for wrong, what in (
        (query[1:] < query[:-1], "the query comes after a later one; sort the rows by query and hop"),
        (same_query & (hop[1:] < hop[:-1]), "the hop comes after a later one; sort the rows by query and hop"),
        (same_hop & (kind[1:] != NO_LIST), "a hop's list comes first, and there is only one; begin a new hop with it"),
    ):
        if wrong.any():
            raise TraceError(f"{path}, line {lines[int(np.flatnonzero(wrong)[0]) + 1]}: {what}")


def _require_ranks(path: Path, query: np.ndarray, kind: np.ndarray, rank: np.ndarray, lines: np.ndarray) -> None:
    of_list = np.flatnonzero((rank >= 0) & (kind != NO_LIST))
    if len(of_list):
        raise TraceError(f"{path}, line {lines[of_list[0]]}: a list has a rank; only vectors have one")
    ranked = np.flatnonzero(rank >= 0)
    order = ranked[np.lexsort((ranked, rank[ranked], query[ranked]))]
    twice = (query[order][1:] == query[order][:-1]) & (rank[order][1:] == rank[order][:-1])
    if twice.any():
        row = int(order[1:][twice].min())
        raise TraceError(f"{path}, line {lines[row]}: query {query[row]} has the rank {rank[row]} twice")
