"""An index whose files were cut, changed, mixed up or are missing is refused in one line that names the file, and never
ends the process or serves a wrong text; a large file is checked while it is in use."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from retrieval import index_files
from retrieval import retriever as retriever_module
from retrieval.corpus import read_corpus, write_corpus
from retrieval.embedder import Embedder
from retrieval.errors import IndexDamaged, IndexFolderError
from retrieval.index import build_index
from retrieval.index_files import CHECKED_AT_ONCE, IndexCheck, OpenFile, digest_of
from retrieval.retriever import Retriever
from tests.retrieval.conftest import documents
from tests.retrieval.damage import (
    DATA,
    Damage,
    copied_from,
    cut,
    dangling,
    emptied,
    flipped,
    longer,
    manifest,
    removed,
    replaced_by_folder,
    used,
    without_digests,
    zeroed,
)

COUNT = 300
KINDS = ["flat", "ivf", "hnsw"]

DAMAGES: dict[str, Damage] = {
    **{f"{name}-cut-{share}": cut(name, share) for name in ("faiss.idx", DATA) for share in (0.0, 0.01, 0.5, 0.999)},
    **{f"{name}-flipped-{share}": flipped(name, share) for name in ("faiss.idx", DATA) for share in (0, 0.3, 0.6, 1)},
    **{f"{name}-{what.__name__}": what(name)
       for name in ("faiss.idx", DATA)
       for what in (longer, removed, replaced_by_folder, dangling, emptied)},
    **{f"{name}-of-{other}": copied_from(other, name) for name in ("faiss.idx", DATA) for other in ("fewer", "edited")},
    "faiss.idx-of-another-type": copied_from("other-type", "faiss.idx"),
    f"{DATA}-zeroed-pages": zeroed(DATA, 20, 10),
    f"{DATA}-zeroed-meta": zeroed(DATA, 0, 2),
    "manifest.json-cut": cut("manifest.json", 0.7),
    "manifest.json-removed": removed("manifest.json"),
    "manifest.json-folder": replaced_by_folder("manifest.json"),
    "manifest.json-dangling": dangling("manifest.json"),
    "manifest.json-emptied": emptied("manifest.json"),
    "manifest.json-not-text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\0"),
    "manifest.json-a-list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "manifest.json-deep": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "manifest.json-no-digests": manifest(lambda values: values["files"].clear()),
    "manifest.json-digest-a-number": manifest(lambda values: values["files"].update({"faiss.idx": 5})),
    "manifest.json-digest-without-size": manifest(lambda values: values["files"][DATA].pop("size")),
    "manifest.json-size-a-text": manifest(lambda values: values["files"][DATA].update(size="1")),
    "manifest.json-size-negative": manifest(lambda values: values["files"][DATA].update(size=-1)),
    "manifest.json-hash-too-short": manifest(lambda values: values["files"][DATA].update(sha256="ab")),
    "manifest.json-file-elsewhere": manifest(lambda values: values["files"].update({"../x": values["files"][DATA]})),
    "manifest.json-files-a-list": manifest(lambda values: values.update(files=[])),
    "manifest.json-version-true": manifest(lambda values: values.update(format_version=True)),
    "manifest.json-of-fewer": copied_from("fewer", "manifest.json"),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny: Embedder) -> Path:
    """A folder with an index of each type, and others whose files do not belong to them."""
    folder = tmp_path_factory.mktemp("indexes")
    write_corpus(folder / "corpus.jsonl", documents(COUNT))
    write_corpus(folder / "fewer.jsonl", documents(30))
    edited = documents(COUNT)
    edited[7] = documents(COUNT + 1)[-1]
    write_corpus(folder / "edited.jsonl", edited)
    for kind in KINDS:
        build_index(folder / "corpus.jsonl", folder / kind, kind, tiny, progress=False)
    for name in ("fewer", "edited"):
        build_index(folder / f"{name}.jsonl", folder / name, "flat", tiny, progress=False)
    shutil.copytree(folder / "ivf", folder / "other-type")
    return folder


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    """A flat index of one's own, with those that it can be mixed up with beside it."""
    for name in ("flat", "fewer", "edited", "other-type"):
        shutil.copytree(built / name, tmp_path / name)
    return tmp_path / "flat"


