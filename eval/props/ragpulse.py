"""RAGPulse's requests as a workload: their times, passages, questions and answers (arXiv 2511.12979)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ragcache.errors import TraceError
from ragcache.replay.workload import TimedRequest, Workload
from ragcache.simulate.trace import json_lines, read_trace

_BEHIND_PASSAGES = {"history": "history_id", "web_search": "web_search_id", "user_input": "user_input_id"}


def ragpulse_workload(folder: Path, speed: float = 1.0) -> Workload:
    """The requests of the trace that retrieved passages, `speed` times as fast as they came.

    What stands behind the passages of a prompt counts as its question. Raises TraceError for a folder that does not
    hold the trace's files.
    """
    trace = _file(folder, "trace")
    paths = iter(read_trace(trace, "ragpulse").paths)
    lengths = {name: _lengths(_file(folder, name), key) for name, key in _BEHIND_PASSAGES.items()}
    requests = []
    for where, row in json_lines(trace):
        try:
            hashes: dict[str, Any] = row["hash_ids"]
            if not hashes["passages_ids"]:
                continue
            question = sum(lengths[name][number] for name in _BEHIND_PASSAGES for number in hashes[name])
            time, output = float(row["timestamp"]) / speed, int(row["output_length"])
        except (KeyError, ValueError, TypeError) as error:
            raise TraceError(f"{where}: not a request of RAGPulse: {type(error).__name__} {error}") from error
        documents = tuple((segment.label, len(segment)) for segment in next(paths))
        requests.append(TimedRequest(time, documents, max(1, question), max(1, output)))
    return Workload(tuple(requests))


def _file(folder: Path, name: str) -> Path:
    plain = folder / f"{name}.jsonl"
    return plain if plain.exists() else plain.with_suffix(".jsonl.gz")


def _lengths(file: Path, key: str) -> dict[int, int]:
    try:
        return {row[key]: row["token_length"] for _, row in json_lines(file)}
    except KeyError as error:
        raise TraceError(f"{file}: a line has no {error}") from error
