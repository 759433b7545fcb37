"""SearchProfile: how long the stages of real searches took, and which documents each showed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ragcache.errors import ConfigError
from ragcache.whole_file import written_whole

VERSION = 1
T = TypeVar("T")
Stages = tuple[tuple[int, ...], ...]


def positions(stages: Sequence[Sequence[int]]) -> Stages:
    """The documents of each stage of one search, as positions in its last stage.

    Documents that are not in the last stage are -1, -2, … in the order in which they first appear.
    """
    place: dict[int, int] = {document: position for position, document in enumerate(stages[-1])}
    outside = 0
    for document in (document for stage in stages for document in stage):
        if document not in place:
            outside -= 1
            place[document] = outside
    return tuple(tuple(place[document] for document in stage) for stage in stages)


@dataclass(frozen=True, slots=True)
class SearchProfile:
    """Searches for `k` documents among `vectors` of `dim` dimensions, as they were measured.

    `stage_seconds` are the median times of the stages, one after the other. `lists` has for each search, for each
    stage, the documents that it showed, as `positions` writes them. `effort` is spent by the whole search: lists
    probed, or vertices.
    """

    index_type: str
    vectors: int
    dim: int
    effort: int
    k: int
    machine: str
    measured_at: str
    stage_seconds: tuple[float, ...]
    lists: tuple[Stages, ...]

    def __post_init__(self) -> None:
        if not self.stage_seconds or not all(math.isfinite(s) and s >= 0 for s in self.stage_seconds):
            raise ConfigError("'stage_seconds' are one number of seconds a stage, each 0 or more")
        if not self.lists:
            raise ConfigError("'lists' has no search")
        last = tuple(range(self.k))
        for number, stages in enumerate(self.lists, 1):
            if len(stages) != len(self.stage_seconds):
                raise ConfigError(f"search {number} has {len(stages)} stages, the times {len(self.stage_seconds)}")
            if stages[-1] != last:
                raise ConfigError(f"the last stage of search {number} shows {list(stages[-1])}, not {list(last)}")
            for stage in stages:
                if not len(set(stage)) == len(stage) <= self.k or any(position >= self.k for position in stage):
                    raise ConfigError(
                        f"search {number} shows {list(stage)}: each document once, positions below {self.k}, "
                        f"{self.k} documents at most"
                    )
            # the finder makes up as many documents as the largest j of a -j: a damaged number must not ask for millions
            outside = {position for stage in stages for position in stage if position < 0}
            if outside and -min(outside) != len(outside):
                raise ConfigError(
                    f"search {number} has {min(outside)} among {len(outside)} documents outside its last stage"
                )

    @classmethod
    def load(cls, file: Path) -> SearchProfile:
        """The profile in `file`; ConfigError says what is wrong with it."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file} is not a search profile: {error}") from error
        if not isinstance(content, dict) or content.pop("search_profile", None) != VERSION:
            raise ConfigError(f"{file} is not a search profile of version {VERSION}; record it anew")
        kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(cls)}
        if missing := [name for name in kinds if name not in content]:
            raise ConfigError(f"{file}: {missing[0]!r} is missing")
        try:
            values = {name: content[name] for name in kinds}
            for name in ("vectors", "dim", "effort", "k"):
                if type(values[name]) is not int or values[name] < 1:
                    raise ConfigError(f"{name!r} is a number of 1 or more, not {values[name]!r}")
            for name in ("index_type", "machine", "measured_at"):
                if not isinstance(values[name], str):
                    raise ConfigError(f"{name!r} is a text, not {values[name]!r}")
            values["stage_seconds"] = tuple(_seconds(seconds) for seconds in _list(values["stage_seconds"]))
            values["lists"] = tuple(
                tuple(tuple(_whole(position) for position in _list(stage)) for stage in _list(stages))
                for stages in _list(values["lists"])
            )
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{file}: a list of numbers has something else in it: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all; equal profiles give equal bytes."""
        with written_whole(file) as unfinished:
            text = json.dumps({"search_profile": VERSION, **dataclasses.asdict(self)})
            unfinished.write_text(text, encoding="utf-8")

    def scaled(self, factor: float) -> SearchProfile:
        """The same lists, shown after `factor` times the seconds: as on a slower machine, or among more vectors."""
        return dataclasses.replace(self, stage_seconds=tuple(seconds * factor for seconds in self.stage_seconds))

    def search(self, number: int, documents: Sequence[T], outsider: Callable[[int], T]) -> list[tuple[float, list[T]]]:
        """Seconds and documents of the stages that request `number` sees, whose search ends with `documents`.

        The recorded searches are taken in turn. `outsider(j)` is the document that stands for -j. Where a recorded
        search has more documents than the request, those at the end are left out; where it has fewer, the request's
        others come last at every stage. A request without documents sees none.
        """
        wanted = len(documents)
        if not wanted:
            return [(seconds, []) for seconds in self.stage_seconds]
        seen = []
        for seconds, stage in zip(self.stage_seconds, self.lists[number % len(self.lists)], strict=True):
            shown = [documents[position] if position >= 0 else outsider(-position) for position in stage
                     if position < wanted]  # fmt: skip
            seen.append((seconds, [*shown[:wanted], *documents[self.k :]]))
        return seen

    def settled(self) -> Iterable[float]:
        """For each stage, the share of the searches whose list was the final one from there on."""
        for stage in range(len(self.stage_seconds)):
            final = sum(all(later == stages[-1] for later in stages[stage:]) for stages in self.lists)
            yield final / len(self.lists)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a position")
    return value
