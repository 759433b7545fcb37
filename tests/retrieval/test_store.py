"""The document store: round trips, growth, sharing, and refusal of what was not finished."""

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path

import lmdb
import pytest

from retrieval import store as store_module
from retrieval.corpus import CorpusFingerprint, Document
from retrieval.errors import IndexFolderError
from retrieval.lmdb_pages import PageFile
from retrieval.store import DocumentStore, DocumentWriter


def build(folder: Path, documents: list[Document]) -> Path:
    with DocumentWriter(folder) as writer:
        assert [writer.add(document) for document in documents] == list(range(len(documents)))
    return folder


def test_round_trip_by_row_and_by_id(tmp_path: Path) -> None:
    documents = [Document("a", "T", "ünï", {"k": [1]}), Document("b" * 2000, "", "x")]
    with DocumentStore.open(build(tmp_path / "db", documents)) as store:
        assert len(store) == 2
        assert [store.get(0), store.get(1)] == documents
        assert [store.row_of(document.id) for document in documents] == [0, 1]
        fingerprint = CorpusFingerprint()
        for document in documents:
            fingerprint.add(document)
        assert store.corpus_fingerprint == fingerprint.hexdigest()
        with pytest.raises(KeyError, match="none"):
            store.row_of("none")
        for row in (-1, 2):
            with pytest.raises(IndexError, match="2 documents"):
                store.get(row)


def test_the_map_grows_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FIRST_MAP_BYTES", 1 << 16)
    monkeypatch.setattr(store_module, "BATCH_ROWS", 7)
    documents = [Document(str(n), "", f"{n} " * 2000) for n in range(100)]
    with DocumentStore.open(build(tmp_path / "db", documents)) as store:
        assert [store.get(row) for row in range(100)] == documents
        assert [store.row_of(str(n)) for n in range(100)] == list(range(100))


def test_two_stores_on_one_folder_and_closing_either(tmp_path: Path) -> None:
    folder = build(tmp_path / "db", [Document("a", "", "x")])
    first, second = DocumentStore.open(folder), DocumentStore.open(folder)
    first.close()
    first.close()
    assert second.get(0).id == "a"
    with pytest.raises(IndexFolderError, match="closed"):
        first.get(0)
    second.close()


def test_threads_read_together(tmp_path: Path) -> None:
    documents = [Document(str(n), "", f"text {n}") for n in range(200)]
    wrong: list[int] = []
    with DocumentStore.open(build(tmp_path / "db", documents)) as store:

        def read() -> None:
            wrong.extend(n for n in range(200) if store.get(n).id != str(n) or store.row_of(str(n)) != n)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_reads(tmp_path: Path) -> None:
    with DocumentStore.open(build(tmp_path / "db", [Document("a", "", "x")])) as store:
        child = os.fork()
        if child == 0:
            os._exit(0 if store.get(0).id == "a" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_reading_writes_nothing(tmp_path: Path) -> None:
    folder = build(tmp_path / "db", [Document("a", "", "x")])
    before = sorted(path.name for path in folder.iterdir())
    with DocumentStore.open(folder) as store:
        store.get(0)
    assert sorted(path.name for path in folder.iterdir()) == before == ["data.mdb"]


def test_missing_unfinished_and_damaged_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match=r"data\.mdb is missing"):
        DocumentStore.open(tmp_path / "none")

    with contextlib.suppress(KeyboardInterrupt), DocumentWriter(tmp_path / "unfinished") as writer:
        writer.add(Document("a", "", "x"))
        raise KeyboardInterrupt
    with pytest.raises(IndexFolderError, match="not finished or is damaged"):
        DocumentStore.open(tmp_path / "unfinished")

    damaged = build(tmp_path / "damaged", [Document("a", "", "x")])
    (damaged / "data.mdb").write_bytes(b"nothing like LMDB" * 1000)
    with pytest.raises(IndexFolderError, match="not a meta page of LMDB"):
        DocumentStore.open(damaged)


@pytest.mark.parametrize(("field", "value", "words"), [("format", 9, "format 9"), ("documents", 5, "1 rows where 5")])
def test_metadata_that_does_not_fit_is_refused(tmp_path: Path, field: str, value: int, words: str) -> None:
    folder = build(tmp_path / "db", [Document("a", "", "x")])
    with lmdb.open(str(folder), max_dbs=4) as env, env.begin(write=True, db=env.open_db(b"meta")) as txn:
        txn.put(b"store", json.dumps({**json.loads(txn.get(b"store")), field: value}).encode())
    with pytest.raises(IndexFolderError, match=words):
        DocumentStore.open(folder)


def earlier_store(folder: Path, documents: list[Document]) -> Path:
    """A store as version 0.1.0 wrote it: records without a checksum, texts in one piece."""
    folder.mkdir()
    with lmdb.open(str(folder), max_dbs=3, map_size=1 << 28) as env:
        rows, row_of_id, meta = (env.open_db(name) for name in (b"rows", b"row_of_id", b"meta"))
        fingerprint = CorpusFingerprint()
        with env.begin(write=True) as txn:
            for row, document in enumerate(documents):
                record = [document.id, document.title, document.text, dict(document.extra)]
                txn.put(row.to_bytes(8, "big"), json.dumps(record, ensure_ascii=False).encode(), db=rows)
                key = hashlib.blake2b(document.id.encode(), digest_size=16).digest()
                txn.put(key, row.to_bytes(8, "big"), db=row_of_id)
                fingerprint.add(document)
            values = {"format": 1, "documents": len(documents), "corpus_fingerprint": fingerprint.hexdigest()}
            txn.put(b"store", json.dumps(values).encode(), db=meta)
    return folder


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    documents = [Document(str(n), "T", "ünï " * n * n + "x", {"n": n}) for n in range(300)]
    with DocumentStore.open(earlier_store(tmp_path / "db", documents)) as store:
        assert not store.checked
        assert [store.get(row) for row in range(300)] == documents
        assert [store.row_of(str(n)) for n in range(300)] == list(range(300))
        assert store.get(299, 10).text == documents[299].text[:10]
        with pytest.raises(KeyError):
            store.row_of("none")


@pytest.mark.parametrize("count", [1, 2, 50, 5000])
def test_pages_hold_what_lmdb_says_they_hold(tmp_path: Path, count: int) -> None:
    documents = [Document(f"id {n}", "", "x" * (n * 37 % 6000 + 1)) for n in range(count)]
    folder = build(tmp_path / "db", documents)
    with lmdb.open(str(folder), max_dbs=4, readonly=True, lock=False) as env, env.begin() as txn:
        pages = PageFile(folder / "data.mdb")
        for name in (b"rows", b"row_of_id", b"parts", b"meta"):
            table = pages.table(name)
            entries = dict(txn.cursor(db=env.open_db(name, txn=txn, create=False)))
            assert table.entries == len(entries)
            assert {key: pages.get(table, key) for key in entries} == entries
            for key in (b"", b"\0", b"\0" * 8, b"\xff" * 8, b"\xff" * 20, b"id"):
                assert pages.get(table, key) == entries.get(key)
        with pytest.raises(KeyError):
            pages.table(b"others")
        pages.close()
        assert pages.closed
