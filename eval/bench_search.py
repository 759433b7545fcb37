"""Staged search in figures: its time beside a FAISS search of the same effort, how early its final list is known."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ragcache.console import streams
from retrieval.hnsw_stages import HNSWStages
from retrieval.index import IndexType, index_vectors
from retrieval.ivf_stages import IVFStages
from retrieval.staged_search import StagedSearch, even_shares

LIMITS = {IndexType.IVF: 1.10, IndexType.HNSW: 1.5}  # staged time / plain time, all stages together
LEAST_VECTORS = 20_000  # for which the limits are meant
SUBJECTS_PER_VECTOR = 1 / 50
# spread so that recall, and how late the last of a list is found, are near those of real documents and questions
SPREAD = 1.5  # around a subject's centre, as a share of the spread of the centres
LATENT, NOISE = 40, 0.15  # directions that carry meaning (embeddings use few of theirs), and the spread in all others
ROUNDING = 1e-5  # of a score


def clustered(count: int, dim: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and queries of length 1 around common centres, as embeddings of documents on common subjects lie."""
    random = np.random.default_rng(seed)
    latent = min(LATENT, dim)
    directions = random.standard_normal((latent, dim), dtype=np.float32) / np.float32(latent**0.5)
    centres = random.standard_normal((max(1, round(count * SUBJECTS_PER_VECTOR)), latent), dtype=np.float32)

    def around(number: int) -> np.ndarray:
        within = np.float32(SPREAD) * random.standard_normal((number, latent), dtype=np.float32)
        noise = np.float32(NOISE) * random.standard_normal((number, dim), dtype=np.float32)
        return _unit((centres[random.integers(len(centres), size=number)] + within) @ directions + noise)

    return around(count), around(queries)


def measure(
    kind: IndexType, vectors: np.ndarray, queries: np.ndarray, k: int, shares: Sequence[float] | None, rounds: int
) -> dict[str, Any]:
    """One index's row of the report. One thread; the index has the parameters that `ragcache index` gives it."""
    index: Any
    index, parameters = index_vectors(vectors, kind)
    staged: StagedSearch
    if kind is IndexType.IVF:
        effort = parameters["nprobe"]
        staged, options = IVFStages(index), faiss.SearchParametersIVF(nprobe=effort)  # type: ignore[call-arg]
    else:
        effort = max(k, parameters["ef_search"])
        staged, options = HNSWStages(index), faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]
    faiss.omp_set_num_threads(1)
    plain_ids = np.concatenate([index.search(query[None], k, params=options)[1] for query in queries])
    stages = [list(staged.search(query, k, effort, shares)) for query in queries]
    worst = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[0][:, -1]

    def recall(ids: Sequence[np.ndarray] | np.ndarray) -> float:
        # by score: any of several equally good vectors will do
        scores = np.einsum("qkd,qd->qk", vectors[np.array(ids)], queries)
        return float((scores >= worst[:, None] - ROUNDING).mean())

    plain, ours, ratio = _alternated(
        [
            lambda query: index.search(query[None], k, params=options),
            lambda query: [stage.ids for stage in staged.search(query, k, effort, shares)],
        ],
        queries,
        rounds,
    )
    final = [of_query[-1].ids for of_query in stages]
    limit = LIMITS[kind] if len(vectors) >= LEAST_VECTORS else None
    return {
        "index": str(kind),
        "parameters": parameters,
        "effort": effort,
        "plain_ms": plain,
        "staged_ms": ours,
        "ratio": ratio,
        "limit": limit,
        "ok": limit is None or ratio <= limit,
        "same_as_plain": float(np.mean([(a == b).all() for a, b in zip(final, plain_ids, strict=True)])),
        "recall": recall(final),
        "plain_recall": recall(plain_ids),
        "stages": _by_stage(stages),
    }


