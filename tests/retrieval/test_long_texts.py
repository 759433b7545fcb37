"""Memory and time follow what is embedded, not the length of the texts: long lines, long documents, long passages."""

import gzip
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import corpus as corpus_module
from retrieval import index as index_module
from retrieval import long_json
from retrieval.corpus import CorpusFingerprint, Document, read_corpus, text_pieces, write_corpus
from retrieval.embedder import MAX_CHARACTERS_PER_TOKEN, TOKENISED_CHARACTERS, Embedder
from retrieval.errors import CorpusError, IndexDamaged
from retrieval.index import BLOCK_CHARACTERS, build_index
from retrieval.long_json import parse_pieces
from retrieval.retriever import Retriever
from retrieval.store import DocumentStore, DocumentWriter
from tests.props.budget import examples

ROOT = Path(__file__).parents[2]
WORDS = 'a river of copper, «ünï» 漢字 and \U0001f600 \\ "quoted"\n\t' * 40


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as long is short, so that small texts are handled as long ones are."""
    monkeypatch.setattr(corpus_module, "PIECE", 64)
    monkeypatch.setattr(long_json, "PIECE", 16)


def pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text(alphabet='\\"\n\x00/ué漢\U0001f600 \ud83d\ude00'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES, st.booleans(), st.integers(1, 40), st.integers(1, 20))
@settings(max_examples=examples(300))
def test_json_in_pieces_is_json(value: Any, ascii_only: bool, size: int, long: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "PIECE", long)
        assert parse_pieces(pieces(text, size)) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": "bc', r'{"a": "b\x"}', r'{"a": "\u12', r'{"a": "\u12g4 and more"}', '{"a": "b"} c',
     '{"a": "b\nc"}', '{"a": "long enough to be a long string \\', "nonsense", '"long enough to be a long string\x01"'],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.usefixtures("short_pieces")
def test_what_is_not_json_is_not_json_in_pieces(text: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        json.loads(text)
    with pytest.raises(ValueError, match=r"."):
        parse_pieces(pieces(text, size))


def test_halves_of_pairs_are_as_json_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_json, "PIECE", 4)
    text = json.dumps("abcdefgh \ud83d\ude00 \ud83d \ude00 \ud83d\n \ud83d\ud83d\ude00 \ud83d")
    for size in range(1, 30):
        assert parse_pieces(pieces(text, size)) == json.loads(text)


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.jsonl.gz"])
@pytest.mark.usefixtures("short_pieces")
def test_long_lines_are_read_as_short_ones_are(tmp_path: Path, name: str) -> None:
    documents = [Document(str(n), WORDS[:n], WORDS[: 1 + n * 37], {"more": [WORDS[:n]]}) for n in range(1, 40)]
    write_corpus(tmp_path / name, documents)
    assert list(read_corpus(tmp_path / name)) == documents


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
@pytest.mark.usefixtures("short_pieces")
def test_a_long_first_line_may_begin_with_a_mark_and_any_may_end_as_on_windows(tmp_path: Path, ending: bytes) -> None:
    rows = [json.dumps({"id": str(n), "text": WORDS}, ensure_ascii=False).encode() for n in range(3)]
    (tmp_path / "docs.jsonl").write_bytes("\ufeff".encode() + b"\r\n".join(rows) + ending)
    assert [document.text for document in read_corpus(tmp_path / "docs.jsonl")] == [WORDS] * 3


@pytest.mark.parametrize("end", [b"\r", b" \r\r", b"\r\xef\xbb\xbf", b"\n\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [b"", b"\r", b"\r\n"])
@pytest.mark.parametrize("short", [True, False])
def test_lines_may_end_as_on_old_macs_and_begin_with_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes, last: bytes, short: bool
) -> None:
    if short:  # of the later rows, for the line ends are known by the first two
        monkeypatch.setattr(corpus_module, "PIECE", 128)
    rows = [json.dumps({"id": str(n), "text": "é " + "x" * (n * n)}, ensure_ascii=False).encode() for n in range(30)]
    (tmp_path / "docs.jsonl").write_bytes(b"\xef\xbb\xbf" + end.join(rows) + last)
    assert [len(document.text) for document in read_corpus(tmp_path / "docs.jsonl")] == [2 + n * n for n in range(30)]


def test_a_line_end_of_old_macs_within_a_row_ends_no_row(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_bytes(b'{"id": "a",\r"text": "x", "more": {}\r}\n{"id": "b", "text": "y"}\r\n')
    assert [document.id for document in read_corpus(tmp_path / "docs.jsonl")] == ["a", "b"]


def row(text: bytes) -> bytes:
    return b'{"id": "a", "text": "' + text + b'"}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (row(b"x" * 200 + b"\xff"), "2: not UTF-8 .byte 222 of the line."),
        (row("é".encode() * 200 + b"\xc3"), "2: not UTF-8 .byte 422 of the line."),
        (row(b"x" * 200)[:-2], "2: not JSON"),
        (row(b"x" * 200) + b"}", "2: not JSON .Extra data"),
        (row(b"x" * 200 + b"\\q" + b"x" * 50), "2: not JSON .Invalid .*escape"),
        (row(b" " * 200), "2: 'text' is blank"),
        (row(b"x" * 200 + b"\\ud83d"), "2: 'text' holds half of a surrogate pair at character 201"),
        (b"[" + b"1, " * 100 + b"1]", "2: the row is a JSON array"),
        (row(b"x" * 200).replace(b'"a"', b'"0"'), "2: id '0' is already used on line 1"),
    ],
)
@pytest.mark.usefixtures("short_pieces")
def test_wrong_long_lines_are_named(tmp_path: Path, line: bytes, words: str) -> None:
    (tmp_path / "docs.jsonl").write_bytes(row(b"fine").replace(b'"a"', b'"0"') + b"\n" + line + b"\n" + row(b"x"))
    with pytest.raises(CorpusError, match=words):
        list(read_corpus(tmp_path / "docs.jsonl"))


def test_a_fingerprint_does_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document("a", "T", WORDS), Document("b", "", "x"), Document("c", "", "")]
    rows = (
        json.dumps([each.id, each.title, each.text], ensure_ascii=False, separators=(",", ":")) for each in documents
    )
    whole = hashlib.sha256("".join(f"{row}\n" for row in rows).encode()).hexdigest()
    for size in (1, 7, 1 << 18):
        monkeypatch.setattr(corpus_module, "PIECE", size)
        taken = CorpusFingerprint()
        for document in documents:
            taken.add(document)
        assert taken.hexdigest() == whole
    assert "".join(text_pieces(WORDS)) == WORDS
    assert list(text_pieces("")) == [""]


# -- the store


@pytest.mark.usefixtures("short_pieces")
def test_a_long_text_is_kept_in_parts_and_read_as_far_as_it_is_needed(tmp_path: Path, monkeypatch) -> None:
    documents = [Document(str(n), "T" * n, WORDS[: 1 + 50 * n], {"n": n}) for n in range(20)]
    with DocumentWriter(tmp_path / "db") as writer:
        for document in documents:
            writer.add(document)
    with DocumentStore.open(tmp_path / "db") as store:
        assert [store.get(row) for row in range(20)] == documents
        for characters in (0, 1, 63, 64, 65, 128, 400, 10**6):
            cut = store.get(19, characters)
            assert (cut.text, cut.title) == (documents[19].text[:characters], documents[19].title[:characters])
        read: list[bytes] = []
        record = store._record
        monkeypatch.setattr(store, "_record", lambda table, key: (read.append(key), record(table, key))[1])
        store.get(19, 100)
        assert len(read) == 2  # of 16


@pytest.mark.usefixtures("short_pieces")
def test_a_part_that_changed_is_not_read(tmp_path: Path) -> None:
    with DocumentWriter(tmp_path / "db") as writer:
        writer.add(Document("a", "", "x" * 64 + "y" * 64))
    data = tmp_path / "db" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"yyyy", b"yzyy", 1))
    with DocumentStore.open(tmp_path / "db") as store:
        assert store.get(0, 64).text == "x" * 64
        with pytest.raises(IndexDamaged, match=r"data\.mdb: .*record 0 has changed"):
            store.get(0)


# -- what is tokenised


class Watched:
    """A tokenizer that notes the lengths of the texts of each call."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.calls: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: list[str], **options: Any) -> Any:
        self.calls.append([len(text) for text in texts])
        return self._tokenizer(texts, **options)


