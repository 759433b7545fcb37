"""Index: a folder with the FAISS index of a corpus, its documents, and a manifest of what made them."""

import contextlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import lmdb
import numpy as np
from tqdm import tqdm

from retrieval.build_folder import built_beside, require_replaceable
from retrieval.corpus import Document
from retrieval.embedder import Embedder
from retrieval.errors import EmbedderError, IndexFolderError, RetrievalError, RetrievalWarning
from retrieval.index_files import FileDigest, digest_of
from retrieval.source import JsonLines, Source
from retrieval.store import DATA_FILE, DocumentStore, DocumentWriter
from retrieval.vector_file import GivenVectors, VectorFile, write_vectors

FORMAT_VERSION = 2
UNCHECKED_VERSION = 1  # has no digests of the index's files: still read
FAISS_FILE, DOCUMENTS_FOLDER, MANIFEST_FILE = PARTS = "faiss.idx", "documents.lmdb", "manifest.json"
CHECKED_FILES = (FAISS_FILE, f"{DOCUMENTS_FOLDER}/{DATA_FILE}")  # those that the manifest has digests of
BLOCK = 1_024  # documents embedded, or vectors moved, at once: bounds memory for any size of corpus
BLOCK_CHARACTERS = 2 << 20  # of the texts embedded at once: a tokenizer takes up to 115 bytes for each

IVF_VECTORS_PER_LIST = 39  # fewer, and k-means cannot train a list well (FAISS warns below this)
IVF_TRAINING_PER_LIST = 256  # more does not move the centroids (FAISS samples down to this)
IVF_SEED = 1234
HNSW_NEIGHBOURS, HNSW_EF_CONSTRUCTION, HNSW_EF_SEARCH = 32, 200, 64
COMPARED_DOCUMENTS, LEAST_COSINE = 8, 0.9  # given vectors are compared with this many of the embedder's own
BAR_DELAY = 1.0  # seconds that a step must take before its bar is shown


class IndexType(StrEnum):
    """The kinds of FAISS indexes that `build_index` makes; the value is the name users give."""

    FLAT = "flat"  # exact: every vector is compared
    IVF = "ivf"  # inverted lists: the `nprobe` nearest of `nlist` clusters are compared
    HNSW = "hnsw"  # a graph walked with a front of `ef_search` candidates