@pytest.fixture
def texts(built: Path) -> dict[str, str]:
    return {document.id: document.text for document in read_corpus(built / "corpus.jsonl")}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_index_is_refused_in_a_line_that_names_the_file(index: Path, name: str) -> None:
    DAMAGES[name](index)
    with pytest.raises(IndexFolderError) as caught:
        Retriever.open(index)
    message = str(caught.value)
    file = "faiss.idx" if name == "manifest.json-of-fewer" else re.split(r"(?<=\.idx|\.mdb)|(?<=\.json)", name)[0]
    assert str(index / file) in message
    assert re.search("build (it|the index) again", message)
    assert "\n" not in message
    left_open = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert not [path for path in left_open if path.is_relative_to(index)]


@pytest.mark.parametrize("name", [name for name in DAMAGES if not name.startswith("manifest")])
def test_without_digests_damage_is_refused_or_harmless(index: Path, texts: dict[str, str], name: str) -> None:
    without_digests(index)
    DAMAGES[name](index)
    said = used(index, texts)
    if said == "well":  # numbers of a vector, or bytes that nothing reads
        assert name.startswith(("faiss.idx-flipped", "faiss.idx-of-edited")) or "longer" in name or "flipped-1" in name
    else:
        assert str(index / "faiss.idx") in said or str(index / "documents.lmdb") in said
        assert re.search("build (it|the index) again", said)


def test_an_index_without_digests_opens_and_says_that_it_is_not_checked(index: Path, texts, caplog) -> None:
    without_digests(index)
    assert used(index, texts) == "well"
    assert "built before manifests had digests" in caplog.text
    assert str(index) in caplog.text


def test_files_that_are_not_of_the_index_do_no_harm(index: Path, texts: dict[str, str]) -> None:
    (index / ".DS_Store").write_bytes(b"x")
    (index / "documents.lmdb" / "lock.mdb").write_bytes(b"x")
    assert used(index, texts) == "well"


def test_an_index_behind_links_opens(index: Path, texts: dict[str, str], tmp_path: Path) -> None:
    (index / "faiss.idx").rename(tmp_path / "vectors")
    (index / "faiss.idx").symlink_to(tmp_path / "vectors")
    (tmp_path / "link").symlink_to(index)
    assert used(tmp_path / "link", texts) == "well"