@pytest.fixture
def watched(embedder_folder: Path) -> tuple[Embedder, Watched]:
    embedder = Embedder.load(str(embedder_folder), threads=1)
    embedder._tokenizer = Watched(embedder._tokenizer)
    return embedder, embedder._tokenizer


def test_texts_are_cut_before_they_are_tokenised_and_in_parts(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, tokenizer = watched
    monkeypatch.setattr("retrieval.embedder.TOKENISED_CHARACTERS", 5000)
    texts = ["otter river " * 50_000, "short", "stone " * 400, "copper lantern " * 100_000]
    vectors = embedder.encode(texts)
    assert embedder.longest_text == 48 * MAX_CHARACTERS_PER_TOKEN == 1536
    assert tokenizer.calls == [[1536, 5, 1536, 1536]]
    assert [sum(call) for call in tokenizer.calls] == [4613]
    embedder.encode(texts * 2)
    assert tokenizer.calls[1:] == [[1536, 5, 1536, 1536], [1536, 5, 1536, 1536]]
    np.testing.assert_allclose(vectors, embedder.encode([text[:1000] for text in texts]), atol=1e-5)
    assert embedder.token_counts(texts) == [48, 3, 48, 48]


def test_blocks_of_documents_are_bounded_by_their_texts(watched, tmp_path: Path, monkeypatch) -> None:
    embedder, tokenizer = watched
    monkeypatch.setattr(index_module, "BLOCK_CHARACTERS", 4000)
    lengths = [10, 100_000, 100_000, 20, 3000, 30, 40, 100_000]
    write_corpus(tmp_path / "docs.jsonl", [Document(str(n), "", "word " * size) for n, size in enumerate(lengths)])
    build_index(tmp_path / "docs.jsonl", tmp_path / "index", "flat", embedder, progress=False)
    assert [length for call in tokenizer.calls for length in call] == [
        min(1536, 5 * size - 1) if size < 1000 else 1536 for size in lengths
    ]
    assert all(sum(call) <= 4000 for call in tokenizer.calls)
    assert max(map(len, tokenizer.calls)) == 4
    with Retriever.open(tmp_path / "index") as retriever:
        vectors = retriever.index.reconstruct_n(0, len(lengths))
    np.testing.assert_allclose(vectors, embedder.encode(["word " * size for size in lengths]), atol=1e-5)
    assert BLOCK_CHARACTERS == TOKENISED_CHARACTERS == 2 << 20


def test_a_text_behind_pages_of_blanks_is_still_embedded(tiny: Embedder, tmp_path: Path) -> None:
    write_corpus(tmp_path / "docs.jsonl", [Document("a", "", "\n" * 5000 + "otters"), Document("b", "", "otters")])
    build_index(tmp_path / "docs.jsonl", tmp_path / "index", "flat", tiny, progress=False)
    with Retriever.open(tmp_path / "index") as retriever:
        first, second = retriever.index.reconstruct_n(0, 2)
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_search_reads_no_more_of_a_document_than_is_asked_for(tiny: Embedder, tmp_path: Path) -> None:
    write_corpus(tmp_path / "docs.jsonl", [Document("a", "", "otters swim " * 100_000), Document("b", "", "rust")])
    build_index(tmp_path / "docs.jsonl", tmp_path / "index", "flat", tiny, progress=False)
    with Retriever.open(tmp_path / "index") as retriever:
        (stage,) = retriever.search_stages("otters", 2, None, 50)
        assert {hit.document.id: len(hit.document.text) for hit in stage.hits} == {"a": 50, "b": 4}
        assert max(len(hit.document.text) for hit in retriever.search("otters", 2)) == 1_200_000


# -- memory and time of the whole


def peak_kib(corpus: Path, out: Path, *command: str) -> int:
    """Peak memory of a process that builds an index, in KiB."""
    code = (
        "import sys; from pathlib import Path; from retrieval.embedder import Embedder\n"
        "from retrieval.index import build_index\n"
        "build_index(Path(sys.argv[1]), Path(sys.argv[2]), 'flat', Embedder.load(sys.argv[3], 1), progress=False)\n"
        "print(Path('/proc/self/status').read_text())"  # what `resource` says includes the parent's memory
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(corpus), str(out), *command],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=True,
    )  # fmt: skip
    peak = re.search(r"VmHWM:\s*(\d+) kB", done.stdout)
    assert peak is not None
    return int(peak[1])


