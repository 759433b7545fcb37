"""Target: what a sweep simulates at each point: one of pimsim's simulators, or any function of a point's fields."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pimsim.dimm_pim.device import DEFAULT, DimmDevice
from pimsim.dimm_pim.search import simulate_search
from pimsim.dimm_pim.traversal import Traversal
from pimsim.dram.controller import Controller, simulate
from pimsim.dram.mapping import AddressMapping
from pimsim.dram.trace import Trace
from pimsim.energy import EnergyTable
from pimsim.errors import FieldError
from pimsim.fields import Sourced, split
from pimsim.hbm_pim.attention import Attention, attention
from pimsim.hbm_pim.device import Device as HbmPim
from pimsim.standard import Standard
from pimsim.system.described.config import SystemConfig
from pimsim.system.run.simulation import run as run_system

Values = Mapping[str, Any]  # a point's fields by dotted name
DEVICES = ("dimm.", "hbm.")
SYSTEM_FILES = ("config", "model", "workload.documents_file", "workload.lengths_file", "workload.traversal_file")
Simulate = Callable[[], Mapping[str, Any]]


def _nothing(values: Values) -> Iterable[tuple[str, Any]]:  # noqa: ARG001
    return ()


@dataclass(frozen=True, slots=True)
class Target:
    """`prepare` checks a point's fields and returns what simulates it, which returns the result as the commands' JSON
    has it.

    `prepare` raises PimsimError for fields that are unknown, missing or wrong, and so does what it returns for a point
    that cannot be simulated. `files` are the fields that may name a file; `metric` is the figure that is examined
    unless another is named. `assumed` gives the names and values of the fields that have no source outside this
    project.
    """

    name: str
    prepare: Callable[[Values], Simulate]
    metric: str
    files: tuple[str, ...] = ()
    assumed: Callable[[Values], Iterable[tuple[str, Any]]] = _nothing


class _Point:
    """The fields of a point; a field that is never taken is unknown."""

    def __init__(self, values: Values, *parts: str) -> None:
        self.own, self.inner = split(values, *parts)
        self.known: list[str] = [f"{part}.FIELD" for part in parts]

    def take(self, name: str, default: Any = None) -> Any:
        """The field's value, which is removed; FieldError if it is missing and has no default."""
        self.known.append(name)
        if name not in self.own and default is None:
            raise FieldError(f"the field {name} is missing")
        return self.own.pop(name, default)

    def text(self, name: str, default: str | None = None) -> str:
        """Take a text; FieldError if it is missing and has no default."""
        value = self.take(name, default)
        if not isinstance(value, str):
            raise FieldError(f"{name} must be a text, not {value!r}")
        return value

    def settings(self, kind: type, part: str | None = None) -> Any:
        """Make a dataclass of plain values of the fields that remain, or of those of a part."""
        given = self.own if part is None else self.inner[part]
        taken: dict[str, Any] = {}
        for setting in dataclasses.fields(kind):
            name = setting.name if part is None else f"{part}.{setting.name}"
            self.known.append(name)
            if setting.name not in given:
                if setting.default is dataclasses.MISSING:
                    raise FieldError(f"the field {name} is missing")
                continue
            taken[setting.name] = _typed(name, str(setting.type), given.pop(setting.name))
        if part is not None and given:
            raise FieldError(f"unknown field {part}.{next(iter(given))}")
        return kind(**taken)

    def end(self) -> None:
        """FieldError for a field that was never taken."""
        for name in self.own:
            raise FieldError(f"unknown field {name}; there are {', '.join(sorted(self.known))}")


def _typed(name: str, kind: str, value: Any) -> Any:
    wanted = {"int": (int, "a whole number"), "float": (int | float, "a number"), "bool": (bool, "true or false")}
    types, words = wanted.get(kind, (str, "a text"))
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
        raise FieldError(f"{name} must be {words}, not {value!r}")
    return value


def _attention(values: Values) -> Simulate:
    point = _Point(values, "device")
    device = HbmPim.load(point.text("device", "hbm3-attacc"), point.inner["device"])
    layer = point.settings(Attention)
    point.end()
    return lambda: attention(device, layer).as_dict()


def _search(values: Values) -> Simulate:
    traversal, device = _searched(values)
    return lambda: simulate_search(traversal, device).as_dict()


def _searched(values: Values) -> tuple[Traversal, DimmDevice]:
    """As `pimsim search` has it: what the recording says holds unless the point says otherwise."""
    point = _Point(values, "device")
    path, vertices = point.text("traversal"), point.take("vertices", 0)
    traversal = _traversal(path, _changed(path), vertices)
    queries = point.take("queries", len(traversal.queries))
    if isinstance(queries, bool) or not isinstance(queries, int) or queries < 1:
        raise FieldError(f"queries must be 1 or more, not {queries!r}")
    said = {"vectors.dim": traversal.dim, "graph.neighbours": traversal.neighbours}
    changes = {name: value for name, value in said.items() if value is not None} | point.inner["device"]
    device = DimmDevice.load(point.text("device", DEFAULT), changes)
    point.end()
    return traversal.first(queries), device