PARAMETERS = {
    IndexType.FLAT: frozenset[str](),
    IndexType.IVF: frozenset({"nlist", "nprobe"}),
    IndexType.HNSW: frozenset({"neighbours", "ef_construction", "ef_search"}),
}
JSON_TYPES: dict[Any, type] = {int: int, str: str, IndexType: str}  # all other fields are objects


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index was built from and how. An index whose parts do not fit its manifest is refused on opening.

    `embedder` is the name to load the model by, `embedder_max_tokens` the tokens after which it cuts a text, `dim` the
    length of a vector, `parameters` the index type's own (see PARAMETERS), `versions` those of the packages that built
    it. `embeddings` says whether the vectors were "computed" by the embedder or "given" as a file. All vectors have
    length 1, so the inner product is the cosine. `files` has the digests of CHECKED_FILES; it is empty where the index
    was built before there were any.
    """

    embedder: str
    embedder_fingerprint: str
    embedder_max_tokens: int
    dim: int
    index_type: IndexType
    parameters: dict[str, int]
    corpus_fingerprint: str
    documents: int
    embeddings: str
    versions: dict[str, str]
    files: dict[str, FileDigest]
    kind: str = "ragcache-index"
    format_version: int = FORMAT_VERSION
    metric: str = "inner_product"

    def save(self, path: Path) -> None:
        """Write the manifest as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest strictly; IndexFolderError if it is missing, newer, or any field is not as it should be."""
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
                raise OSError("it is not a regular file")
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise IndexFolderError(f"{path}: the index has no manifest, it was not finished; build it again") from error
        except (OSError, ValueError, RecursionError) as error:
            raise IndexFolderError(f"{path}: the manifest is unreadable ({error}); build the index again") from error
        return cls._validated(values, path)

    @classmethod
    def _validated(cls, values: Any, path: Path) -> "Manifest":
        def refusal(what: str) -> IndexFolderError:
            return IndexFolderError(f"{path}: {what}; build the index again")

        if not isinstance(values, dict) or values.get("kind") != "ragcache-index":
            raise refusal("not the manifest of a ragcache index")
        format_version = values.get("format_version")
        if isinstance(format_version, int) and format_version > FORMAT_VERSION:
            raise IndexFolderError(
                f"{path}: index format {format_version} is newer than this version reads ({FORMAT_VERSION}); "
                "update ragcache or build the index again"
            )
        if format_version == UNCHECKED_VERSION and type(format_version) is int:
            values = {"files": {}, **values}
        elif format_version != FORMAT_VERSION or type(format_version) is not int:
            raise refusal(f"index format {format_version!r}, this version reads {FORMAT_VERSION}")
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            raise refusal(f"fields missing {sorted(names - values.keys())}, unknown {sorted(values.keys() - names)}")
        for field in fields(cls):
            value = values[field.name]
            if not isinstance(value, JSON_TYPES.get(field.type, dict)) or isinstance(value, bool):
                raise refusal(f"{field.name!r} has the wrong type: {value!r}")
        if values["index_type"] not in set(IndexType):
            raise refusal(f"unknown index type {values['index_type']!r}")
        index_type = IndexType(values["index_type"])
        parameters = values["parameters"]
        counts = all(type(value) is int and value > 0 for value in parameters.values())
        if parameters.keys() != PARAMETERS[index_type] or not counts:
            raise refusal(f"wrong parameters for {index_type}: {parameters}")
        if values["metric"] != "inner_product" or values["embeddings"] not in {"computed", "given"}:
            raise refusal(f"unknown metric {values['metric']!r} or embeddings {values['embeddings']!r}")
        if values["documents"] < 1 or values["dim"] < 1:
            raise refusal(f"{values['documents']} documents of {values['dim']} dimensions")
        files = _digests(values["files"])
        if files is None or files.keys() != (set() if format_version == UNCHECKED_VERSION else set(CHECKED_FILES)):
            raise refusal(f"'files' has not the digests of {' and '.join(CHECKED_FILES)}")
        return cls(**{**values, "index_type": index_type, "files": files})


def _digests(files: dict[str, Any]) -> dict[str, FileDigest] | None:
    """The digests that stand in a manifest; None if one of them is not one."""
    digests = {}
    for name, value in files.items():
        if not isinstance(value, dict) or value.keys() != {"size", "sha256"}:
            return None
        size, sha256 = value["size"], value["sha256"]
        if type(size) is not int or size < 0 or not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
            return None
        digests[name] = FileDigest(size, sha256)
    return digests


def require_buildable(source: Source, out: Path, embeddings: Path | None = None) -> int:
    """What `build_index` refuses of its arguments before it needs an embedder, which may take long to load.

    Returns the bytes of the source. Raises CorpusError, IndexFolderError or EmbedderError.
    """
    require_replaceable(out, PARTS)
    if embeddings is not None:
        GivenVectors(embeddings).close()
    return source.size


def build_index(
    corpus: Path | Source,
    out: Path,
    kind: str = "flat",
    embedder: Embedder | None = None,
    embeddings: Path | None = None,
    progress: bool = True,
    passage: Callable[[Document], str] | None = None,
    cut: Callable[[Document], Iterable[Document]] | None = None,
) -> Manifest:
    """Build the index folder `out` from a corpus file or another source, embedded by `embedder` (None: the default).

    `kind` is a value of IndexType. `cut` makes the documents of the index of each one that is read (None: it stays
    whole), see `retrieval.passages`. `passage` chooses the text of a document that is embedded (`embedder.passage`
    if None); the documents in the index stay whole. `embeddings` is a .npy file of floats [documents, dim], in the
    corpus's order, to use instead of embedding. Progress goes to stderr.

    Everything is built beside `out` and takes its place at the end: `out` never holds half an index, and an index that
    was there before serves until the new one is complete, or stays if this fails.

    Raises RetrievalError for an unknown kind, CorpusError for a wrong corpus, EmbedderError for embeddings that do
    not fit it, and IndexFolderError if `out` holds something else or cannot be written.
    """
    if kind not in set(IndexType):
        raise RetrievalError(f"unknown index type {kind!r}; choose one of {', '.join(IndexType)}")
    index_type = IndexType(kind)
    source = JsonLines(corpus) if isinstance(corpus, Path) else corpus
    size = require_buildable(source, out, embeddings)
    embedder = embedder or Embedder.load()
    with contextlib.ExitStack() as opened:
        given = None if embeddings is None else opened.enter_context(_given_vectors(embeddings, embedder))
        folder = opened.enter_context(built_beside(out, PARTS))
        with _bar(progress, "reading", size, "B", BAR_DELAY) as advance:
            count = _write_documents(source, cut, folder / DOCUMENTS_FOLDER, advance)
        vectors = opened.enter_context(VectorFile(folder / "vectors", count, embedder.dim))
        with DocumentStore.open(folder / DOCUMENTS_FOLDER) as store:
            if given is None:
                with _bar(progress, "embedding", count, "doc") as advance:
                    _embed(store, embedder, passage, vectors, advance)
            else:
                if embeddings is not None and len(given) != count:
                    raise EmbedderError(
                        f"{embeddings}: {len(given)} vectors for the {count} documents of {source}; "
                        "there must be one per document, in the corpus's order"
                    )
                with _bar(progress, "checking", count, "doc", BAR_DELAY) as advance:
                    _copy_normalised(given, vectors, str(embeddings), advance)
                _compare(store, embedder, vectors, str(embeddings))
            corpus_fingerprint = store.corpus_fingerprint
        with _bar(progress, "indexing", count, "doc", BAR_DELAY) as advance:
            index, parameters = index_vectors(vectors, index_type, advance)
        (folder / "vectors").unlink()  # before the index is written, which has them all again
        write_vectors(index, folder / FAISS_FILE)
        manifest = Manifest(
            embedder=embedder.name,
            embedder_fingerprint=embedder.fingerprint,
            embedder_max_tokens=embedder.max_tokens,
            dim=embedder.dim,
            index_type=index_type,
            parameters=parameters,
            corpus_fingerprint=corpus_fingerprint,
            documents=count,
            embeddings="computed" if given is None else "given",
            versions={
                "faiss": faiss.__version__,
                "lmdb": lmdb.__version__,
                **{name: version(name) for name in ("numpy", "torch", "transformers")},
            },
            files={name: digest_of(folder / name) for name in CHECKED_FILES},
        )
        manifest.save(folder / MANIFEST_FILE)
    return manifest


@contextlib.contextmanager
def _bar(shown: bool, what: str, total: int, unit: str, delay: float = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, from `delay` seconds on; yields the function that moves it on."""
    bar = tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        delay=delay,
        smoothing=0,  # time left by the mean so far: each block's long documents come before its short ones
        disable=not shown,
    )
    with bar:
        yield bar.update


