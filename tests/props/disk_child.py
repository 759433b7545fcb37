"""What the tests of the disk tier do in a process of its own, which may be killed, crash or run out of disk.

`python -m tests.props.disk_child write|damage|limit FOLDER`
"""

import random
import resource
import sys
from pathlib import Path

import ragcache.storage.lmdb_chunks
from ragcache.errors import RecordError
from tests.props.disk_records import bytes_of, no_orphans, opened, put, read, record

SEEDED = [record(size, n, *range(n * 300)) for n, size in enumerate([1, 900, 4080, 70_000, 2_000_000, 5000, 3])]
LIMIT = 8 << 20


def write(folder: Path) -> None:
    """Writes and removes for ever, in transactions as short as they get."""
    ragcache.storage.lmdb_chunks.BATCH_CHUNKS = 1
    rng = random.Random()
    with opened(folder, 32 << 20) as store:
        print("ready", flush=True)
        while True:
            wanted = record(rng.choice([3000, 2_000_000, 6_000_000]), rng.randrange(1000))
            while store.used + 2 * store.footprint(wanted.size, 1) > store.usable:
                store.remove([rng.choice(store.records()).key])
            put(store, wanted)


def damage(folder: Path) -> None:
    """Opens what may be damaged in any way and uses all of it: what comes back is right, or a RecordError."""
    with opened(folder) as store:
        for each in store.records():
            try:
                assert read(store, each) == bytes_of(each)
            except RecordError as error:
                if error.reason != "checksum":
                    raise
                assert each.key in store.verify()
        for each in SEEDED[::2]:
            store.remove([each.key])
        fresh = [record(1_200_000, 77, n) for n in range(6)]
        put(store, *fresh)
        assert all(read(store, each) == bytes_of(each) for each in fresh)
        store.update({each.key: (1, 2, 3, 4.0) for each in store.records()})
        print("discarded" if store.discarded else "kept", flush=True)
    no_orphans(folder)


def limit(folder: Path) -> None:
    """The disk fills up while a record is written: files may not grow past LIMIT, as if it had no more blocks."""
    small = [record(1_000_000, n) for n in range(3)]
    large = record(9_000_000, 9)
    with opened(folder) as store:
        put(store, *small)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        try:
            put(store, large)
        except RecordError as error:
            if error.reason != "full":
                raise
            print(error, flush=True)
        assert store.records() == small
        assert store.verify() == {}
        store.remove([small[0].key])
        again = record(900_000, 5)
        put(store, again)
        assert read(store, again) == bytes_of(again)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        put(store, large)
        assert read(store, large) == bytes_of(large)
    with opened(folder) as store:
        assert not store.swept
        assert len(store) == 4
    no_orphans(folder)


if __name__ == "__main__":
    {"write": write, "damage": damage, "limit": limit}[sys.argv[1]](Path(sys.argv[2]))