def _alternated(
    searches: Sequence[Callable[[np.ndarray], object]], queries: np.ndarray, rounds: int
) -> tuple[float, float, float]:
    """Median milliseconds of both searches, and the median over the queries of their ratio.

    Query by query in turn, and in the next round in the other order: otherwise a query's second search would find what
    it reads in the processor's cache.
    """
    seconds = np.empty((2, rounds, len(queries)))
    for turn in range(2 * rounds):
        for number, query in enumerate(queries):
            which = (number + turn) % 2
            begin = time.perf_counter()
            searches[which](query)
            seconds[which, turn // 2, number] = time.perf_counter() - begin
    plain, ours = np.median(seconds, axis=1)
    return float(1e3 * np.median(plain)), float(1e3 * np.median(ours)), float(np.median(ours / plain))


def _by_stage(stages: list[list[Any]]) -> list[dict[str, float]]:
    """For each stage: its effort, and the share of queries whose final list, in its order, was already there."""
    rows = []
    for stage_number in range(max(map(len, stages))):
        # a search that ended early stays at its last stage
        reached = [of_query[min(stage_number, len(of_query) - 1)] for of_query in stages]
        same = [(stage.ids == of_query[-1].ids).all() for stage, of_query in zip(reached, stages, strict=True)]
        rows.append({"effort": float(np.mean([stage.effort for stage in reached])), "final": float(np.mean(same))})
    return rows


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"{report['vectors']:,} vectors of {report['dim']} dimensions, top {report['top_k']}, one thread"]
    for row in report["rows"]:
        limit = "" if row["limit"] is None else f" (at most {row['limit']:.2f}{'' if row['ok'] else ', MISSED'})"
        lines += [
            "",
            f"{row['index']}  {', '.join(f'{name} {value}' for name, value in row['parameters'].items())}",
            f"  plain FAISS  {row['plain_ms']:.3f} ms   recall {row['plain_recall']:.4f}",
            f"  staged       {row['staged_ms']:.3f} ms   recall {row['recall']:.4f}   {row['ratio']:.3f}x{limit},"
            f" same list {row['same_as_plain']:.1%}",
            "  final list there after an effort of "
            + ", ".join(f"{stage['effort']:.0f}: {stage['final']:.1%}" for stage in row["stages"]),
        ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if a figure is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m eval.bench_search", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--vectors", type=int, default=20_000, metavar="N", help="number of made-up vectors (default: %(default)s)"
    )
    parser.add_argument(
        "--dim", type=int, default=384, metavar="N", help="dimensions of made-up vectors (default: %(default)s)"
    )
    parser.add_argument("--embeddings", type=Path, metavar="FILE.npy", help="measure on these vectors instead")
    parser.add_argument(
        "--queries", type=Path, metavar="FILE.npy", help="with these queries (default: made up near the vectors)"
    )
    parser.add_argument("--count", type=int, default=400, metavar="N", help="number of queries (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="results of a search (default: %(default)s)")
    parser.add_argument(
        "--stages", type=int, metavar="N", help="stages of equal effort (default: what the search chooses)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="rounds of each query (default: %(default)s)"
    )
    parser.add_argument("--only", choices=[str(kind) for kind in LIMITS], help="measure one kind of index")
    arguments = parser.parse_args(argv)
    numbers = (arguments.vectors, arguments.dim, arguments.count, arguments.top_k, arguments.rounds)
    if min(numbers) < 1 or (arguments.stages is not None and arguments.stages < 1):
        parser.error("numbers must be at least 1")
    if arguments.queries and not arguments.embeddings:
        parser.error("--queries needs the --embeddings they belong to")
    vectors, queries = _data(arguments)
    if arguments.top_k > len(vectors):
        parser.error(f"--top-k must be at most the number of vectors, {len(vectors)}")
    shares = None if arguments.stages is None else even_shares(arguments.stages)
    report = {
        "machine": f"{platform.machine()}, faiss {faiss.__version__}, one thread",
        "vectors": len(vectors),
        "dim": vectors.shape[1],
        "queries": len(queries),
        "top_k": arguments.top_k,
        "rows": [
            measure(kind, vectors, queries, arguments.top_k, shares, arguments.rounds)
            for kind in LIMITS
            if arguments.only in (None, kind)
        ],
    }
    print(json.dumps(report, indent=2) if arguments.json else _in_words(report))
    return 0 if all(row["ok"] for row in report["rows"]) else 1


def _data(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if not arguments.embeddings:
        return clustered(arguments.vectors, arguments.dim, arguments.count)
    vectors = _unit(np.load(arguments.embeddings).astype(np.float32))
    random = np.random.default_rng(0)
    if arguments.queries:
        queries = np.load(arguments.queries)
        queries = queries[random.permutation(len(queries))[: arguments.count]].astype(np.float32)
    else:
        near = vectors[random.integers(len(vectors), size=arguments.count)]
        queries = near + random.standard_normal(near.shape, dtype=np.float32) / np.float32(near.shape[1] ** 0.5)
    return vectors, _unit(queries)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.bench_search"))
