"""Roofline: the time of an engine's step, from the sizes of a model and the rates of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ragcache.engine.simulated.hardware import HARDWARE, Hardware
from ragcache.engine.simulated.step_cost import chunked
from ragcache.errors import ConfigError
from ragcache.model.shape import MODELS, ModelShape


class Roofline:
    """Each kind of work in a step takes as long as the slower of computing and moving, and kinds take turns:

        T = max(F_w / C, B_w / M) + Σ_s max(F_s / C, B_s / M) + 2·L·X(n·H·b) + O

    with C operations a second, M bytes a second (`compute_rate` and `memory_rate` of the hardware), O its
    `step_seconds` and X its all-reduce, of which there are two a layer (0 on one device). With n tokens of S sequences
    in the step, L layers, H the hidden size, W the width of the queries, b bytes a number, K bytes of KV a token:

        F_w = 2·P·n + 2·V·H·S            matrix products: P weights that a token meets, and V·H for logits
        B_w = b·(weights that are read)  all but the embedding, of experts those that some token is sent to
        F_s = 4·L·W·(p·m + m·(m + 1)/2)  attention of a sequence with m new tokens behind p: 2·W for the score and 2·W
                                         for the value of each query with each key up to its own
        B_s = K·(p + m)                  its KV: read, and for the new tokens written

    All times are seconds. As a PrefillCost it is T(cached, new) of a prompt that runs alone, in steps of
    `prefill_chunk` tokens. Norms, activations and sampling are left to the efficiencies.
    """

    def __init__(self, hardware: Hardware, model: ModelShape, *, prefill_chunk: int = 512) -> None:
        if prefill_chunk < 1:
            raise ConfigError(f"prefill_chunk must be at least 1, not {prefill_chunk}")
        self.hardware = hardware
        self.model = model
        self.prefill_chunk = prefill_chunk
        compute, memory = hardware.compute_rate(model.dtype), hardware.memory_rate
        self._token_seconds = 2 * model.active_weights / compute  # a token of F_w
        self._logits_seconds = 2 * model.output_weights / compute  # a sequence of F_w
        self._pair_seconds = 4 * model.layers * model.query_width / compute  # a pair of F_s
        self._kv_seconds = model.kv_bytes_per_token / memory  # a token of B_s
        self._weight_seconds = model.itemsize / memory  # a weight of B_w

    @classmethod
    def named(cls, hardware: str, model: str, *, prefill_chunk: int = 512) -> Roofline:
        """The roofline of the tables' entries with these names. Raises ConfigError, with all names, for another."""
        for what, name, known in (("hardware", hardware, HARDWARE), ("model", model, MODELS)):
            if name not in known:
                raise ConfigError(f"there is no {what} {name!r}; known are {', '.join(known)}")
        return cls(HARDWARE[hardware], MODELS[model], prefill_chunk=prefill_chunk)

    @property
    def described(self) -> Mapping[str, str]:
        return {"hardware": self.hardware.name, "model": self.model.name}

    @property
    def bytes_per_token(self) -> int:
        return self.model.kv_bytes_per_token

    @property
    def context_length(self) -> int:
        return self.model.context_length

    @property
    def vocab(self) -> int:
        return self.model.vocab

    @property
    def host_rate(self) -> float:
        return self.hardware.host_rate

    def step(self, chunks: Sequence[tuple[int, int]], decodes: Sequence[int]) -> float:
        """Seconds of a step: the formula above."""
        tokens = len(decodes)
        attention = 0.0
        for before, new in chunks:
            tokens += new
            pairs = new * before + new * (new + 1) / 2
            attention += max(pairs * self._pair_seconds, (before + new) * self._kv_seconds)
        for before in decodes:
            attention += (before + 1) * max(self._pair_seconds, self._kv_seconds)
        if not tokens:
            return 0.0
        computing = tokens * self._token_seconds + (len(chunks) + len(decodes)) * self._logits_seconds
        reading = self.model.weights_read(tokens) * self._weight_seconds
        seconds = max(computing, reading) + attention + self.hardware.step_seconds
        if self.hardware.devices > 1:
            size = tokens * self.model.hidden * self.model.itemsize
            seconds += 2 * self.model.layers * self.hardware.exchange_seconds(size)
        return seconds

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        return chunked(self, cached_tokens, new_tokens, self.prefill_chunk)

    def decode(self, batch: int, context: int) -> float:
        """Seconds of a step in which `batch` sequences of `context` tokens decode one more token each."""
        return self.step((), [context] * batch)

    def kv_capacity(self, share: float = 0.9) -> int:
        """Bytes left for KV if the engine has `share` of the memory. Raises ConfigError if the weights take it all."""
        usable = int(self.hardware.devices * self.hardware.memory * share)
        if usable <= self.model.weight_bytes:
            raise ConfigError(
                f"the weights of {self.model.name} take {self.model.weight_bytes / 2**30:.1f} GiB, and "
                f"{self.hardware.name} has {usable / 2**30:.1f} GiB for them and the KV"
            )
        return usable - self.model.weight_bytes
