"""Retriever: the documents nearest to a question, from an index folder and the embedder that made it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from retrieval.corpus import Document
from retrieval.embedder import Embedder
from retrieval.errors import IndexFolderError, RetrievalError, SearchError, SearchFailed
from retrieval.hnsw_stages import HNSWStages
from retrieval.index import DOCUMENTS_FOLDER, FAISS_FILE, MANIFEST_FILE, IndexType, Manifest
from retrieval.ivf_stages import IVFStages
from retrieval.staged_search import FlatStages, Stage, StagedSearch, cuts
from retrieval.store import DocumentStore

FAISS_CLASS: dict[IndexType, Any] = {
    IndexType.FLAT: faiss.IndexFlat,
    IndexType.IVF: faiss.IndexIVFFlat,
    IndexType.HNSW: faiss.IndexHNSWFlat,
}
STAGES: dict[IndexType, Callable[[Any], StagedSearch]] = {
    IndexType.FLAT: FlatStages,
    IndexType.IVF: IVFStages,
    IndexType.HNSW: HNSWStages,
}
AT_ONCE = (1.0,)
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

    `index` (FAISS), `store` and `embedder` are public for callers that search in their own way; the retriever owns
    them and closes them.
    """

    def __init__(self, index: Any, store: DocumentStore, embedder: Embedder, manifest: Manifest) -> None:
        self.index = index
        self.store = store
        self.embedder = embedder
        self.manifest = manifest
        self._staged = STAGES[manifest.index_type](index)

    @classmethod
    def open(
        cls, index: Path, embedder: str | None = None, threads: int | None = None, loaded: Embedder | None = None
    ) -> "Retriever":
        """Open an index folder, or the faiss.idx in it, with the embedder that its manifest names or with `embedder`.

        `threads` is as for `Embedder.load`; `loaded` spares the loading if it is that model.
        Raises IndexFolderError if a part is missing or does not fit the others.
        """
        folder = index.parent if index.name == FAISS_FILE else index
        if not folder.is_dir():
            raise IndexFolderError(f"{folder}: there is no index folder; build one, or check the path")
        manifest = Manifest.load(folder / MANIFEST_FILE)
        vectors = _read_vectors(folder / FAISS_FILE, manifest)
        store = DocumentStore.open(folder / DOCUMENTS_FOLDER)
        try:
            if store.corpus_fingerprint != manifest.corpus_fingerprint or len(store) != manifest.documents:
                raise IndexFolderError(
                    f"{store.folder}: the documents are not those the manifest names; build the index again"
                )
            model = loaded
            if model is None or model.fingerprint != manifest.embedder_fingerprint:
                model = Embedder.load(embedder or manifest.embedder, threads)
            _require_same_model(model, manifest, folder)
        except BaseException:
            store.close()
            raise
        return cls(vectors, store, model, manifest)

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

    def search_stages(self, question: str, k: int, shares: Sequence[float] | None = None) -> Iterator[SearchStage]:
        """As `search`, with the hits after each share of the search's effort; the last stage is what `search` returns.

        `shares` are cumulative, rising, and end in 1; without them there are up to four stages of equal effort, fewer
        for small searches. A search too small for the shares has fewer stages, and a flat index has one. A stage is
        computed when the iterator is advanced, on the calling thread and without the GIL; dropping the iterator ends
        the search. Raises SearchError at once if an argument is wrong.
        """
        self._require_k(k)
        if not question.strip():
            raise SearchError("the question is empty; ask something")
        return self.search_vector_stages(self._embed(question), k, shares)

    def search_vector_stages(
        self, vector: np.ndarray, k: int, shares: Sequence[float] | None = None
    ) -> Iterator[SearchStage]:
        """As `search_stages`, for a question already embedded as float32 [dim] of length 1."""
        self._require_k(k)
        query = self._query(vector)
        if shares is not None:
            cuts(1, tuple(shares))
        return self._stages_of_hits(query, k, shares)

    def _stages_of_hits(self, query: np.ndarray, k: int, shares: Sequence[float] | None) -> Iterator[SearchStage]:
        documents: dict[int, Document] = {}  # read by this search: most stages have the same ones
        for stage in self._stages(query, k, shares):
            yield SearchStage(self._hits(stage, documents), stage.done, stage.effort)

    def _embed(self, question: str) -> np.ndarray:
        with _failing("embedding the question"):
            return np.asarray(self.embedder.encode([question])[0])

    def _hits(self, stage: Stage, documents: dict[int, Document]) -> list[Hit]:
        hits = []
        for place in np.lexsort((stage.ids, -stage.scores)):
            row = int(stage.ids[place])
            if row < 0:
                continue
            if row not in documents:
                with _failing(f"reading document {row} of the store"):
                    documents[row] = self.store.get(row)
            hits.append(Hit(documents[row], float(stage.scores[place]), row))
        return hits

    def close(self) -> None:
        """Close the document store; closing twice is harmless."""
        self.store.close()

    def _require_k(self, k: int) -> None:
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


def _read_vectors(path: Path, manifest: Manifest) -> Any:
    if not path.is_file():
        raise IndexFolderError(f"{path}: the FAISS index is missing; build the index again")
    try:
        index: Any = faiss.read_index(str(path))
    except RuntimeError as error:
        raise IndexFolderError(f"{path}: FAISS cannot read the index; it is damaged, build it again") from error
    if not isinstance(index, FAISS_CLASS[manifest.index_type]) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexFolderError(
            f"{path}: a {type(index).__name__}, where the manifest says {manifest.index_type}; build the index again"
        )
    if index.d != manifest.dim or index.ntotal != manifest.documents:
        raise IndexFolderError(
            f"{path}: {index.ntotal} vectors of {index.d} dimensions, where the manifest says {manifest.documents} "
            f"of {manifest.dim}; build the index again"
        )
    if manifest.index_type is IndexType.HNSW:
        index.hnsw.efSearch = manifest.parameters["ef_search"]
    elif manifest.index_type is IndexType.IVF:
        if index.nlist != manifest.parameters["nlist"]:
            raise IndexFolderError(
                f"{path}: {index.nlist} lists, where the manifest says {manifest.parameters['nlist']}; "
                "build the index again"
            )
        index.nprobe = manifest.parameters["nprobe"]
    return index


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
