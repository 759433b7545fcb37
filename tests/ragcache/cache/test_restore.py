"""The records of an earlier process that a cache takes in: its own model's alone, parents first."""

from pathlib import Path
from typing import Any

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.interface import DiskTier
from ragcache.policy import POLICIES
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.stores import DiskRecords
from ragcache.tree.segment import Segment

TOKEN = 512  # bytes of KV
SYSTEM, FIRST, SECOND = (Segment.of(name, [token] * 40) for token, name in enumerate(["system", "first", "second"]))
LARGE = Segment.of("large", [9] * 200)
PATH = [SYSTEM, FIRST, SECOND]


class Bytes:
    """Host memory, and a KVTransfer's work on it: KV is bytes."""

    stored_bytes_per_token = TOKEN

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)

    @property
    def buffer(self) -> memoryview:
        return memoryview(self.content)

    def payload(self, span: bytes) -> memoryview:
        return memoryview(span)

    payload_of_host = to_host = to_device = payload

    def empty_host(self, tokens: int) -> Any:
        return Bytes(bytes(tokens * TOKEN))

    def adopt(self, host: Any) -> bytes:
        return bytes(host.content)


def opened(folder: Path, fingerprint: bytes = b"model", usable: int | None = None) -> KnowledgeCache:
    """A cache whose device holds one path at a time."""
    store = DiskStore.open(folder, 16 << 20, fingerprint)
    disk = DiskTier(usable or store.usable, POLICIES["pgdsf"](1000), DiskRecords(store, Bytes(), fingerprint))
    cache = KnowledgeCache(200 * TOKEN, TOKEN, POLICIES["pgdsf"](1000), disk=disk)
    cache.restore()
    cache.check_integrity()
    return cache


def kv_of(namespace: str, path: list[Segment], depth: int) -> bytes:
    seed = repr((namespace, [segment.label for segment in path[: depth + 1]])).encode()
    return (seed * TOKEN)[:TOKEN] * len(path[depth])


def use(cache: KnowledgeCache, path: list[Segment] = PATH, namespace: str = "default") -> int:
    """Tokens that came from the disk; what was cached is what had been computed under this name."""
    with cache.lease(path, 0, namespace=namespace) as lease:
        for depth, node in enumerate(lease.nodes):
            assert node.kv == kv_of(namespace, path, depth)
        lease.commit([kv_of(namespace, path, depth) for depth in range(lease.cached, len(path))])
    cache.check_integrity()
    return lease.cached_by_tier[2]


def test_a_path_is_taken_in_with_what_was_learned_of_it(tmp_path):
    cache = opened(tmp_path)
    assert use(cache) == 0
    use(cache, [SYSTEM, SECOND])
    learned = {node.path_key: (node.frequency, node.misses, node.seconds_per_token) for node in cache.tree.nodes()}
    uses = max(node.last_use for node in cache.tree.nodes())
    cache.close()
    cache = opened(tmp_path)
    assert {
        node.path_key: (node.frequency, node.misses, node.seconds_per_token) for node in cache.tree.nodes()
    } == learned
    assert use(cache) == 120
    assert min(node.last_use for node in cache.tree.nodes() if node.frequency > 1) > 0
    assert max(node.last_use for node in cache.tree.nodes()) == uses + 3  # time goes on where it stopped
    cache.close()


def test_namespaces_share_nothing_after_a_restart(tmp_path):
    cache = opened(tmp_path)
    for name in ("red", "blue"):
        assert use(cache, namespace=name) == 0
    cache.close()
    cache = opened(tmp_path)
    assert len(cache.tree) == 6
    assert use(cache, namespace="green") == 0
    for name in ("red", "blue"):
        assert use(cache, namespace=name) == 120
    cache.close()


def test_another_fingerprint_takes_in_nothing(tmp_path):
    cache = opened(tmp_path)
    use(cache)
    cache.close()
    cache = opened(tmp_path, b"other model")
    assert len(cache.tree) == 0
    assert use(cache) == 0
    cache.close()


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_what_does_not_fit_any_more_is_left_out_and_removed(tmp_path, kept):
    cache = opened(tmp_path)
    use(cache)
    size = cache.hierarchy.records.footprint(40)
    cache.close()
    cache = opened(tmp_path, usable=max(1, kept * size))
    assert len(cache.tree) == kept
    cache.close()
    cache = opened(tmp_path)
    assert len(cache.tree) == kept
    assert use(cache) == 40 * kept
    cache.close()


def test_records_deep_below_a_device_too_small_for_them_are_no_trouble(tmp_path):
    cache = opened(tmp_path)
    use(cache, [SYSTEM, FIRST])
    use(cache, [LARGE])  # the device has room for this alone
    cache.close()
    cache = opened(tmp_path)
    assert cache.lease([SYSTEM, LARGE], 0) is None
    assert use(cache, [LARGE]) == 200
    assert use(cache, [SYSTEM, FIRST]) == 80
    cache.close()
