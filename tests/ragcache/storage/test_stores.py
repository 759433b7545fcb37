"""The stores behind the tiers: a record goes in from either memory and comes back, and no store knows the tree."""

import ast
import dataclasses
from array import array
from pathlib import Path

import pytest

import ragcache.storage
from ragcache.cache.records import record_of
from ragcache.errors import RecordError
from ragcache.storage.interface import DeviceKV, HostKV
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.record import Record, record_key
from ragcache.storage.stores import DiskRecords
from ragcache.tree.segment import Segment
from ragcache.tree.tree import KnowledgeTree

TOKEN = 64  # bytes of KV
IDS = array("i", [7, 8, 9])
KV = bytes(range(3 * TOKEN))


class Host:
    """Host memory whose bytes differ from the device's, so that a payload taken from the wrong memory shows."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)

    @property
    def buffer(self) -> memoryview:
        return memoryview(self.content)


class Reversing:
    """A Transfer that stores KV back to front: `bytes` on the device, a `Host` in host memory."""

    stored_bytes_per_token = TOKEN

    def to_host(self, span: bytes) -> Host:
        return Host(span[::-1])

    def to_device(self, host: Host) -> bytes:
        return bytes(host.content[::-1])

    adopt = to_device

    def empty_host(self, tokens: int) -> Host:
        return Host(bytes(tokens * TOKEN))

    def payload(self, span: bytes) -> memoryview:
        return memoryview(span[::-1])

    def payload_of_host(self, host: Host) -> memoryview:
        return host.buffer


@pytest.fixture
def records(tmp_path):
    store = DiskStore.open(tmp_path, 16 << 20, b"model")
    yield DiskRecords(store, Reversing(), b"model")
    store.close()


def record_in(records: DiskRecords) -> Record:
    parent = records.root_key("default")
    return Record(record_key(parent, IDS), parent, "default", "three", IDS, 0, 2, 5, 1, 0.25)


@pytest.mark.parametrize("kv", [DeviceKV(KV), HostKV(Reversing().to_host(KV))], ids=["device", "host"])
def test_a_record_comes_back_whichever_memory_it_was_written_from(records, kv):
    record = record_in(records)
    records.write(record, kv)
    assert records.records() == [dataclasses.replace(record, size=len(KV))]
    assert records.land(records.read(record.key, len(IDS))) == KV
    records.remove([record.key, b"\0" * 32])
    assert records.records() == []
    with pytest.raises(RecordError, match="is not there") as caught:
        records.read(record.key, len(IDS))
    assert caught.value.reason == "missing"


def test_what_was_learned_is_written_when_the_store_closes(tmp_path):
    records = DiskRecords(DiskStore.open(tmp_path, 16 << 20, b"model"), Reversing(), b"model")
    record = record_in(records)
    records.write(record, DeviceKV(KV))
    records.close({record.key: (9, 8, 7, 0.5)})
    with DiskStore.open(tmp_path, 16 << 20, b"model") as store:
        assert [each.stats for each in store.records()] == [(9, 8, 7, 0.5)]


def test_the_record_of_a_node_spells_its_path_and_says_what_was_learned():
    tree = KnowledgeTree()
    first = tree.insert(tree.root("red"), Segment.of("first", [1, 2]))
    second = tree.insert(first, Segment.of("second", IDS))
    second.frequency, second.last_use, second.misses, second.seconds_per_token = 4, 9, 2, 0.5
    above = record_of(first, b"root")
    below = record_of(second, above.key)
    assert (above.parent, above.namespace, above.label) == (b"root", "red", "first")
    assert (below.parent, below.namespace, below.label, below.tokens) == (above.key, "red", "second", IDS)
    assert below.key == record_key(record_key(b"root", array("i", [1, 2])), IDS)
    assert (below.size, below.stats) == (0, (4, 9, 2, 0.5))


def test_no_store_knows_the_tree():
    folder = Path(ragcache.storage.__file__).parent
    imported = {
        name
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    }
    assert "ragcache.errors" in imported
    assert {
        name for name in imported if name.startswith(("ragcache.tree", "ragcache.cache", "ragcache.policy"))
    } == set()
