"""PrefillProfiler: T(cached, new) of a model on this machine, measured by running its prefill on a grid."""

from __future__ import annotations

import hashlib
import logging
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, product
from pathlib import Path

import torch

from ragcache.cost import AnalyticCost, PrefillProfile
from ragcache.engine.cores import MOST_THREADS
from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import StepInput, TorchModel
from ragcache.errors import ConfigError
from ragcache.model.checkpoint import cache_home

log = logging.getLogger(__name__)

SPAN = 512  # tokens: past and new KV lie in spans of a usual document's length
LONGEST = 8192  # where the default grid ends for models that read more: from there the plane goes on
# KV of noise, small enough that no softmax over it underflows: attention is slow where numbers are denormal
_NOISE = 0.1
_DOUBTFUL = 0.5  # share of a median: with a larger spread, another program was running
_NAME_LENGTH = 60  # characters of a model's or a device's name in a file's name


@dataclass(frozen=True, slots=True)
class Setting:
    """All that the time of a prefill depends on but its tokens. `shape` describes the architecture and its sizes."""

    model: str
    shape: str
    device: str
    dtype: str
    threads: int

    @classmethod
    def of(cls, model: TorchModel, threads: int) -> Setting:
        """The setting of this model, here, with this many torch threads."""
        config = model.module.config.get_text_config()
        layout, estimated = model.layout, estimate(model)
        shape = (
            f"{type(model.module).__name__} {layout.layers}x{config.hidden_size}, {estimated.weights} weights, "
            f"{estimated.query_width // layout.head_dim}:{layout.kv_heads} heads of {layout.head_dim}"
        )
        dtype = str(layout.dtype).removeprefix("torch.")
        return cls(model.name, shape, _device_name(model.device), dtype, threads)

    @property
    def file(self) -> Path:
        """Where the profile of this setting is kept."""
        digest = hashlib.sha256(repr((self.model, self.shape, self.device)).encode()).hexdigest()[:8]
        parts = (_slug(self.model), _slug(self.device), self.dtype, f"{self.threads}threads", digest)
        return cache_home() / "profiles" / f"{'-'.join(parts)}.json"

    def differences(self, profile: PrefillProfile) -> list[str]:
        """How the profile's setting differs from this one, a phrase for each difference."""
        named = ("model", "shape", "device", "dtype", "threads")
        pairs = [(name, getattr(profile, name), getattr(self, name)) for name in named]
        return [f"{name} {measured} instead of {here}" for name, measured, here in pairs if measured != here]


@dataclass(frozen=True, slots=True)
class Grid:
    """The points to measure: every number of `cached` tokens with every number of `new` ones."""

    cached: tuple[int, ...]
    new: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, axis, least in (("--cached", self.cached, 0), ("--new", self.new, 1)):
            _check_axis(name, axis, least)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure and how often. Raises ConfigError when it is created, which is before seconds of loading."""

    threads: int
    runs: int = 3
    prefill_chunk: int = 512
    cached: tuple[int, ...] | None = None  # None: roughly geometric, to the end of the context or LONGEST in all
    new: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        counts = (("--threads", self.threads), ("--runs", self.runs), ("--prefill-chunk", self.prefill_chunk))
        for name, count in counts:
            if count < 1:
                raise ConfigError(f"{name} must be 1 or more, not {count}")
        if self.threads > MOST_THREADS:
            raise ConfigError(f"--threads must be at most {MOST_THREADS}, not {self.threads}")
        for name, axis, least in (("--cached", self.cached, 0), ("--new", self.new, 1)):
            if axis is not None:
                _check_axis(name, axis, least)

    def grid(self, context_length: int) -> Grid:
        """The grid for a model of this context length. Raises ConfigError if a given axis exceeds it."""
        most_cached, most_new = (self.cached or (0,))[-1], (self.new or (2,))[-1]
        if most_cached + most_new > context_length:
            raise ConfigError(
                f"{most_cached} cached and {most_new} new tokens are {most_cached + most_new} in all; the model reads "
                f"{context_length}"
            )
        end = min(context_length, LONGEST)
        cached, new = self.cached, self.new
        if new is None:
            most = min(context_length - most_cached, end // 4)
            new = tuple(sorted({size for size in (16, 64, most // 8, most // 2, most) if 1 <= size <= most}))
        if cached is None:  # few points: T is linear in them, with attention's part of it
            most = min(context_length - new[-1], end - end // 4)
            cached = tuple(sorted({0, most // 12, most // 3, most}))
        return Grid(cached, new)


def parse_axis(text: str, option: str) -> tuple[int, ...]:
    """The numbers in an option's text such as `0,256,1024`. Raises ConfigError, naming `option`, for other text."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise ConfigError(f"{option} takes whole numbers with commas between, not {text!r}")
    return tuple(map(int, numbers))


