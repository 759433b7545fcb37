"""PimMachine: a system of pimsim as the machine of a replay. The one module of this package that knows pimsim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pimsim import PimsimError, SystemConfig, version
from pimsim.fields import shipped
from pimsim.system.described.config import FOLDER
from pimsim.system.generation.engine import generator
from pimsim.system.generation.protocol import Piece, Pieces
from pimsim.system.retrieval.engine import retriever, search
from ragcache.engine.simulated.hardware import HARDWARE
from ragcache.engine.simulated.step_cost import chunked
from ragcache.errors import ConfigError
from ragcache.replay.searches import SearchRequest, ShownList

REMEMBERED = 1 << 16  # prefill steps, and as many decode steps, whose times are kept
TOKEN_BYTES = 4  # a token id on a link
NOT_IN_TIMES = ("workload", "price", "area")  # sections of a system that change no time, but for the batch


class PimMachine:
    """A Machine and a SearchMachine that take the times of a system of pimsim.

    Its workload is the replay's. Of the system's own, `workload.batch` says how many searches run at a time.

    A step with prompts and decodes is, on a GPU, one pass over the weights; devices that compute in memory take turns:
    prefill on their arrays, decoding at their banks. Cached KV is read where it lies: it costs nothing to put together.
    Of the co-optimisations `r` is in the times of searches and `p` in when they begin and what they show; in place of
    `g` is the cache of the service.
    """

    def __init__(self, config: SystemConfig, *, prefill_chunk: int = 512, seed: int = 0, name: str = "") -> None:
        """`name` goes into reports (by default the system's own). ConfigError for a system that cannot do the work."""
        if prefill_chunk < 1:
            raise ConfigError(f"prefill_chunk must be at least 1, not {prefill_chunk}")
        self.config = config
        self.prefill_chunk = prefill_chunk
        self._seed = seed % 2**64
        self._name = name or config.name
        self._prefill = lru_cache(REMEMBERED)(self._prefill_seconds)
        self._decode = lru_cache(REMEMBERED)(self._decode_seconds)
        self._one_pass = config.generation.engine == "gpu"
        try:
            self._generator, self._retriever = generator(config), retriever(config)
            self.step([(0, 1)], [1])  # a system that cannot do it is refused now
            self.search([SearchRequest(0, 1, 1)], 0)
        except PimsimError as error:
            raise ConfigError(f"{self._name}: {error}") from error

    @classmethod
    def load(cls, name: str, *, model: str | None = None, prefill_chunk: int = 512, seed: int = 0) -> PimMachine:
        """A system of pimsim by its name or YAML file, with pimsim's `model` of this name in place of its own.

        Raises ConfigError for a name that is not known and a file that cannot be used."""
        if "/" not in name and not name.endswith((".yaml", ".yml")) and name not in shipped(FOLDER):
            raise ConfigError(
                f"there is no hardware {name!r}; known are {', '.join(HARDWARE)}, systems of pimsim: "
                f"{', '.join(shipped(FOLDER))}, and YAML files of such, by their path"
            )
        try:
            config = SystemConfig.load(name, {} if model is None else {"model": model})
        except PimsimError as error:
            raise ConfigError(f"hardware {name}: {error}") from error
        return cls(config, prefill_chunk=prefill_chunk, seed=seed, name=Path(name).name)

    @property
    def described(self) -> Mapping[str, Any]:
        config = self.config
        assumed = [
            value.name
            for value in config.sourced
            if value.source.assumed and value.name.partition(".")[0] not in NOT_IN_TIMES
        ]
        system = {"configuration": config.configuration, "release": version(), "searches_at_once": self.at_once}
        return {"hardware": self._name, "model": config.model.name, "system": {**system, "assumed": assumed}}

    # a Machine

    @property
    def bytes_per_token(self) -> int:
        return self.config.model.kv_token_bytes

    @property
    def context_length(self) -> int:
        return 0

    @property
    def vocab(self) -> int:
        return self.config.model.vocabulary

    @property
    def host_rate(self) -> float:
        """Each generation device has a link of its own."""
        return self.config.link.gbps * 1e9 * self.config.generation.devices

    def kv_capacity(self) -> int:
        return int(self._generator.memory_bytes) - self.config.model.weight_bytes

    def step(self, chunks: Sequence[tuple[int, int]], decodes: Sequence[int]) -> float:
        if self._one_pass and chunks and decodes:
            return self._prefill((*chunks, *((before, 1) for before in decodes)))
        return self._prefill(tuple(chunks)) + self._decode(len(decodes), sum(decodes))

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        return chunked(self, cached_tokens, new_tokens, self.prefill_chunk)

    def _prefill_seconds(self, chunks: tuple[tuple[int, int], ...]) -> float:
        return self._generator.prefill(Pieces.of(Piece(new, before) for before, new in chunks)).seconds

    def _decode_seconds(self, requests: int, context: int) -> float:
        return self._generator.step(requests, context).seconds

    # a SearchMachine

    @property
    def at_once(self) -> int:
        return self.config.workload.batch

    @property
    def joins(self) -> bool:
        return self.config.optimisations.p

    def search(self, requests: Sequence[SearchRequest], running: int) -> list[list[ShownList]]:
        """The host makes the queries, sends them to all devices, merges what comes back, and hands the documents on.

        Without `p` all of a batch end with its slowest. With `p` the host looks at each of them every
        `retrieval.interval_hops`; a document that the search has found shows from the next look on, until then others
        in its stead. The links' and the host's times are those of these searches alone.
        """
        config = self.config
        count = len(requests)
        rng = np.random.default_rng([self._seed, requests[0].number])
        times = search(self._retriever, config.search.effort, count, running, False, rng)
        begun = count * config.host.query_us * 1e-6 + self._over_link(count * config.dimm.vectors.bytes)
        if not self.joins:
            tokens = sum(request.tokens for request in requests)
            whole = begun + float(times.done.max()) + self._handed_on(count, tokens)
            return [[ShownList(whole, range(request.documents))] for request in requests]
        interval = max(1e-12, times.hop * config.retrieval.interval_hops)
        shown = []
        for request, seconds in zip(requests, times.done.tolist(), strict=True):
            after = begun + self._handed_on(1, request.tokens)
            when = rng.random(request.documents) * config.search.found_by * seconds
            seen = np.ceil(when / interval).astype(int).tolist()
            last = math.ceil(seconds / interval)
            looks = [
                ShownList(after + look_number * interval, _shown_at(look_number, seen))
                for look_number in sorted(set(seen))
                if 0 < look_number < last
            ]
            shown.append([*looks, ShownList(after + last * interval, range(request.documents))])
        return shown

    def _over_link(self, size: float) -> float:
        link = self.config.link
        return size / (link.gbps * 1e9) + link.latency_ns * 1e-9

    def _handed_on(self, searches: int, tokens: int) -> float:
        """Seconds from the devices' results until the documents' tokens are where they are prefilled."""
        config = self.config
        results = searches * config.dimm.graph.k
        merging = results * config.retrieval.devices * config.host.merge_ns * 1e-9
        return self._over_link(results * config.dimm.dpm.result_bytes) + merging + self._over_link(tokens * TOKEN_BYTES)


def _shown_at(look_number: int, seen: Sequence[int]) -> list[int]:
    """Positions that a look shows (numbered from 1): those of the result that were `seen` by then, others for the rest.

    `seen` holds the look that first sees each position; another document in place of the rest is below 0.
    """
    result = [position for position, first_look in enumerate(seen) if first_look <= look_number]
    return result + [-other for other in range(1, len(seen) - len(result) + 1)]
