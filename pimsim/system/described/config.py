"""SystemConfig: a whole system and its workload as data, checked, from systems/*.yaml or a user's file.

A file that has a `base` is that file with its `changes`, by dotted name. Fields of the two devices are changed under
`dimm` and `hbm`, as `dimm.rpm.cache_bytes` and `hbm.stacks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pimsim import fields
from pimsim.dimm_pim.device import DimmDevice
from pimsim.errors import FieldError, WorkloadError
from pimsim.fields import Fields, Sourced
from pimsim.hbm_pim.device import Device as HbmDevice
from pimsim.result import configuration_hash
from pimsim.system.described.model_shape import ModelShape

FOLDER = "systems"
RETRIEVAL_ENGINES = ("acceldimm", "cpu", "hbm", "upmem")
GENERATION_ENGINES = ("accelhbm", "gpu")
PARALLEL = ("tensor", "pipeline")
CONTEXTS = ("changed", "all")
DEEPEST_BASE = 8  # files that are based on each other
# which fields a part's are assumed of, where another part does not use it
USED_BY = {"cpu": ("retrieval", "cpu"), "upmem": ("retrieval", "upmem"), "gpu": ("generation", "gpu")}


def _one_of(*names: str) -> Any:
    """A field that is a text; one of `names`, if there are any."""
    return field(metadata={"one_of": names})


def _limits(least: float = 0, most: float = 1e15) -> Any:
    """A field that is a number from `least` to `most`."""
    return field(metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True)
class Optimisations:
    """HeterRAG's switches."""

    r: bool
    g: bool
    p: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests; systems/heterrag.yaml says what each field is."""

    requests: int = _limits(1, 1_000_000)
    batch: int = _limits(1, 1024)
    retrieve_every: int = _limits()
    documents: int = _limits(1, 100)
    document_tokens: int = _limits(1, 100_000)
    question_tokens: int = _limits(1, 1_000_000)
    output_tokens: int = _limits(1, 1_000_000)
    length_spread: float = _limits(0, 3)
    document_life_tokens: int = _limits(1)
    context: str = _one_of(*CONTEXTS)
    popular_documents: int = _limits(1, 100_000_000)
    popularity_offset: float = _limits()
    popularity_exponent: float = _limits(0, 10)
    rate_rps: float = _limits()
    warm_requests: int = _limits(0, 1_000_000)
    seed: int = _limits()
    documents_file: str = _one_of()
    lengths_file: str = _one_of()
    traversal_file: str = _one_of()


@dataclass(frozen=True, slots=True)
class Search:
    """The distribution that searches are drawn from; systems/heterrag.yaml says what each field is."""

    vertices: int = _limits(1000)
    hops: int = _limits(1, 100_000)
    hops_spread: float = _limits(0, 3)
    vectors_a_hop: int = _limits(1, 1000)
    approach: float = _limits(0, 1)
    found_by: float = _limits(0, 1)
    effort: float = _limits(1e-6, 1e9)
    sampled: int = _limits(1, 1024)


@dataclass(frozen=True, slots=True)
class Host:
    """The host's times and power."""

    query_us: float = _limits()
    merge_ns: float = _limits()
    active_w: float = _limits()
    idle_w: float = _limits()