@pytest.mark.full(proof="test_without_digests_damage_is_refused_or_harmless")
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_flipped_anywhere_end_no_process(built: Path, tmp_path: Path, kind: str) -> None:
    """Where nothing but form can be checked, because the manifest has no digests."""
    folder = shutil.copytree(built / kind, tmp_path / "index")
    without_digests(folder)
    rounds = 300
    command = [sys.executable, "-m", "tests.retrieval.damage", folder, built / "corpus.jsonl", str(rounds)]
    done = subprocess.run(
        [*map(str, command)], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == rounds + 1
    assert lines[-1] == "well"
    assert sum("damaged" in line for line in lines) > rounds // 4


# -- large files, which are checked in the background


@pytest.fixture
def in_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as a large one."""
    monkeypatch.setattr(IndexCheck.__init__, "__defaults__", (0,))


def test_what_counts_as_large_is_checked_in_the_background() -> None:
    assert IndexCheck.__init__.__defaults__ == (CHECKED_AT_ONCE,)


@pytest.mark.usefixtures("in_background")
def test_a_large_index_is_served_while_it_is_checked(index: Path, texts: dict[str, str]) -> None:
    with Retriever.open(index) as retriever:
        assert retriever.check.wait(30)
        assert (retriever.check.pending, retriever.check.damage) == ("", None)
    assert used(index, texts) == "well"


@pytest.mark.usefixtures("in_background")
def test_damage_that_the_background_finds_ends_every_search(index: Path, caplog, monkeypatch) -> None:
    flipped("faiss.idx", 0.9)(index)
    started = IndexCheck.start
    monkeypatch.setattr(IndexCheck, "start", lambda _: None)
    with Retriever.open(index) as retriever:
        assert "faiss.idx" in retriever.check.pending
        assert retriever.search("a stone", 3)
        started(retriever.check)
        assert retriever.check.wait(30)
        for _ in range(2):
            with pytest.raises(IndexDamaged, match=r"faiss\.idx: .*build the index again"):
                retriever.search("a stone", 3)
    assert caplog.text.count("no question is answered from a damaged index") == 1


@pytest.mark.usefixtures("in_background")
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_is_seen_at_once_however_large_the_file(index: Path, share: float) -> None:
    cut(DATA, share)(index)
    with pytest.raises(IndexDamaged, match=r"data\.mdb: .*cut short"):
        Retriever.open(index)


@pytest.mark.usefixtures("in_background")
def test_documents_without_digests_are_checked_in_the_background(index: Path, texts: dict[str, str]) -> None:
    without_digests(index)
    with Retriever.open(index) as retriever:
        assert retriever.check.wait(30)
        assert retriever.check.damage is None
    assert used(index, texts) == "well"
    content = (index / DATA).read_bytes()
    (index / DATA).write_bytes(content.replace(b"number 250 ", b"number 251 "))
    with Retriever.open(index) as retriever:
        assert retriever.check.wait(30)
        with pytest.raises(IndexDamaged, match=r"the document store .* has changed"):
            retriever.search("a stone", 1)


@pytest.mark.usefixtures("in_background")
def test_a_check_that_fails_is_not_passed(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise MemoryError("none left")

    start = IndexCheck.start
    monkeypatch.setattr(IndexCheck, "start", lambda _: None)
    with Retriever.open(index) as retriever:
        monkeypatch.setattr(index_files, "_hashed", broken)
        start(retriever.check)
        assert retriever.check.wait(30)
        with pytest.raises(IndexDamaged, match=r"faiss\.idx: the index cannot be checked \(none left\)"):
            retriever.search("a stone", 1)


@pytest.mark.usefixtures("in_background")
def test_closing_ends_a_check_under_way(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_files, "PIECE", 1)
    retriever = Retriever.open(index)
    retriever.close()
    assert retriever.check.damage is None


def test_a_document_that_is_damaged_while_it_is_served_is_an_error_and_no_text(index: Path) -> None:
    with Retriever.open(index) as retriever:
        whole = (index / DATA).read_bytes()
        os.truncate(index / DATA, 8192)  # as `cp` does, before it writes anew
        with pytest.raises(IndexDamaged, match=r"data\.mdb: .*cut short.*build the index again"):
            retriever.search("a stone", COUNT)
        (index / DATA).write_bytes(whole)
        with pytest.raises(IndexDamaged):  # until the index is opened again
            retriever.search("a stone", 3)
    with Retriever.open(index) as retriever:
        assert retriever.search("a stone", 3)


@pytest.mark.parametrize("replace", ["before", "amid"])
def test_an_index_that_is_replaced_while_it_is_opened_is_one_of_the_two(
    index: Path, tmp_path: Path, replace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other index comes between reading the manifest and the files, or between the files."""
    name = "OpenFile" if replace == "before" else "read_vectors"
    import retrieval.retriever as module

    original = getattr(module, name)
    swapped: list[Path] = []

    def swapping(*arguments: object) -> object:
        if not swapped:
            swapped.append(index.rename(tmp_path / "old"))
            (tmp_path / "fewer").rename(index)
        return original(*arguments)

    monkeypatch.setattr(retriever_module, name, swapping)
    with Retriever.open(index) as retriever:
        assert len(retriever) == 30
        assert len(retriever.search("a stone", 30)) == 30


@pytest.mark.parametrize("when", ["before", "amid"])
def test_an_index_that_is_missing_for_a_moment_is_waited_for(
    index: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while another takes its place, on a system that cannot exchange two folders in one step."""
    workplace = index.parent / f".{index.name}.building-abcd"
    workplace.mkdir()
    back = threading.Timer(0.2, lambda: (workplace / "old").rename(index))

    def leave() -> None:
        index.rename(workplace / "old")
        back.start()

    original = retriever_module.OpenFile

    def leaving(path: Path) -> object:
        if back.ident is None:
            leave()
        return original(path)

    if when == "before":
        leave()
    else:
        monkeypatch.setattr(retriever_module, "OpenFile", leaving)
    with Retriever.open(index) as retriever:
        assert retriever.search("a stone", 3)
    back.join()


def test_an_index_that_stays_missing_is_said_to_be(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever_module, "MISSING_SECONDS", 0.05)
    gone = index.parent / f".{index.name}.building-abcd"
    with pytest.raises(IndexFolderError, match="no index folder; build one"):
        Retriever.open(index.parent / "none")
    index.rename(gone)
    with pytest.raises(IndexFolderError, match="no index folder; wait for the build that runs, or build it again"):
        Retriever.open(index)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "faiss.idx"
    path.write_bytes(b"x")

    def refused(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(IndexFolderError, match=r"faiss\.idx: cannot be read \(Permission denied\)"):
        OpenFile(path)


def test_a_digest_is_size_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    digest = digest_of(tmp_path / "file")
    assert digest.size == 3
    assert digest.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
