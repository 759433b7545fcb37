"""Recorder of traversals: `python -m eval.record_traversal --data DIR --out FILE.csv.gz`, input of `pimsim search`.

Questions are embedded, searched in an HNSW index with the project's own search, and what each reads is written hop by
hop, in the format of `pimsim.dimm_pim.traversal`. The search must find what FAISS finds in the same index.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from eval.props.question_set import QuestionError, read_questions
from pimsim.dimm_pim.traversal import LOWEST, NO_LIST, UPPER, Traversal
from ragcache.console import streams
from retrieval.corpus import read_corpus
from retrieval.embedder import DEFAULT_NAME, Embedder
from retrieval.errors import RetrievalError
from retrieval.hnsw_stages import HNSWStages, VisitLog
from retrieval.index import MANIFEST_FILE, IndexType, Manifest, index_vectors

EF, K = 128, 10
LEAST_AGREEMENT = 0.95  # of the questions: FAISS breaks ties and sums in other orders


@dataclass(frozen=True, slots=True)
class Recording:
    """A traversal, and of how many of its queries FAISS finds the same `k`, in whatever order."""

    traversal: Traversal
    agreed: int

    @property
    def agreement(self) -> float:
        return self.agreed / len(self.traversal.queries)


def record(index: Any, queries: np.ndarray, ef: int = EF, k: int = K) -> Recording:
    """Search an IndexHNSWFlat for each of the queries, float32 [queries, dim], and record what is read."""
    stages, log = HNSWStages(index), VisitLog()
    queries = np.ascontiguousarray(queries, np.float32)
    library: Any = faiss  # its stubs lack the class
    expected = index.search(queries, k, params=library.SearchParametersHNSW(efSearch=ef))[1]
    list_vertex: list[Any] = []
    list_kind: list[Any] = []
    vectors: list[Any] = []
    vertices: list[Any] = []
    ranks: list[Any] = []
    hops: list[int] = []
    agreed = 0
    for query, ids in zip(queries, expected, strict=True):
        *_, last = stages.search(query, k, ef, shares=(1.0,), log=log)
        agreed += set(last.ids.tolist()) == set(ids.tolist())
        visits = log.visits()
        # hop 0 compares the entry point and reads no list
        list_vertex += [[-1], visits.hops]
        list_kind += [[NO_LIST], np.where(visits.hop_levels == 0, LOWEST, UPPER)]
        vectors += [[1], np.diff(visits.ends, prepend=1)]
        vertices.append(visits.vertices)
        ranks.append(_ranks(index, query, visits.vertices, max(ef, k)))
        hops.append(1 + len(visits.hops))
    traversal = Traversal(
        queries=np.arange(len(queries)),
        first_hop=np.concatenate([[0], np.cumsum(hops)]),
        list_vertex=np.concatenate(list_vertex).astype(np.int64),
        list_kind=np.concatenate(list_kind).astype(np.int64),
        first_vector=np.concatenate([[0], np.cumsum(np.concatenate(vectors))]).astype(np.int64),
        vertices=np.concatenate(vertices).astype(np.int64),
        shard=index.ntotal,
        dim=index.d,
        neighbours=int(index.hnsw.nb_neighbors(1)),
        ranks=np.concatenate(ranks),
    )
    return Recording(traversal, agreed)


def _ranks(index: Any, query: np.ndarray, vertices: np.ndarray, most: int) -> np.ndarray:
    """For each vertex, where the search first compares it, how many are nearer; -1 elsewhere, and from `most` on.

    Of equal distances the smaller vertex is nearer.
    """
    distinct, first = np.unique(vertices, return_index=True)
    vectors = index.reconstruct_batch(distinct).astype(np.float64)
    inner = index.metric_type == faiss.METRIC_INNER_PRODUCT
    distances = -(vectors @ query) if inner else ((vectors - query) ** 2).sum(axis=1)
    nearest = first[np.argsort(distances, kind="stable")][:most]
    ranks = np.full(len(vertices), -1, np.int64)
    ranks[nearest] = np.arange(len(nearest))
    return ranks


def _medrag(options: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """An index of the folder's documents, and its questions' vectors."""
    folder = options.data / "medrag"
    embedder = Embedder.load(options.embedder)
    if options.embeddings is not None:
        documents = np.load(options.embeddings, allow_pickle=False).astype(np.float32)
        if documents.ndim != 2 or documents.shape[1] != embedder.dim:
            raise RetrievalError(
                f"{options.embeddings}: shape {documents.shape}, but embedder {embedder.name!r} makes vectors of "
                f"{embedder.dim}; give vectors of the same model"
            )
        documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    else:
        texts = [embedder.passage(document) for document in read_corpus(folder / "docs.jsonl.gz")]
        documents = embedder.encode(texts)
    index, _ = index_vectors(documents, IndexType.HNSW)
    return index, _questions(embedder, options.questions or folder / "queries.jsonl.gz", options.count)


def _own(options: argparse.Namespace) -> tuple[Any, np.ndarray]:
    """A user's index, and the questions' vectors."""
    manifest = options.index.parent / MANIFEST_FILE
    name = options.embedder
    if manifest.is_file() and name == DEFAULT_NAME:
        name = Manifest.load(manifest).embedder
    try:
        index = faiss.read_index(str(options.index))
    except RuntimeError as error:
        raise RetrievalError(f"{options.index}: FAISS cannot read it; give the file of an HNSW index") from error
    if not isinstance(index, faiss.IndexHNSWFlat):
        raise RetrievalError(f"{options.index}: a {type(index).__name__}; only IndexHNSWFlat has a traversal")
    embedder = Embedder.load(name)
    if index.d != embedder.dim:
        raise RetrievalError(
            f"{options.index}: vectors of {index.d} dimensions, but embedder {embedder.name!r} makes {embedder.dim}; "
            "name the index's own with --embedder"
        )
    return index, _questions(embedder, options.questions, options.count)


def _questions(embedder: Embedder, path: Path, count: int) -> np.ndarray:
    """Vectors of that many of the file's questions, evenly spread over it."""
    every = read_questions(path)
    chosen = np.unique(np.linspace(0, len(every) - 1, min(count, len(every))).astype(int))
    return embedder.encode([every[row].text for row in chosen])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.record_traversal", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="with medrag/docs.jsonl.gz and queries.jsonl.gz")
    source.add_argument("--index", type=Path, metavar="FILE", help="your own HNSW index; needs --questions")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="JSON lines with id and question")
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy", help="the documents', instead of embedding them")
    parser.add_argument("--embedder", default=DEFAULT_NAME, metavar="NAME")
    parser.add_argument("--count", type=int, default=512, metavar="N", help="of questions (default: %(default)s)")
    parser.add_argument("--ef", type=int, default=EF, metavar="N", help="efSearch (default: %(default)s)")
    parser.add_argument("--k", type=int, default=K, metavar="N", help="results (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv[.gz]")
    options = parser.parse_args(argv)
    if options.index is not None and (options.questions is None or options.embeddings is not None):
        parser.error("--index goes with --questions, and without --embeddings")
    if min(options.count, options.ef, options.k) < 1:
        parser.error("--count, --ef and --k are 1 or more")
    try:
        index, queries = _medrag(options) if options.index is None else _own(options)
        recording = record(index, queries, options.ef, options.k)
        recording.traversal.write(options.out)
    except (QuestionError, RetrievalError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    traversal = recording.traversal
    print(
        json.dumps(
            {
                "queries": len(traversal.queries),
                "vertices": traversal.shard,
                "dim": traversal.dim,
                "hops_a_query": round(len(traversal.list_vertex) / len(traversal.queries), 1),
                "distances_a_query": round(len(traversal.vertices) / len(traversal.queries), 1),
                "faiss_agrees": recording.agreement,
            }
        )
    )
    return 0 if recording.agreement >= LEAST_AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.record_traversal"))
