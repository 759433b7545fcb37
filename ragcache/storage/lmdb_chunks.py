"""Chunks: the bytes of one record, as they are written to the file and read back against their checksum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash

from ragcache.storage.lmdb_file import BODY, HEADERS, STATS, DiskFile
from ragcache.storage.record import Header, Stats, pack_stats

BATCH_CHUNKS = 32  # of the longest chunks, as many as one transaction writes or reads
SLICE = 256 << 10  # bytes that are copied and then hashed while the core's own cache holds them


def write_record(file: DiskFile, header: Header, stats: Stats, about: memoryview, payload: memoryview) -> None:
    """Writes description and KV in transactions of bounded size. The last one has the header, which makes it visible.

    Errors of LMDB and of the system are raised as they are; chunks without a header are left then.
    """
    step = BATCH_CHUNKS * file.longest_chunk()
    index = BODY
    for start in range(0, len(payload), step):

        def put(txn: Any, longest: int, *, start: int = start, index: int = index) -> int:
            if start == 0:
                file.append(txn, header.number, 0, about, longest)
            end = file.append(txn, header.number, index, payload[start : start + step], longest)
            if start + step >= len(payload):
                txn.put(header.key, header.pack(), db=file.tables[HEADERS])
                txn.put(header.key, pack_stats(stats), db=file.tables[STATS])
            return end

        index = file.commit(put)


def read_kv(file: DiskFile, header: Header, take: Callable[[int, np.ndarray], np.ndarray]) -> str | None:
    """Hands a record's KV to `take`, a slice and its place at a time. Returns None, or "truncated" or "checksum".

    The checksum is that of what `take` returns. Errors of LMDB and of the system are raised as they are.
    """
    digest = xxhash.xxh3_128()
    batch = BATCH_CHUNKS * file.longest_chunk()
    index, done = BODY, 0
    while done < header.size:
        first, stop = index, done + batch
        with file.reader() as txn:
            for value in file.chunks(txn, header.number, index):
                chunk = np.frombuffer(value, dtype=np.uint8)
                index, done = index + 1, done + len(chunk)
                if done > header.size:
                    break
                for start in range(0, len(chunk), SLICE):
                    digest.update(take(done - len(chunk) + start, chunk[start : start + SLICE]).data)
                if done >= stop:
                    break
        if done > header.size or index == first:
            return "truncated"
    return None if digest.digest() == header.digest else "checksum"


def flat(buffer: memoryview) -> memoryview:
    """The same bytes in one dimension; ValueError if they are not contiguous."""
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise ValueError("the payload's bytes do not lie together")
    return view.cast("B")
