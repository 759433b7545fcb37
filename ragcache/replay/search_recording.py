"""Search recording: real searches, timed stage by stage, as a SearchProfile."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from statistics import median

import numpy as np

from ragcache.errors import ConfigError
from ragcache.replay.search_profile import SearchProfile, Stages, positions
from retrieval.retriever import Retriever
from retrieval.staged_search import even_shares

Search = Callable[[np.ndarray], Iterable[tuple[Sequence[int], int]]]  # ids and effort of each stage, as it ends


def record(
    search: Search,
    vectors: np.ndarray,
    *,
    index_type: str,
    indexed: int,
    repeat: int = 3,
    on_progress: Callable[[int], object] = lambda _: None,
) -> SearchProfile:
    """Searches for each of `vectors` [searches, dim] `repeat` times, on this thread. A stage's time is the median.

    A search with fewer stages than the longest gets its first list for the stages that it lacks, in no time.
    """
    recorded: list[Stages] = []
    times: list[list[float]] = []
    effort = 1
    for vector in vectors:
        ids: list[list[int]] = []
        runs = []
        for _ in range(repeat):
            ids, seconds = [], []
            begin = time.perf_counter()
            for rows, spent in search(vector):
                end = time.perf_counter()
                seconds.append(end - begin)
                ids.append([int(row) for row in rows])
                effort = max(effort, spent)
                begin = time.perf_counter()
            runs.append(seconds)
        recorded.append(positions(ids))
        times.append([median(stage) for stage in zip(*runs, strict=True)])
        on_progress(1)
    stages = max(map(len, recorded))
    lists = tuple((own[0],) * (stages - len(own)) + own for own in recorded)
    padded = [[0.0] * (stages - len(seconds)) + seconds for seconds in times]
    return SearchProfile(
        index_type=index_type,
        vectors=indexed,
        dim=vectors.shape[1],
        effort=effort,
        k=len(recorded[0][-1]),
        machine=f"{platform.machine()}, {platform.system()}",
        measured_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        stage_seconds=tuple(round(median(stage), 9) for stage in zip(*padded, strict=True)),
        lists=lists,
    )


def record_questions(
    retriever: Retriever,
    questions: Sequence[str],
    *,
    top_k: int,
    stages: int | None = None,
    repeat: int = 3,
    on_progress: Callable[[int], object] = lambda _: None,
) -> SearchProfile:
    """The profile of a retriever's searches for these questions, whose embedding is not timed.

    `stages` cuts a search into that many of equal effort (None: the retriever's own). `on_progress` gets numbers of
    searches done. Raises ConfigError if there are no questions."""
    if not questions:
        raise ConfigError("there are no questions to search for")
    shares = None if stages is None else even_shares(stages)

    def search(vector: np.ndarray) -> Iterator[tuple[Sequence[int], int]]:
        for stage in retriever.search_vector_stages(vector, top_k, shares):
            yield [hit.row for hit in stage.hits], stage.effort

    vectors = retriever.embedder.encode(list(questions))
    kind = str(retriever.manifest.index_type)
    return record(search, vectors, index_type=kind, indexed=len(retriever), repeat=repeat, on_progress=on_progress)
