"""Workload: requests with their arrival times; documents and answers are known by their lengths alone."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragcache.errors import TraceError
from ragcache.simulate.trace import Trace, documents_of, json_lines
from ragcache.whole_file import written_whole

_LATEST = 1e12  # seconds; beyond, a float would no longer tell milliseconds apart
_MOST_TOKENS = 2**31  # of a question or an answer, whose ids are held in memory


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """A request that arrives `time` seconds after the start.

    `documents` are pairs of id and length in tokens, in the order of the prompt; there may be none. `question` is a
    text or a length in tokens, `output` the length of the answer in tokens.
    """

    time: float
    documents: tuple[tuple[str, int], ...]
    question: int | str
    output: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival. Those that arrive at one time are sent in the order in which they stand.

    On disk: JSON lines `{t, path: [ids], sizes: [tokens], question: text or tokens, output: tokens}`.
    """

    requests: tuple[TimedRequest, ...]

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def trace(self) -> Trace:
        """The documents of each request, without the times, for a Simulation."""
        trace = Trace()
        for request in self.requests:
            trace.add(list(request.documents))
        return trace

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer that a request asks for."""
        return max(request.output for request in self.requests)

    def first(self, requests: int) -> Workload:
        """This number of the requests, those that arrive first. Raises TraceError for a number below 1."""
        if requests < 1:
            raise TraceError(f"a workload has 1 request or more, not {requests}")
        return Workload(self.requests[:requests])

    def with_rate(self, rate: float, seed: int) -> Workload:
        """The same requests in the same order, arriving as a Poisson process of `rate` requests a second from time 0.

        Raises TraceError for a rate that is not above 0."""
        if not (math.isfinite(rate) and rate > 0):
            raise TraceError(f"a rate is a number of requests a second above 0, not {rate}")
        generator = random.Random(seed)
        time = 0.0
        requests = []
        for request in self.requests:
            time += generator.expovariate(rate)
            requests.append(dataclasses.replace(request, time=time))
        return Workload(tuple(requests))

    @classmethod
    def read(cls, file: Path) -> Workload:
        """The workload in `file`, gzipped if its name says so; TraceError names the line that cannot be used."""
        requests = []
        before = 0.0
        for where, row in json_lines(file):
            request = TimedRequest(
                time=float(_checked(row, "t", _is_time, "a number of seconds, 0 or more", where)),
                documents=tuple(documents_of(row, where)),
                question=_checked(row, "question", _is_question, "a text or a number of tokens, 1 or more", where),
                output=_checked(row, "output", _is_count, "a number of tokens, 1 or more", where),
            )
            if request.time < before:
                raise TraceError(f"{where}: 't' is {request.time}, before the {before} of the line above; sort by time")
            before = request.time
            requests.append(request)
        if not requests:
            raise TraceError(f"{file} has no requests")
        return cls(tuple(requests))

    def write(self, file: Path) -> None:
        """Writes the file, whole or not at all, gzipped if its name says so; equal workloads give equal bytes."""
        data = "".join(_lines(self.requests)).encode()
        if file.suffix == ".gz":
            data = gzip.compress(data, mtime=0)
        with written_whole(file) as unfinished:
            unfinished.write_bytes(data)


def _lines(requests: Iterable[TimedRequest]) -> Iterable[str]:
    for request in requests:
        row = {
            "t": request.time,
            "path": [name for name, _ in request.documents],
            "sizes": [size for _, size in request.documents],
            "question": request.question,
            "output": request.output,
        }
        yield json.dumps(row) + "\n"


def _checked(row: dict[str, Any], key: str, fits: Callable[[Any], bool], needs: str, where: str) -> Any:
    if key not in row:
        raise TraceError(f"{where}: {key!r} is missing: {needs}")
    value = row[key]
    if not fits(value):
        raise TraceError(f"{where}: {key!r} is {needs}, not {value!r}")
    return value


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_TOKENS


def _is_question(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else _is_count(value)
