"""Retriever: the documents nearest to a question, from an index folder and the embedder that made it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from retrieval.build_folder import is_being_built
from retrieval.corpus import CorpusFingerprint, Document
from retrieval.embedder import Embedder
from retrieval.errors import IndexDamaged, IndexFolderError, RetrievalError, SearchError, SearchFailed
from retrieval.hnsw_stages import HNSWStages
from retrieval.index import CHECKED_FILES, DOCUMENTS_FOLDER, FAISS_FILE, MANIFEST_FILE, IndexType, Manifest
from retrieval.index_files import IndexCheck, OpenFile
from retrieval.ivf_stages import IVFStages
from retrieval.staged_search import FlatStages, Stage, StagedSearch, cuts
from retrieval.store import DocumentStore
from retrieval.vector_index import read_vectors

log = logging.getLogger(__name__)

STAGES: dict[IndexType, Callable[[Any], StagedSearch]] = {
    IndexType.FLAT: FlatStages,
    IndexType.IVF: IVFStages,
    IndexType.HNSW: HNSWStages,
}
AT_ONCE = (1.0,)
MISSING_SECONDS = 1.0  # that a folder may be missing while another takes its place
HNSW_ROWS_PER_RESULT = 16  # an index with fewer rows than this for each of k is searched exhaustively


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved document: `score` is its cosine with the question in [-1, 1], `row` its place in corpus and index."""

    document: Document
    score: float
    row: int


@dataclass(frozen=True, slots=True)
class SearchStage:
    """The hits so far of a search in stages."""

    hits: list[Hit]  # best first, equal scores by row; may be fewer than `k` before the last stage
    done: bool  # the search has ended, and these are the hits that `search` returns
    effort: int  # lists probed, vertices expanded, or vectors compared, by index type


