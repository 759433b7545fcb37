"""Gpu: how long prefill and decoding take on a GPU, by its roofline, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from pimsim.result import Bound
from pimsim.system.described.config import SystemConfig
from pimsim.system.generation.protocol import NOTHING, Cost, Pieces


@dataclass
class Gpu:
    """A GPU by its roofline: bytes at a share of the bandwidth, operations at a share of the peak, a host that launches
    kernels.
    """

    config: SystemConfig
    bounds: list[Bound] = field(default_factory=list)
    smallest_piece: int = 1

    def __post_init__(self) -> None:
        gpu, model = self.config.gpu, self.config.model
        count = self.config.generation.devices
        self.memory_bytes = gpu.memory_gb * 1e9 * count
        self.idle_w = gpu.idle_w * count
        self._bandwidth = gpu.peak_gbps * gpu.bandwidth_share * 1e9 * count
        self._rate = gpu.peak_tflops * gpu.compute_share * 1e12 * count
        self._launches = model.layers * gpu.host_us_a_layer * 1e-6
        floor = model.read_weights * model.bytes / (gpu.peak_gbps * 1e9 * count)
        self.bounds = [Bound("weights at peak bandwidth, once a step", floor, self.step(1, 1).seconds, "s", True)]

    def prefill(self, pieces: Pieces) -> Cost:
        model = self.config.model
        rows = pieces.tokens
        if not rows:
            return NOTHING
        macs = float(rows * model.layers * model.layer_weights) + pieces.number * model.vocabulary * model.hidden
        macs += 2 * pieces.pairs * model.heads * model.head_dim * model.layers
        return self._cost(macs, pieces.before, 1.0)

    def step(self, requests: int, context: float) -> Cost:
        model = self.config.model
        macs = requests * model.read_weights + 2 * context * model.heads * model.head_dim * model.layers
        return self._cost(macs, context, self.config.gpu.decode_share) if requests else NOTHING

    def load(self, tokens: float) -> Cost:
        seconds = 2 * tokens * self.config.model.kv_token_bytes / self._bandwidth
        return self._drawn(seconds, self.config.gpu.decode_share)

    def _cost(self, macs: float, tokens: float, share: float) -> Cost:
        model = self.config.model
        moved = model.read_weights * model.bytes + tokens * model.kv_token_bytes
        return self._drawn(max(moved / self._bandwidth, 2 * macs / self._rate, self._launches), share)

    def _drawn(self, seconds: float, share: float) -> Cost:
        """The cost of `seconds` at a share of the board's power."""
        watts = self.config.gpu.watts * share * self.config.generation.devices
        return Cost(seconds, {"gpu": watts * seconds * 1e9})