def written(path: Path, texts: Iterable[str], pack: bool = False) -> Path:
    with gzip.open(path, "wt", compresslevel=1) if pack else path.open("w") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"id": str(number), "text": text}) + "\n")
    return path


@pytest.mark.full(proof="test_texts_are_cut_before_they_are_tokenised_and_in_parts")
@pytest.mark.parametrize(("megabytes", "pack"), [(20, True), (200, False)])
def test_memory_hardly_follows_the_length_of_a_document(tmp_path, embedder_folder, megabytes: int, pack: bool) -> None:
    line = 'the river ran past warehouse number nine, "so they say", and on\n'
    small = written(tmp_path / "small.jsonl", [line * 60, "otters"])
    large = written(
        tmp_path / ("large.jsonl.gz" if pack else "large.jsonl"),
        [line * (megabytes * 10**6 // len(line)), "otters"],
        pack,
    )
    least = peak_kib(small, tmp_path / "small", str(embedder_folder))
    most = peak_kib(large, tmp_path / "large", str(embedder_folder))
    # the text itself, as it grows, and batches of records on their way to the disk
    assert (most - least) * 1024 < 1.5 * megabytes * 10**6 + (100 << 20)
    if megabytes == 200:
        assert most < 1 << 20  # 1 GiB


@pytest.mark.full(proof="test_blocks_of_documents_are_bounded_by_their_texts")
def test_memory_does_not_follow_the_sum_of_the_documents(tmp_path: Path, embedder_folder: Path) -> None:
    text = "the river ran past warehouse number nine and on " * 2000
    short = written(tmp_path / "short.jsonl", [text[:4000]] * 300)
    long = written(tmp_path / "long.jsonl", [text] * 300)
    least = peak_kib(short, tmp_path / "short", str(embedder_folder))
    assert peak_kib(long, tmp_path / "long", str(embedder_folder)) - least < 150 << 10


@pytest.mark.timing
def test_time_does_not_follow_the_length_of_the_documents(tmp_path: Path, default_embedder: Embedder) -> None:
    text = "the river ran past warehouse number nine and on " * 2000
    seconds = {}
    for length in (4000, len(text)):
        path = written(tmp_path / f"{length}.jsonl", [text[:length]] * 100)
        begin = time.monotonic()
        build_index(path, tmp_path / str(length), "flat", default_embedder, progress=False)
        seconds[length] = time.monotonic() - begin
    assert seconds[len(text)] < 1.25 * seconds[4000]