def _dram(values: Values) -> Simulate:
    point = _Point(values, "standard", "controller", "energy")
    standard = Standard.load(point.text("standard"), point.inner["standard"])
    mapping = AddressMapping.load(point.text("mapping", "row-bank-column"))
    energy = EnergyTable.load(point.text("energy", standard.energy), point.inner["energy"])
    trace = point.text("trace")
    controller = point.settings(Controller, "controller")
    point.end()
    return lambda: simulate(
        Trace.read(trace, standard.organisation, mapping), standard, controller, energy=energy
    ).as_dict()


def _changed(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0  # reading it says what is wrong


@lru_cache(maxsize=4)
def _traversal(path: str, changed: int, shard: int) -> Traversal:  # noqa: ARG001, the file's age is part of the key
    return Traversal.read(Path(path), shard or None)


def _system(values: Values) -> Simulate:
    config = _configured(values)
    return lambda: run_system(config).as_dict()


def _configured(values: Values) -> SystemConfig:
    changes = dict(values)
    name = changes.pop("config", "heterrag")
    if not isinstance(name, str):
        raise FieldError(f"config must be a text, not {name!r}")
    return SystemConfig.load(name, changes)


def _assumed_of_attention(values: Values) -> Iterable[tuple[str, Any]]:
    point = _Point(values, "device")
    return _of_hbm("device", HbmPim.load(point.text("device", "hbm3-attacc"), point.inner["device"]))


def _assumed_of_search(values: Values) -> Iterable[tuple[str, Any]]:
    return _of_dimm("device", _searched(values)[1])


def _of_dimm(under: str, device: DimmDevice) -> Iterable[tuple[str, Any]]:
    inner = {"standard": device.standard.sourced, "energy": device.energy.sourced}
    return _named(under, device.sourced, inner | {"memory_energy": device.memory_energy.sourced})


def _of_hbm(under: str, device: HbmPim) -> Iterable[tuple[str, Any]]:
    return _named(under, device.sourced, {"standard": device.standard.sourced, "energy": device.table.sourced})


def _assumed_of_system(values: Values) -> Iterable[tuple[str, Any]]:
    config = _configured(values)
    parts = {value.name.partition(".")[0] for value in config.sourced}  # a device that is not there assumes nothing
    for value in config.sourced:
        if value.source.assumed and not value.name.startswith(DEVICES):
            yield value.name, value.value
    if "dimm" in parts:
        yield from _of_dimm("dimm", config.dimm)
    if "hbm" in parts:
        yield from _of_hbm("hbm", config.hbm)


def _named(under: str, sourced: Iterable[Sourced], inner: Mapping[str, Iterable[Sourced]]) -> Iterable[tuple[str, Any]]:
    """Assumed fields of a device by the names that change them; `inner` are those of the files that it names."""
    part_of = {id(value): part for part, values in inner.items() for value in values}
    for value in sourced:
        if value.source.assumed:
            part = part_of.get(id(value))
            name, plain = (value.name, value.value) if part in (None, "standard") else _term(value)
            yield f"{under}.{part}.{name}" if part else f"{under}.{name}", plain


def _term(value: Sourced) -> tuple[str, Any]:
    """Name and number of a term of an energy table, whose value is a text of number and unit."""
    return f"{value.name}.value", float(str(value.value).partition(" ")[0])


def _assumed_of_dram(values: Values) -> Iterable[tuple[str, Any]]:
    point = _Point(values, "standard", "controller", "energy")
    standard = Standard.load(point.text("standard"), point.inner["standard"])
    energy = EnergyTable.load(point.text("energy", standard.energy), point.inner["energy"])
    for value in (*standard.sourced, *energy.sourced):
        if value.source.assumed:
            term = value.name.startswith("terms.")
            name, plain = _term(value) if term else (value.name, value.value)
            yield f"{'energy' if term else 'standard'}.{name}", plain
    controller = point.settings(Controller, "controller")
    yield from ((value.name, value.value) for value in controller.sourced)


# the word that a sweep's `target` says
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("attention", _attention, "time_us", ("device",), _assumed_of_attention),
        Target("search", _search, "queries_per_second", ("device", "traversal"), _assumed_of_search),
        Target("system", _system, "throughput_rps", SYSTEM_FILES, _assumed_of_system),
        Target("dram", _dram, "time_ns", ("standard", "trace", "mapping", "energy"), _assumed_of_dram),
    )
}


def target(name: str) -> Target:
    """The target of that name in TARGETS, or `module:function`, a function from a point's fields to its result.

    FieldError for a name that is neither.
    """
    if name in TARGETS:
        return TARGETS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise FieldError(f"unknown target {name!r}: there are {', '.join(TARGETS)}, or module:function")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise FieldError(f"the target {name!r} cannot be imported: {error}") from error
    if not callable(function):
        raise FieldError(f"the target {name!r} is not a function")
    return Target(name, lambda values: lambda: function(dict(values)), "")