class Retriever:
    """Search over one index. Any thread may search; the caller closes the retriever (it is a context manager).

    A search raises SearchError if its arguments are wrong, and SearchFailed, naming the part that failed and why, if
    it cannot be carried out. Neither affects the next search.

    Once a file of the index is known to be damaged, because a document cannot be read or the check in the background
    has come so far, every search raises IndexDamaged.

    `index` (FAISS), `store` and `embedder` are public for callers that search in their own way; the retriever owns
    them, and the `check` of the files, and closes them.
    """

    def __init__(
        self,
        index: Any,
        store: DocumentStore,
        embedder: Embedder,
        manifest: Manifest,
        check: IndexCheck | None = None,
    ) -> None:
        self.index = index
        self.store = store
        self.embedder = embedder
        self.manifest = manifest
        self.check = check or IndexCheck({}, {})
        self._staged = STAGES[manifest.index_type](index)

    @classmethod
    def open(
        cls, index: Path, embedder: str | None = None, threads: int | None = None, loaded: Embedder | None = None
    ) -> "Retriever":
        """Open an index folder, or the faiss.idx in it, with the embedder that its manifest names or with `embedder`.

        `threads` is as for `Embedder.load`; `loaded` spares the loading if it is that model. Raises IndexFolderError if
        a part is missing, damaged, or does not fit the others; nothing is left open then. An index that another one
        replaces meanwhile is opened again, so what is returned is one of the two, whole; one that is missing between
        two moves is waited for. Large files are still checked
        when this returns: see `check`.
        """
        folder = index.parent if index.name == FAISS_FILE else index
        while True:
            identity = _require_folder(folder)
            try:
                opened = cls._open(folder, embedder, threads, loaded)
            except IndexFolderError:
                if _identity(folder) == identity:
                    raise
                continue
            if _identity(folder) == identity:
                opened.check.start()
                return opened
            opened.close()

    @classmethod
    def _open(cls, folder: Path, embedder: str | None, threads: int | None, loaded: Embedder | None) -> "Retriever":
        """The index that lies in the folder now, or parts of two if it is being replaced."""
        manifest = Manifest.load(folder / MANIFEST_FILE)
        with ExitStack() as opened:
            check = opened.enter_context(closing(_check(folder, manifest)))
            vectors = read_vectors(folder / FAISS_FILE, manifest)
            store = opened.enter_context(DocumentStore.open(folder / DOCUMENTS_FOLDER))
            if store.corpus_fingerprint != manifest.corpus_fingerprint or len(store) != manifest.documents:
                raise IndexFolderError(
                    f"{store.folder}: the documents are not those the manifest names; build the index again"
                )
            if not manifest.files:
                check.add(check.file(CHECKED_FILES[1]), partial(_require_documents, store))
            model = loaded
            if model is None or model.fingerprint != manifest.embedder_fingerprint:
                model = Embedder.load(embedder or manifest.embedder, threads)
            _require_same_model(model, manifest, folder)
            opened.pop_all()
        return cls(vectors, store, model, manifest, check)

    def reopened(self) -> "Retriever":
        """The index that lies now where this one was opened, beside it. Raises as `open` does."""
        return Retriever.open(self.store.folder.parent, threads=self.embedder.threads, loaded=self.embedder)

    def __len__(self) -> int:
        return self.manifest.documents

    def search(self, question: str, k: int) -> list[Hit]:
        """The `k` documents nearest to the question, 1 <= k <= len, best first, equal scores by row.

        It is exact on a flat index; IVF and HNSW may miss some, but never return fewer than `k`.
        """
        self._require_k(k)
        if not question.strip():
            raise SearchError("the question is empty; ask something")
        return self.search_vector(self._embed(question), k)

    def search_vector(self, vector: np.ndarray, k: int) -> list[Hit]:
        """As `search`, for a question already embedded as float32 [dim] of length 1."""
        self._require_k(k)
        query = self._query(vector)
        *_, last = self._stages(query, k, AT_ONCE)
        return self._hits(last, {})

    def search_stages(
        self, question: str, k: int, shares: Sequence[float] | None = None, characters: int | None = None
    ) -> Iterator[SearchStage]:
        """As `search`, with the hits after each share of the search's effort; the last stage is what `search` returns.

        `shares` are cumulative, rising, and end in 1; without them there are up to four stages of equal effort, fewer
        for small searches. A search too small for the shares has fewer stages, and a flat index has one. A stage is
        computed when the iterator is advanced, on the calling thread and without the GIL; dropping the iterator ends
        the search. Raises SearchError at once if an argument is wrong. Texts of more than `characters` are cut to them
        before they are read.
        """
        self._require_k(k)
        if not question.strip():
            raise SearchError("the question is empty; ask something")
        return self.search_vector_stages(self._embed(question), k, shares, characters)

    def search_vector_stages(
        self, vector: np.ndarray, k: int, shares: Sequence[float] | None = None, characters: int | None = None
    ) -> Iterator[SearchStage]:
        """As `search_stages`, for a question already embedded as float32 [dim] of length 1."""
        self._require_k(k)
        query = self._query(vector)
        if shares is not None:
            cuts(1, tuple(shares))
        return self._stages_of_hits(query, k, shares, characters)

    def _stages_of_hits(
        self, query: np.ndarray, k: int, shares: Sequence[float] | None, characters: int | None
    ) -> Iterator[SearchStage]:
        documents: dict[int, Document] = {}  # read by this search: most stages have the same ones
        for stage in self._stages(query, k, shares):
            yield SearchStage(self._hits(stage, documents, characters), stage.done, stage.effort)

    def _embed(self, question: str) -> np.ndarray:
        with _failing("embedding the question"):
            return np.asarray(self.embedder.encode([question])[0])

    def _hits(self, stage: Stage, documents: dict[int, Document], characters: int | None = None) -> list[Hit]:
        hits = []
        for place in np.lexsort((stage.ids, -stage.scores)):
            row = int(stage.ids[place])
            if row < 0:
                continue
            if row not in documents:
                with _failing(f"reading document {row} of the store"):
                    documents[row] = self._document(row, characters)
            hits.append(Hit(documents[row], float(stage.scores[place]), row))
        return hits

    def _document(self, row: int, characters: int | None) -> Document:
        try:
            return self.store.get(row, characters)
        except IndexDamaged as damage:
            self.check.report(damage)
            raise

    def close(self) -> None:
        """Close the files of the index; closing twice is harmless."""
        self.check.close()
        self.store.close()

    def _require_k(self, k: int) -> None:
        self.check.require_sound()
        if not 1 <= k <= len(self):
            raise SearchError(f"k is {k}, but it must be from 1 to {len(self)}, the documents in the index")

    def _query(self, vector: np.ndarray) -> np.ndarray:
        query = np.ascontiguousarray(vector, dtype=np.float32).reshape(-1)
        if len(query) != self.manifest.dim:
            raise SearchError(f"the vector has {len(query)} dimensions, the index {self.manifest.dim}")
        return query

    def _stages(self, query: np.ndarray, k: int, shares: Sequence[float] | None) -> Iterator[Stage]:
        """Stages of a search that ends with `k` results, the last one `done`."""
        for staged, effort in self._searches(k):
            for stage in _searched(staged, query, k, effort, shares):
                complete = bool((stage.ids >= 0).all())
                if complete or not stage.done:
                    yield stage
            if complete:
                return
            shares = AT_ONCE

    def _searches(self, k: int) -> Iterator[tuple[StagedSearch, int]]:
        """Searches and their efforts, to be tried one after another until one has `k` results."""
        parameters = self.manifest.parameters
        if self.manifest.index_type is IndexType.IVF:
            # the probed lists may hold fewer than k vectors; then probe more
            for nprobe in _doubling(parameters["nprobe"], parameters["nlist"]):
                yield self._staged, nprobe
        elif self.manifest.index_type is IndexType.HNSW:
            # for a large k, traversing with a large pool is slower than comparing all vectors
            if k <= max(parameters["ef_search"], len(self) // HNSW_ROWS_PER_RESULT):
                yield self._staged, max(k, parameters["ef_search"])
            # also where parts of the graph cannot be reached from its entry point
            yield FlatStages(self.index.storage), 1
        else:
            yield self._staged, 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _failing(doing: str) -> Iterator[None]:
    """Turn what FAISS, LMDB or torch raise, out of memory or unable to read the disk, into SearchFailed."""
    try:
        yield
    except RetrievalError:
        raise
    except Exception as error:
        raise SearchFailed(
            f"the search failed when {doing}: {type(error).__name__}: {error}; ask again, and if that does not help, "
            "check whether the machine lacks memory or the disk of the index cannot be read"
        ) from error


def _searched(
    staged: StagedSearch, query: np.ndarray, k: int, effort: int, shares: Sequence[float] | None
) -> Iterator[Stage]:
    """The stages of one search; a failure in it is SearchFailed."""
    doing = "comparing vectors"
    with _failing(doing):
        stages = staged.search(query, k, effort, shares)
    while True:
        with _failing(doing):
            stage = next(stages, None)
        if stage is None:
            return
        yield stage


def _doubling(first: int, last: int) -> list[int]:
    """Efforts from `first` to `last`, each twice the one before."""
    efforts = [min(first, last)]
    while efforts[-1] < last:
        efforts.append(min(2 * efforts[-1], last))
    return efforts


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells the folder of one index from that of another which has its name; None if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _require_folder(folder: Path) -> tuple[int, int]:
    """The identity of an index folder; IndexFolderError if there is none, nor will be in a moment."""
    deadline = time.monotonic() + MISSING_SECONDS
    while (identity := _identity(folder)) is None and is_being_built(folder) and time.monotonic() < deadline:
        time.sleep(MISSING_SECONDS / 100)
    if identity is None or not folder.is_dir():
        how = "wait for the build that runs, or build it again" if is_being_built(folder) else "build one"
        raise IndexFolderError(f"{folder}: there is no index folder; {how}, or check the path")
    return identity


def _check(folder: Path, manifest: Manifest) -> IndexCheck:
    """The check of the files of an index, begun."""
    if not manifest.files:
        log.warning(
            "%s: built before manifests had digests, so changed numbers in %s are not noticed; build the index again "
            "to have it checked",
            folder,
            FAISS_FILE,
        )
    with ExitStack() as opened:
        files = {name: opened.enter_context(closing(OpenFile(folder / name))) for name in CHECKED_FILES}
        opened.pop_all()
    return IndexCheck(files, manifest.files)


def _require_documents(store: DocumentStore, go_on: Callable[[int], bool]) -> None:
    """IndexDamaged if the documents are not those of the store's fingerprint, by which an old manifest knows them."""
    fingerprint = CorpusFingerprint()
    for row in range(len(store)):
        document = store.get(row)
        fingerprint.add(document)
        if not go_on(len(document.text)):
            return
    if fingerprint.hexdigest() != store.corpus_fingerprint:
        raise IndexDamaged(f"{store.folder}: the document store is damaged (a text has changed); build the index again")


def _require_same_model(model: Embedder, manifest: Manifest, folder: Path) -> None:
    if model.dim != manifest.dim:
        raise IndexFolderError(
            f"{folder}: the index has {manifest.dim} dimensions, embedder {model.name!r} makes {model.dim}; "
            f"use {manifest.embedder!r}, or build the index again with {model.name!r}"
        )
    if model.fingerprint != manifest.embedder_fingerprint:
        raise IndexFolderError(
            f"{folder}: built with embedder {manifest.embedder!r} ({manifest.embedder_fingerprint}), "
            f"but {model.name!r} is another model ({model.fingerprint}); "
            "use the one it was built with, or build the index again"
        )