@dataclass(frozen=True, slots=True)
class Link:
    """The links between the host and the devices."""

    gbps: float = _limits(1e-3)
    latency_ns: float = _limits()


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The devices that search."""

    engine: str = _one_of(*RETRIEVAL_ENGINES)
    device: str = _one_of()
    devices: int = _limits(1, 4096)
    plain_ranks: int = _limits(1, 1 << 20)
    interval_hops: int = _limits(1, 1_000_000)
    tail_from: float = _limits(0, 1)
    newest_share: float = _limits(0, 0.99)


@dataclass(frozen=True, slots=True)
class Generation:
    """The devices that generate."""

    engine: str = _one_of(*GENERATION_ENGINES)
    device: str = _one_of()
    devices: int = _limits(1, 4096)
    parallel: str = _one_of(*PARALLEL)
    external_share: float = _limits(1e-3, 1)
    cache_share: float = _limits(0, 0.99)
    important_tokens: float = _limits(0, 1)
    mac_pj: float = _limits()
    reduce_latencies: int = _limits()


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU that searches."""

    cores: int = _limits(1)
    peak_gbps: float = _limits(1e-3)
    random_share: float = _limits(1e-3, 1)
    fill_buffers: int = _limits(1)
    latency_ns: float = _limits(1)
    watts: float = _limits()


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU that generates."""

    name: str = _one_of()
    memory_gb: float = _limits(1e-3)
    peak_gbps: float = _limits(1e-3)
    bandwidth_share: float = _limits(1e-3, 1)
    peak_tflops: float = _limits(1e-3)
    compute_share: float = _limits(1e-3, 1)
    host_us_a_layer: float = _limits()
    watts: float = _limits()
    decode_share: float = _limits(0, 1)
    idle_w: float = _limits()
    area_mm2: float = _limits()
    price_usd: float = _limits()


@dataclass(frozen=True, slots=True)
class Upmem:
    """UPMEM's DPUs, which search."""

    dpus: int = _limits(1)
    add_mops: float = _limits(1e-6)
    multiply_mops: float = _limits(1e-6)
    transfer_gbps: float = _limits(1e-6)
    launch_us: float = _limits()
    watts: float = _limits()


@dataclass(frozen=True, slots=True)
class Price:
    """What a system's parts cost."""

    hbm_usd_a_gb: float = _limits()
    dimm_usd_a_gb: float = _limits()
    logic_usd_a_mm2: float = _limits()
    host_usd: float = _limits()


@dataclass(frozen=True, slots=True)
class Area:
    """Area of the logic that is added to memory."""

    dimm_module_mm2: float = _limits()
    stack_module_mm2: float = _limits()