def _write_documents(
    source: Source,
    cut: Callable[[Document], Iterable[Document]] | None,
    folder: Path,
    advance: Callable[[int], None],
) -> int:
    """Write the documents of a source, or what `cut` makes of them, into a new store; returns their number."""
    count = 0
    with DocumentWriter(folder) as writer:
        for document in source.documents(advance):
            for part in (document,) if cut is None else cut(document):
                writer.add(part)
                count += 1
    return count


def _blocks(count: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK))


def _embed(
    store: DocumentStore,
    embedder: Embedder,
    passage: Callable[[Document], str] | None,
    vectors: VectorFile,
    advance: Callable[[int], None],
) -> None:
    for block, texts in _blocks_of_texts(store, embedder, passage):
        vectors[block] = embedder.encode(texts, advance)


def _blocks_of_texts(
    store: DocumentStore, embedder: Embedder, passage: Callable[[Document], str] | None
) -> Iterator[tuple[slice, list[str]]]:
    """What is embedded of the documents, in blocks of bounded number and length."""
    longest = embedder.longest_text
    texts: list[str] = []
    characters = first = 0
    for row in range(len(store)):
        # a passage of the caller's own may be anywhere in the text
        text = _head(store, row, embedder) if passage is None else passage(store.get(row))[:longest]
        if texts and (len(texts) == BLOCK or characters + len(text) > BLOCK_CHARACTERS):
            yield slice(first, row), texts
            texts, characters, first = [], 0, row
        texts.append(text)
        characters += len(text)
    yield slice(first, len(store)), texts


