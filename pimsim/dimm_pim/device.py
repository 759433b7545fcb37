"""Device: an AccelDIMM as data, checked: memory, units beside it, buffers, links, and how vectors lie in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pimsim import fields
from pimsim.energy import EnergyTable
from pimsim.errors import FieldError, WorkloadError
from pimsim.fields import Fields, Sourced
from pimsim.standard import Standard

FOLDER = "devices"
KIND = "dimm-pim"
DEFAULT = "acceldimm"
PLACEMENTS = ("interleaved", "blocked", "shuffled")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the device by its fields; `devices/acceldimm.yaml` says what each field is."""

    @classmethod
    def of(cls, values: Fields, name: str, **one_of: tuple[str, ...]) -> Any:
        """Take all fields of this part, each by its annotation; a whole number is 1 or more unless its metadata says
        otherwise.
        """
        inner = values.inner(name)
        checked: dict[str, Any] = {}
        for part in dataclasses.fields(cls):
            least = part.metadata.get("least", 1)
            if part.type == "int":
                checked[part.name] = inner.integer(part.name, least=least, most=part.metadata.get("most", 1 << 40))
            elif part.type == "float":
                checked[part.name] = inner.number(part.name, least=least, most=part.metadata.get("most", 1e12))
            elif part.type == "bool":
                checked[part.name] = inner.flag(part.name)
            else:
                checked[part.name] = inner.text(part.name, one_of=one_of[part.name])
        inner.end()
        return cls(**checked)


def _from_zero(most: int = 1 << 40) -> Any:
    return field(metadata={"least": 0, "most": most})


def _at_most(most: int) -> Any:
    return field(metadata={"most": most})


@dataclass(frozen=True, slots=True)
class Organisation(Part):
    """How many channels, DIMMs and ranks there are."""

    channels: int = _at_most(256)
    dimms: int = _at_most(64)  # a channel
    ranks: int = _at_most(64)  # a DIMM

    @property
    def all_dimms(self) -> int:
        """DIMMs of all channels."""
        return self.channels * self.dimms

    @property
    def all_ranks(self) -> int:
        """Ranks of all DIMMs."""
        return self.all_dimms * self.ranks


@dataclass(frozen=True, slots=True)
class Vectors(Part):
    """Vectors, and how they lie in the ranks."""

    dim: int
    element_bytes: int
    placement: str
    bank_groups: int
    page: str
    refresh: bool

    @property
    def bytes(self) -> int:
        """Bytes of a vector."""
        return self.dim * self.element_bytes


@dataclass(frozen=True, slots=True)
class Graph(Part):
    """The graph that is searched."""

    neighbours: int
    id_bytes: int
    ef: int
    k: int


@dataclass(frozen=True, slots=True)
class RankModule(Part):
    """RPM: the unit beside a rank, and its vertex cache."""

    clock_mhz: float
    mac_lanes: int
    queue: int
    fetch_ahead: int = _at_most(1024)
    pipeline_cycles: int = _from_zero()
    cache_bytes: int = _from_zero()
    local_share: float = _from_zero(most=1)
    lookup_cycles: int = _from_zero()


@dataclass(frozen=True, slots=True)
class DimmModule(Part):
    """DPM: what dispatches a DIMM's instructions and gathers its distances."""

    distance_buffer_bytes: int
    result_bytes: int
    dispatch_cycles: int = _from_zero()


@dataclass(frozen=True, slots=True)
class Channel(Part):
    """How instructions cross a channel."""

    compression: bool
    two_phase: bool
    instruction_bits: int
    command_bits: int


@dataclass(frozen=True, slots=True)
class TopModule(Part):
    """TPM: the lanes that filter and sort."""

    clock_mhz: float
    comparators: int
    queries_a_lane: int
    visited_bytes: int
    visited_lookups: int
    neighbour_buffer_bytes: int
    lanes: int = _at_most(1 << 16)

    @property
    def in_flight(self) -> int:
        """Queries that are searched at once."""
        return self.lanes * self.queries_a_lane


@dataclass(frozen=True, slots=True)
class Link(Part):
    """The link to the host."""

    gbps: float = field(metadata={"least": 1e-3})
    latency_ns: float = _from_zero()


@dataclass(frozen=True, slots=True)
class Workload(Part):
    """How queries are sent."""

    batch: int
    admission: str