@dataclass(frozen=True, slots=True)
class SystemConfig:
    """A system and its workload, loaded by name. Two that are equal give equal results."""

    name: str
    model: ModelShape
    optimisations: Optimisations
    workload: Workload
    search: Search
    host: Host
    link: Link
    retrieval: Retrieval
    generation: Generation
    cpu: Cpu
    gpu: Gpu
    upmem: Upmem
    price: Price
    area: Area
    dimm: DimmDevice
    hbm: HbmDevice
    sourced: tuple[Sourced, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def load(cls, name: str, changes: Mapping[str, Any] | None = None) -> SystemConfig:
        """The system of that name, or of a YAML file; `changes` by dotted name, or nested.

        FieldError says which field is wrong, WorkloadError what does not fit together.
        """
        values, devices = _values(name, fields.nested(changes or {}))
        return _read(values, devices)

    @property
    def configuration(self) -> str:
        """Hash of all fields, the devices' included."""
        parts = {part.name: getattr(self, part.name) for part in dataclasses.fields(self) if part.name != "sourced"}
        return configuration_hash({**parts, "hbm": self.hbm.configuration})


def _values(name: str, changes: dict[str, Any], depth: int = 0) -> tuple[Fields, dict[str, dict[str, Any]]]:
    """The fields of a file on its base, and the changes of each device by dotted name."""
    if depth > DEEPEST_BASE:
        raise FieldError(f"systems: {name} is based on itself")
    own = fields.load(FOLDER, name)
    if "base" in own:
        base, title = own.text("base"), own.text("name")
        merged = fields.nested(own.mapping("changes"))
        own.end()
        return _values(base, {"name": title, **merged, **changes}, depth + 1)
    devices: dict[str, dict[str, Any]] = {"dimm": {}, "hbm": {}}
    others = {}
    for dotted, value in changes.items():
        head, dot, tail = dotted.partition(".")
        if dot and head in devices:
            devices[head][tail] = value
        else:
            others[dotted] = value
    values = fields.load(FOLDER, name, others)
    return values, {head: {**values.mapping(head), **own_changes} for head, own_changes in devices.items()}


def _read(values: Fields, devices: Mapping[str, dict[str, Any]]) -> SystemConfig:
    title, model = values.text("name"), ModelShape.load(values.text("model"))
    parts: dict[str, Any] = {}
    for part, kind in PARTS.items():
        inner = values.inner(part)
        parts[part] = kind(**{entry.name: _value(inner, entry) for entry in dataclasses.fields(kind)})
        inner.end()
    dimm = DimmDevice.load(parts["retrieval"].device, devices["dimm"])
    hbm = HbmDevice.load(parts["generation"].device, devices["hbm"])
    values.end()
    unused = {part for part, (by, engine) in USED_BY.items() if parts[by].engine != engine}
    sourced = [value for value in values.sourced if value.name.partition(".")[0] not in unused]
    if parts["retrieval"].engine == "acceldimm":
        files = {"standard": dimm.standard.sourced, "energy": dimm.energy.sourced}
        files["memory_energy"] = dimm.memory_energy.sourced
        sourced += [_under("dimm", value, files) for value in dimm.sourced]
    if parts["generation"].engine == "accelhbm":
        files = {"standard": hbm.standard.sourced, "energy": hbm.table.sourced}
        sourced += [_under("hbm", value, files) for value in hbm.sourced]
    config = SystemConfig(name=title, model=model, dimm=dimm, hbm=hbm, sourced=tuple(sourced), **parts)
    _fits(config)
    return config


def _fits(config: SystemConfig) -> None:
    """WorkloadError for retrievals that find more than there is."""
    workload, devices, results = config.workload, config.retrieval.devices, config.dimm.graph.k
    if not workload.documents_file and workload.documents > workload.popular_documents:
        raise WorkloadError(
            f"a retrieval takes {workload.documents} documents (workload.documents) of {workload.popular_documents}"
            " that there are (workload.popular_documents): take fewer"
        )
    if not workload.documents_file and workload.documents > devices * results:
        raise WorkloadError(
            f"a retrieval takes {workload.documents} documents (workload.documents) of the {devices * results} that"
            f" {devices} devices of {results} results give (dimm.graph.k): take fewer, or more results"
        )
    shard = config.search.vertices // devices
    if not workload.traversal_file and shard < results:
        raise WorkloadError(
            f"{devices} devices (retrieval.devices) have a shard of {shard} vertices each (search.vertices), fewer than"
            f" the {results} results of a search (dimm.graph.k): take fewer devices, or more vertices"
        )


PARTS: dict[str, type] = {
    "optimisations": Optimisations,
    "workload": Workload,
    "search": Search,
    "host": Host,
    "link": Link,
    "retrieval": Retrieval,
    "generation": Generation,
    "cpu": Cpu,
    "gpu": Gpu,
    "upmem": Upmem,
    "price": Price,
    "area": Area,
}


def _value(values: Fields, entry: dataclasses.Field[Any]) -> Any:
    limits = entry.metadata
    if entry.type == "bool":
        return values.flag(entry.name)
    if entry.type == "int":
        return values.integer(entry.name, least=int(limits["least"]), most=int(limits["most"]))
    if entry.type == "float":
        return values.number(entry.name, least=limits["least"], most=limits["most"])
    return values.text(entry.name, one_of=limits.get("one_of", ()))


def _under(device: str, value: Sourced, inner: Mapping[str, Iterable[Sourced]]) -> Sourced:
    """A device's value under the name by which the system changes it: with the device, and the file that names it, in
    front.
    """
    part = next((f"{part}." for part, values in inner.items() if any(value is other for other in values)), "")
    return Sourced(f"{device}.{part}{value.name}", value.value, value.source)