def _head(store: DocumentStore, row: int, embedder: Embedder) -> str:
    """The beginning of a document's passage, as long as any text that is embedded."""
    document = store.get(row, 2 * embedder.longest_text)  # a title that the text repeats is left out
    if document.text.isspace():
        document = store.get(row)
    return embedder.passage(document)[: embedder.longest_text]


@contextlib.contextmanager
def _given_vectors(path: Path, embedder: Embedder) -> Iterator[GivenVectors]:
    """The vectors in a file; EmbedderError if they are not for this embedder."""
    with contextlib.closing(GivenVectors(path)) as given:
        if given.shape[1] != embedder.dim:
            raise EmbedderError(
                f"{path}: vectors of {given.shape[1]} dimensions, but embedder {embedder.name!r} makes "
                f"{embedder.dim}; questions are embedded with it, so both must come from the same model"
            )
        yield given


def _copy_normalised(given: GivenVectors, vectors: VectorFile, source: str, advance: Callable[[int], None]) -> None:
    """Copy the given vectors at length 1; EmbedderError names the first row that has no direction."""
    for block in _blocks(len(given)):
        part = given[block].astype(np.float64)  # squares of large float32 overflow
        if not np.isfinite(part).all():
            row = block.start + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            raise EmbedderError(f"{source}: row {row} is not finite (NaN or infinity); embed that document again")
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        if not lengths.all():
            row = block.start + int(np.flatnonzero(lengths == 0)[0])
            raise EmbedderError(f"{source}: row {row} is all zeros and has no direction; embed that document again")
        vectors[block] = part / lengths
        advance(len(part))


def _compare(store: DocumentStore, embedder: Embedder, vectors: VectorFile, source: str) -> None:
    """Warn if given vectors differ from the embedder's own, over a sample of the documents."""
    rows = np.unique(np.linspace(0, len(store) - 1, COMPARED_DOCUMENTS).astype(int))
    own = embedder.encode([_head(store, int(row), embedder) for row in rows])
    cosine = float((own * vectors[rows]).sum(axis=1).mean())
    if cosine < LEAST_COSINE:
        warnings.warn(
            f"{source}: the vectors do not look like those of embedder {embedder.name!r} "
            f"(mean cosine {cosine:.2f} over {len(rows)} documents, expected {LEAST_COSINE} or more); "
            "questions will be embedded with it, so check the model and the order of the rows",
            RetrievalWarning,
            stacklevel=3,
        )


def ivf_parameters(count: int) -> dict[str, int]:
    """Lists and probes for `count` vectors: about 4 sqrt(n) lists, each large enough to train, an eighth probed."""
    nlist = max(1, min(round(4 * math.sqrt(count)), count // IVF_VECTORS_PER_LIST))
    return {"nlist": nlist, "nprobe": min(nlist, max(8, nlist // 8))}


def index_vectors(
    vectors: np.ndarray | VectorFile, index_type: IndexType, advance: Callable[[int], None] = lambda _: None
) -> tuple[faiss.Index, dict[str, int]]:
    """A FAISS index of vectors of length 1, float32 [count, dim], by inner product, and the parameters chosen for it.

    `advance` is called after each block with the number of vectors added.
    """
    count, dim = vectors.shape
    parameters: dict[str, int] = {}
    index: faiss.Index
    if index_type is IndexType.FLAT:
        index = faiss.IndexFlatIP(dim)
    elif index_type is IndexType.HNSW:
        index = faiss.IndexHNSWFlat(dim, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
        parameters = {
            "neighbours": HNSW_NEIGHBOURS,
            "ef_construction": HNSW_EF_CONSTRUCTION,
            "ef_search": HNSW_EF_SEARCH,
        }
    else:
        parameters = ivf_parameters(count)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, parameters["nlist"], faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = IVF_SEED
        index.cp.min_points_per_centroid = 1  # a small corpus makes one list, which needs no warning
        samples = min(count, parameters["nlist"] * IVF_TRAINING_PER_LIST)
        index.train(np.ascontiguousarray(vectors[np.linspace(0, count - 1, samples).astype(int)]))
    for block in _blocks(count):
        index.add(np.ascontiguousarray(vectors[block]))
        advance(block.stop - block.start)
    return index, parameters