def _check_axis(name: str, axis: Sequence[int], least: int) -> None:
    if len(axis) < 2 or axis[0] < least or any(a >= b for a, b in pairwise(axis)):
        raise ConfigError(
            f"{name} takes two or more ascending numbers of tokens from {least} on, not {','.join(map(str, axis))!r}"
        )


def estimate(model: TorchModel) -> AnalyticCost:
    """A cost estimated from the model's shape. Only ratios count: policies do not depend on its scale."""
    config = model.module.config.get_text_config()
    layout = model.layout
    hidden, queries = config.hidden_size, config.num_attention_heads * layout.head_dim
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    # queries and output, keys and values, and the three matrices of a gated feed-forward layer
    weights = layout.layers * hidden * (2 * queries + 2 * layout.kv_heads * layout.head_dim + 3 * inner)
    return AnalyticCost(weights, layout.layers, queries)


def find_profile(model: TorchModel, threads: int) -> PrefillProfile | None:
    """The profile that `ragcache profile` saved for this setting. None if there is none, or its file is damaged."""
    setting = Setting.of(model, threads)
    file = setting.file
    if not file.exists():
        return None
    try:
        profile = PrefillProfile.load(file)
    except ConfigError as error:
        log.warning("%s; it is not used", error)
        return None
    if differences := setting.differences(profile):
        log.warning("%s was measured with %s; it is not used", file, ", ".join(differences))
        return None
    return profile


