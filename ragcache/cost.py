"""PrefillCost: how long a prefill takes, given how much of the prompt is cached."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from ragcache.errors import ConfigError
from ragcache.whole_file import written_whole

PROFILE_VERSION = 2


class PrefillCost(Protocol):
    """T(alpha, beta), in seconds: the time to compute `new_tokens` behind `cached_tokens` whose KV is there.

    Never negative, and 0 where nothing is new.
    """

    def __call__(self, cached_tokens: int, new_tokens: int) -> float: ...


@dataclass(frozen=True, slots=True)
class ConstantCost:
    """The same `seconds` for every prefill, whatever it computes."""

    seconds: float = 1.0

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        del cached_tokens
        return self.seconds if new_tokens else 0.0


@dataclass(frozen=True, slots=True)
class PolynomialCost:
    """T = a·β + b·((α+β)² − α²) microseconds: a for each new token, 2b for each pair that causal attention looks at."""

    a: float
    b: float

    def __post_init__(self) -> None:
        for value in (self.a, self.b):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"a cost of {value} µs is not possible: a and b are numbers of 0 or more")

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        # (α+β)² − α² = β·(2α+β)
        return new_tokens * (self.a + self.b * (2 * cached_tokens + new_tokens)) * 1e-6


@dataclass(frozen=True, slots=True)
class AnalyticCost:
    """An estimate from a model's shape, where no profile was measured: arithmetic at one sustained rate, no overheads.

    T = (2·P·β + 2·L·W·((α+β)² − α²)) / F, where P is the number of weights (a token multiplies and adds with each),
    L the layers, W the width of the queries (a query and key pair takes 2·W for the score and 2·W for the value, and
    causal attention looks at half of (α+β)² − α² pairs), and F the operations a second. The policies compare prices
    with each other, so that F cancels out of their choices; it only scales the seconds that are reported.
    """

    weights: int
    layers: int
    query_width: int
    flops: float = 1e11

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        pairs = new_tokens * (2 * cached_tokens + new_tokens)
        return (2 * self.weights * new_tokens + 2 * self.layers * self.query_width * pairs) / self.flops


@dataclass(frozen=True, slots=True)
class PrefillProfile:
    """Measured prefill times of one machine: `seconds[i][j]` for `cached[i]` and `new[j]` tokens, both ascending.

    Between the grid's points it is bilinear (RAGCache, section 5.1); beyond its edges the plane of the nearest cell
    goes on, never below 0. `model`, `shape` (its architecture and sizes), `device`, `dtype` and `threads` say what was
    measured, `prefill_chunk` how many tokens a step computed, `runs` of how many measurements each time is the median.
    `spread` is, point by point, the slowest of them less the fastest, as a share of the median: a busy machine shows.
    """

    model: str
    device: str
    dtype: str
    threads: int
    cached: tuple[int, ...]
    new: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    shape: str = ""
    prefill_chunk: int = 512
    runs: int = 1
    spread: tuple[tuple[float, ...], ...] = ()
    measured_at: str = ""  # ISO 8601, UTC

    def __post_init__(self) -> None:
        for name, axis in (("cached", self.cached), ("new", self.new)):
            if len(axis) < 2 or any(a >= b for a, b in pairwise(axis)) or axis[0] < 0:
                raise ConfigError(
                    f"profile: {name!r} must be two or more ascending numbers of tokens, not {list(axis)}"
                )
        if self.new[0] < 1:
            raise ConfigError("profile: 'new' must start at 1 token or more")
        if len(self.seconds) != len(self.cached) or any(len(row) != len(self.new) for row in self.seconds):
            raise ConfigError(
                f"profile: 'seconds' must be {len(self.cached)} rows (cached) of {len(self.new)} times (new)"
            )
        if not all(math.isfinite(value) and value > 0 for row in self.seconds for value in row):
            raise ConfigError("profile: 'seconds' must all be finite and above 0")
        for name, number in (("threads", self.threads), ("prefill_chunk", self.prefill_chunk), ("runs", self.runs)):
            if number < 1:
                raise ConfigError(f"profile: {name!r} must be 1 or more, not {number}")

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        if not new_tokens:
            return 0.0
        i, x = _place(self.cached, cached_tokens)
        j, y = _place(self.new, new_tokens)
        low, high = self.seconds[i], self.seconds[i + 1]
        below = low[j] + (low[j + 1] - low[j]) * y
        above = high[j] + (high[j + 1] - high[j]) * y
        return max(0.0, below + (above - below) * x)

    def as_json(self) -> str:
        """The profile as a JSON object, with its format's version."""
        return json.dumps({"version": PROFILE_VERSION, **asdict(self)}, indent=1)

    def save(self, file: Path) -> None:
        """Writes the profile to a JSON file, whole or not at all; ConfigError or OSError if it cannot be written."""
        with written_whole(file) as unfinished:
            unfinished.write_text(self.as_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> PrefillProfile:
        """Reads the profile in a JSON file; ConfigError if the file cannot be read or has no such profile."""
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the profile {file}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the profile {file} is not valid JSON: {error}") from error
        if not isinstance(fields, dict) or fields.get("version") != PROFILE_VERSION:
            version = fields.get("version") if isinstance(fields, dict) else None
            raise ConfigError(
                f"{file} is not a prefill profile of version {PROFILE_VERSION} (its version: {version!r}); "
                "measure a new one"
            )
        try:
            return cls(
                model=_text(fields, "model"),
                device=_text(fields, "device"),
                dtype=_text(fields, "dtype"),
                threads=int(fields["threads"]),
                cached=tuple(map(int, fields["cached"])),
                new=tuple(map(int, fields["new"])),
                seconds=tuple(tuple(map(float, row)) for row in fields["seconds"]),
                shape=_text(fields, "shape"),
                prefill_chunk=int(fields["prefill_chunk"]),
                runs=int(fields["runs"]),
                spread=tuple(tuple(map(float, row)) for row in fields["spread"]),
                measured_at=_text(fields, "measured_at"),
            )
        except KeyError as error:
            raise ConfigError(f"the profile {file} lacks {error.args[0]!r}") from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the profile {file} cannot be used: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error


def parse_cost(text: str) -> PrefillCost:
    """The cost that a command line names: `constant`, `a,b` (microseconds, see PolynomialCost) or a profile's file.

    ConfigError for anything else, and for a file that is not a profile.
    """
    if text == "constant":
        return ConstantCost()
    parts = text.split(",")
    if len(parts) == 2:
        try:
            a, b = float(parts[0]), float(parts[1])
        except ValueError:
            pass
        else:
            return PolynomialCost(a, b)
    if not Path(text).exists():
        raise ConfigError(f"{text!r} is not a cost: write constant, a,b (such as 50,0.01, in µs) or a profile's file")
    return PrefillProfile.load(Path(text))


def _place(axis: Sequence[int], value: int) -> tuple[int, float]:
    """The cell that `value` lies in or nearest to, and its place there: 0 to 1, below 0 or above 1 if it is outside."""
    cell = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return cell, (value - axis[cell]) / (axis[cell + 1] - axis[cell])


def _text(fields: dict[str, Any], key: str) -> str:
    if not isinstance(fields[key], str):
        raise TypeError(f"{key!r} must be a text, not {fields[key]!r}")
    return str(fields[key])