@dataclass(frozen=True, slots=True)
class DimmDevice:
    """An AccelDIMM, loaded by name. `sourced` says where each value comes from, those of its standard and energies
    included.
    """

    name: str
    standard: Standard
    organisation: Organisation
    vectors: Vectors
    graph: Graph
    rpm: RankModule
    dpm: DimmModule
    channel: Channel
    tpm: TopModule
    link: Link
    workload: Workload
    energy: EnergyTable
    memory_energy: EnergyTable
    sourced: tuple[Sourced, ...] = field(default=(), compare=False)

    @classmethod
    def load(cls, name: str = DEFAULT, changes: Mapping[str, Any] | None = None) -> DimmDevice:
        """The device of that name, or of a YAML file; `changes` by dotted name, as `rpm.cache_bytes`.

        Changes of the files that it names begin with `standard`, `energy` or `memory_energy`, as
        `standard.timing.tRCD`. FieldError says which field is wrong, WorkloadError what does not fit together.
        """
        own, inner = fields.split(changes, "standard", "energy", "memory_energy")
        values = fields.load(FOLDER, name, own)
        values.text("kind", one_of=(KIND,))
        standard = Standard.load(values.text("standard"), inner["standard"])
        energy = EnergyTable.load(values.text("energy"), inner["energy"])
        memory = EnergyTable.load(standard.energy, inner["memory_energy"])
        device = cls(
            name=values.text("name"),
            standard=standard,
            organisation=Organisation.of(values, "organisation"),
            vectors=Vectors.of(values, "vectors", placement=PLACEMENTS, page=("open", "closed")),
            graph=Graph.of(values, "graph"),
            rpm=RankModule.of(values, "rpm"),
            dpm=DimmModule.of(values, "dpm"),
            channel=Channel.of(values, "channel"),
            tpm=TopModule.of(values, "tpm"),
            link=Link.of(values, "link"),
            workload=Workload.of(values, "workload", admission=("batch", "continuous")),
            energy=energy,
            memory_energy=memory,
            sourced=(*values.sourced, *standard.sourced, *energy.sourced, *memory.sourced),
        )
        values.end()
        device._check(values.where)
        return device

    def _check(self, where: str) -> None:
        memory = self.standard.organisation
        if self.vectors.bytes > memory.row_bytes:
            raise WorkloadError(
                f"a vector of {self.vectors.dim} elements of {self.vectors.element_bytes} bytes is wider than a row of "
                f"{self.standard.name} ({self.vectors.bytes} > {memory.row_bytes} bytes); use fewer or smaller elements"
            )
        if memory.bank_groups % self.vectors.bank_groups:
            raise FieldError(
                f"{where}: vectors.bank_groups must divide the {memory.bank_groups} bank groups of "
                f"{self.standard.name}, not be {self.vectors.bank_groups}"
            )
        if 3 * self.graph.neighbours * self.graph.id_bytes > memory.row_bytes:
            raise WorkloadError(
                f"the lists of a vertex, {3 * self.graph.neighbours} ids of {self.graph.id_bytes} bytes, are wider "
                f"than a row of {self.standard.name} ({memory.row_bytes} bytes); use fewer neighbours"
            )
        if self.dpm.result_bytes > memory.burst_bytes:
            raise FieldError(f"{where}: dpm.result_bytes must be {memory.burst_bytes}, a burst, at most")

    # in the memory's cycles and its bursts

    @property
    def stripes(self) -> int:
        """Banks over which a vector is spread: not more than it has bursts."""
        stripes = self.vectors.bank_groups
        while stripes > self.vector_bursts:
            stripes //= 2
        return stripes

    def bursts(self, size: int) -> int:
        """Bursts that carry this many bytes."""
        return -(-size // self.standard.organisation.burst_bytes)

    @property
    def vector_bursts(self) -> int:
        """Bursts of a vector."""
        return self.bursts(self.vectors.bytes)

    @property
    def instruction_cycles(self) -> int:
        """Cycles of the bus for a vector's instruction. Uncompressed, each DRAM command is sent, one a cycle."""
        if not self.channel.compression:
            return self.vector_bursts + 2 * self.stripes
        data_bits = 8 * self.standard.organisation.burst_bytes // self.standard.timing.tBL
        pins = self.channel.command_bits + (data_bits if self.channel.two_phase else 0)
        return -(-self.channel.instruction_bits // pins)

    @property
    def instructions_on_data_pins(self) -> bool:
        """Whether instructions cross the data pins, too, and not the command pins alone."""
        return self.channel.compression and self.channel.two_phase

    @property
    def instruction_bits(self) -> int:
        """Bits that cross the channel for the instruction of a vector."""
        if self.channel.compression:
            return self.channel.instruction_bits
        return self.instruction_cycles * self.channel.command_bits

    # in picoseconds

    @property
    def tck_ps(self) -> int:
        """Picoseconds of a cycle of the memory."""
        return round(self.standard.tck_ns * 1000)

    @property
    def rpm_ps(self) -> int:
        """Picoseconds of a cycle of the RPM."""
        return round(1e6 / self.rpm.clock_mhz)

    @property
    def tpm_ps(self) -> int:
        """Picoseconds of a cycle of the TPM."""
        return round(1e6 / self.tpm.clock_mhz)

    @property
    def compute_ps(self) -> int:
        """Picoseconds of a vector in the unit: every lane multiplies and adds one element a cycle."""
        return -(-self.vectors.dim // self.rpm.mac_lanes) * self.rpm_ps

    @property
    def cached_vectors(self) -> tuple[int, int]:
        """Vectors that a rank's cache holds in its local and in its global part."""
        whole = self.rpm.cache_bytes // self.vectors.bytes
        local = int(whole * self.rpm.local_share)
        return local, whole - local
