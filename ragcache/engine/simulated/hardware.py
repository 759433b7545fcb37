"""Hardware: what a machine can compute and move, as its maker states it, and how much of that is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ragcache.errors import ConfigError

GiB = 2**30

# Shares of the stated peak that a serving engine reaches: round assumptions, the same for all GPUs, not measured here
# and not fitted to published results.
# - Compute: large matrix products stay below the dense 16-bit peak, whose clock the power limit seldom allows, and
#   attention and small kernels below those. 0.6 lies in the middle of what is usually reported for long prefills.
# - Memory: 0.60 to 0.85 is the range in which the "model bandwidth utilization" of decodes is commonly stated.
# - Links: packet headers take their part; copies of pinned memory are said to reach about 25 of PCIe 4's 32 GB/s.
_COMPUTE, _MEMORY, _LINK = 0.6, 0.75, 0.8
# seconds in which a Python loop schedules and launches a step: an assumption too, of the order of milliseconds
_STEP = 0.002


@dataclass(frozen=True, slots=True)
class Hardware:
    """One or several equal devices that split each of a model's layers between them (tensor parallelism).

    For each device: `flops` are peak multiplications and additions a second by dtype (dense, a multiply-add is two),
    `memory_bandwidth` peak bytes a second, `memory` bytes, `host_bandwidth` peak bytes a second to and from the host,
    in one direction, `peer_bandwidth` the same to the other devices. The efficiencies are the shares of these peaks
    that are reached. `step_seconds` passes in every step whatever it computes, `peer_seconds` in every exchange.
    `source` says where the figures are from.
    """

    name: str
    flops: Mapping[str, float] = field(hash=False)
    memory_bandwidth: float
    memory: int
    host_bandwidth: float
    source: str
    devices: int = 1
    peer_bandwidth: float = 0.0
    compute_efficiency: float = _COMPUTE
    memory_efficiency: float = _MEMORY
    link_efficiency: float = _LINK  # of both links
    step_seconds: float = _STEP
    peer_seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "flops", MappingProxyType(dict(self.flops)))
        if self.devices > 1 and self.peer_bandwidth <= 0:
            raise ConfigError(f"{self.name}: {self.devices} devices need a peer_bandwidth above 0")

    def compute_rate(self, dtype: str) -> float:
        """Operations a second that all devices together reach in matrix products of this dtype."""
        if dtype not in self.flops:
            raise ConfigError(f"{self.name} has no figure for {dtype}; it has {', '.join(self.flops)}")
        return self.devices * self.flops[dtype] * self.compute_efficiency

    @property
    def memory_rate(self) -> float:
        """Bytes a second that all devices together reach, each reading its part."""
        return self.devices * self.memory_bandwidth * self.memory_efficiency

    @property
    def host_rate(self) -> float:
        """Bytes a second between the host and the devices, each over a link of its own."""
        return self.devices * self.host_bandwidth * self.link_efficiency

    def exchange_seconds(self, size: int) -> float:
        """The time of an all-reduce of `size` bytes between the devices: a ring moves 2·(d − 1)/d of it over a link."""
        if self.devices == 1:
            return 0.0
        moved = size * 2 * (self.devices - 1) / self.devices
        return self.peer_seconds + moved / (self.peer_bandwidth * self.link_efficiency)


HARDWARE: Mapping[str, Hardware] = MappingProxyType(
    {
        hardware.name: hardware
        for hardware in (
            Hardware(
                "a10g",
                flops={"float16": 70e12, "bfloat16": 70e12, "float32": 35e12},
                memory_bandwidth=600e9,
                memory=24 * GiB,
                host_bandwidth=32e9,  # PCIe 4 x16
                source="NVIDIA, A10G data sheet: 70 TFLOP/s dense on tensor cores (the A10, another card, has 125)",
            ),
            Hardware(
                "h100",
                flops={"float16": 989e12, "bfloat16": 989e12, "float32": 67e12},
                memory_bandwidth=3.35e12,
                memory=80 * GiB,
                host_bandwidth=64e9,  # PCIe 5 x16
                source="NVIDIA, H100 data sheet, SXM5 with 80 GB, dense",
            ),
            Hardware(
                "2xh800",
                flops={"float16": 989e12, "bfloat16": 989e12, "float32": 67e12},
                memory_bandwidth=3.35e12,
                memory=80 * GiB,
                host_bandwidth=64e9,  # PCIe 5 x16
                source="as the H100 SXM5, with NVLink cut to 400 GB/s in both directions together; 10 µs an all-reduce",
                devices=2,
                peer_bandwidth=200e9,
                peer_seconds=10e-6,
            ),
            Hardware(
                "this-cpu",
                flops={"float32": 150e9},
                memory_bandwidth=20e9,
                memory=23 * GiB,
                host_bandwidth=10e9,  # the same memory: a copy reads and writes it
                source="2 cores with AVX2: what matrix products and a large copy were measured to reach. Of that, "
                "prefills of SmolLM2-135M reached 0.57 for 1,024 tokens (2.96 s) and 0.72 for 2,048 (5.4 s), and a "
                "decode behind 2,048 tokens 0.8 of the bandwidth (40 ms)",
                compute_efficiency=0.65,
                memory_efficiency=0.8,
                link_efficiency=1.0,
                step_seconds=0.0,  # part of what was measured
            ),
        )
    }
)