class PrefillProfiler:
    """Measures prefills as the engine runs them: chunk after chunk, behind KV that lies in spans.

    A measurement gets fresh memory for its new tokens, as a request does. The KV of the cached tokens is noise: how
    long attention takes does not depend on it. Sets the calling thread's number of torch threads.
    """

    def __init__(self, model: TorchModel, plan: Plan, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.setting = Setting.of(model, plan.threads)
        self.grid = plan.grid(model.context_length)
        self.plan = plan
        self._model = model
        self._clock = clock
        self._random = random.Random(0)
        torch.set_num_threads(plan.threads)
        self._spans = self._noise(self.grid.cached[-1])

    @property
    def tokens(self) -> int:
        """Number of tokens that all runs together compute."""
        return self.plan.runs * len(self.grid.cached) * sum(self.grid.new)

    def warm_up(self) -> float:
        """Runs a few chunks that are not measured. Returns the estimated seconds that `measure` will take."""
        new = min(self.plan.prefill_chunk, self.grid.new[-1])
        self._prefill(0, new)
        self._prefill(self.grid.cached[-1], min(self.grid.new))
        seconds = self._prefill(0, new)
        guess = estimate(self._model)
        whole = sum(guess(cached, tokens) for cached, tokens in product(self.grid.cached, self.grid.new))
        return self.plan.runs * whole * seconds / guess(0, new)

    def measure(self, on_progress: Callable[[int], object] | None = None) -> PrefillProfile:
        """Visits every point once a run, each run in another order, so that drift does not fall on one corner.

        `on_progress` is called with the tokens of each measurement.
        """
        points = list(product(self.grid.cached, self.grid.new))
        measured: dict[tuple[int, int], list[float]] = {point: [] for point in points}
        for _ in range(self.plan.runs):
            self._random.shuffle(points)
            for cached, new in points:
                measured[cached, new].append(self._prefill(cached, new))
                if on_progress is not None:
                    on_progress(new)
        setting = self.setting
        return PrefillProfile(
            model=setting.model,
            device=setting.device,
            dtype=setting.dtype,
            threads=setting.threads,
            cached=self.grid.cached,
            new=self.grid.new,
            seconds=self._table(lambda point: statistics.median(measured[point])),
            shape=setting.shape,
            prefill_chunk=self.plan.prefill_chunk,
            runs=self.plan.runs,
            spread=self._table(lambda point: _relative_spread(measured[point])),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _table(self, value: Callable[[tuple[int, int]], float]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(value((cached, new)) for new in self.grid.new) for cached in self.grid.cached)

    def _prefill(self, cached: int, new: int) -> float:
        """Seconds of one prefill."""
        model = self._model
        pending = [self._random.randrange(model.vocab_size) for _ in range(new)]
        past = self._past(cached)
        own = [model.layout.allocate(size, model.device) for size in _pieces(new)]
        position = cached
        self._synchronize()
        begin = self._clock()
        while pending:
            chunk = pending[: self.plan.prefill_chunk]
            del pending[: len(chunk)]
            logits = model.forward([StepInput(chunk, position, [*past, *own], own, wants_logits=not pending)])
            position += len(chunk)
        del logits
        self._synchronize()
        return self._clock() - begin

    def _past(self, tokens: int) -> list[KVSpan]:
        """The first `tokens` of the noise; the last span is read in part."""
        return [KVSpan(span.data, size) for span, size in zip(self._spans, _pieces(tokens), strict=False)]

    def _noise(self, tokens: int) -> list[KVSpan]:
        spans = [self._model.layout.allocate(SPAN, self._model.device) for _ in _pieces(tokens)]
        generator = torch.Generator(self._model.device).manual_seed(0)
        for span in spans:
            span.data.normal_(0.0, _NOISE, generator=generator)
        return spans

    def _synchronize(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)  # forward only enqueues


def table(profile: PrefillProfile) -> str:
    """The measured grid as text: milliseconds, a row for each number of cached tokens, a column for new ones."""
    lines = [f"{'cached | new':>12}" + "".join(f"{new:>11,}" for new in profile.new)]
    for cached, row in zip(profile.cached, profile.seconds, strict=True):
        lines.append(f"{cached:>12,}" + "".join(f"{_milliseconds(seconds):>11}" for seconds in row))
    lines += [
        "",
        f"milliseconds to prefill new tokens behind cached ones: {profile.model}, {profile.dtype}, {profile.device}, "
        f"{profile.threads} thread{'s' * (profile.threads != 1)}",
        f"medians of {profile.runs}; slowest and fastest differ by {_widest(profile):.0%} of it at most",
    ]
    return "\n".join(lines)


def doubts(profile: PrefillProfile) -> str | None:
    """Why the profile should be measured again: its times vary as on a busy machine. None if they do not."""
    if _widest(profile) > _DOUBTFUL:
        return f"a time varied by {_widest(profile):.0%}"
    rows = profile.seconds
    if any(a >= b for row in rows for a, b in pairwise(row)) or any(
        above > below for upper, lower in pairwise(rows) for above, below in zip(upper, lower, strict=True)
    ):
        return "more tokens took less time"
    return None


def _relative_spread(seconds: Sequence[float]) -> float:
    """Difference of the slowest and the fastest, as a share of the median."""
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def _widest(profile: PrefillProfile) -> float:
    return max((value for row in profile.spread for value in row), default=0.0)


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pieces(tokens: int) -> Sequence[int]:
    """`tokens` divided into spans: full ones, and what is left."""
    return [SPAN] * (tokens // SPAN) + [tokens % SPAN] * bool(tokens % SPAN)


def _device_name(device: torch.device) -> str:
    """The processor's or the GPU's full name: home folders travel, and a profile must not serve another machine."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        described = ""
    named = re.search(r"^model name\s*:\s*(.+)$", described, re.MULTILINE)
    return f"{device.type} {named[1] if named else platform.processor() or platform.machine()}".strip()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text)[:_NAME_LENGTH].strip("-.") or "unnamed"
