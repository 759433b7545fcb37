"""Sweep: what is simulated, at which points, read from YAML or made in Python; equal sweeps have equal points."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pimsim.errors import FieldError, PimsimError
from pimsim.fields import Fields, parsed
from pimsim.result import version
from pimsim.sweep.axis import Axis
from pimsim.sweep.sampling import MOST_POINTS, SAMPLES, grid
from pimsim.sweep.target import Target, target

GRID, LISTED = "grid", "list"
KNOWN = ("target", "base", "axes", "sample", "points", "seed")
CODE = (".py", ".yaml", ".csv")


@dataclass(frozen=True)
class Sweep:
    """The points of a target's fields: `base` stays, the axes vary. Made by `Sweep.of`, which checks it.

    `sample` is grid, random, latin-hypercube, or list, whose points are `listed`.
    """

    target: str
    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    sample: str = GRID
    count: int = 0  # points of a random sample
    seed: int = 0
    listed: tuple[tuple[Any, ...], ...] = field(default=(), repr=False)  # values of the axes, point by point
    where: str = field(default="sweep", compare=False)  # for messages

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """The sweep that a YAML file describes. FieldError names the file, the field, and what to do."""
        try:
            values = parsed(Path(path).read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise FieldError(f"cannot read {path}: {error}") from error
        if not isinstance(values, Mapping):
            raise FieldError(f"{path}: a sweep is a mapping of fields: target, base, axes, sample, points, seed")
        for name in values:
            if name not in KNOWN:
                raise FieldError(f"{path}: unknown field {name}; there are {', '.join(KNOWN)}")
        fields = Fields(values, str(path), {})
        return cls.of(
            fields.text("target"),
            base=values.get("base") or {},
            axes=values.get("axes") or {},
            sample=fields.text("sample", GRID),
            points=values.get("points", 0),
            seed=fields.integer("seed", 0, most=(1 << 63) - 1),
            where=str(path),
        )

    @classmethod
    def of(
        cls,
        target: str,
        *,
        base: Mapping[str, Any] | None = None,
        axes: Mapping[str, Any] | None = None,
        sample: str = GRID,
        points: int | Sequence[Mapping[str, Any]] = 0,
        seed: int = 0,
        where: str = "sweep",
    ) -> Sweep:
        """A checked sweep: its fields exist, ranges make sense, and at least one point can be prepared. FieldError
        otherwise.

        `axes` are lists or ranges as YAML has them, by the field's dotted name. `points` is the number of points of a
        random sample, or, for the sample list, the points themselves, which all name the same fields.
        """
        plain = dict(_flat(base or {}, where, "base"))
        listed: tuple[tuple[Any, ...], ...] = ()
        if sample == LISTED:
            if axes:
                raise FieldError(f"{where}: axes: the sample {LISTED} has its values in points, not on axes")
            given, listed = _listed(points, where)
            count = 0
        else:
            given = tuple(Axis.of(str(name), values, where) for name, values in _mapping(axes, where, "axes").items())
            count = _count(points, sample, where)
        if not given:
            raise FieldError(f"{where}: {'points' if sample == LISTED else 'axes'}: there is no field to vary")
        for axis in given:
            if axis.name in plain:
                raise FieldError(f"{where}: {axis.name} is in base and on an axis: remove one of them")
        sweep = cls(target, plain, given, sample, count, seed, listed, where)
        sweep._check()
        return sweep

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes, in their order."""
        return tuple(axis.name for axis in self.axes)

    @property
    def simulator(self) -> Target:
        """The target that simulates the points."""
        return target(self.target)

    def points(self) -> list[tuple[Any, ...]]:
        """The axes' values at each point, in the order of the results."""
        if self.sample == LISTED:
            return list(self.listed)
        if self.sample == GRID:
            return grid(self.axes, self.where)
        return SAMPLES[self.sample](self.axes, self.count, self.seed)

    def baseline(self) -> dict[str, Any]:
        """All fields, with each axis at its middle value, which is one of its own where it lists them."""
        return {**self.base, **{axis.name: axis.value_at(0.5) for axis in self.axes}}

    def as_dict(self) -> dict[str, Any]:
        """The sweep as plain values, as its YAML file has it."""
        fields: dict[str, Any] = {"target": self.target, "base": dict(self.base), "sample": self.sample}
        if self.sample == LISTED:
            return {**fields, "points": [dict(zip(self.names, values, strict=True)) for values in self.listed]}
        axes = {axis.name: axis.as_dict() for axis in self.axes}
        return {**fields, "points": self.count, "seed": self.seed, "axes": axes}

    def identity(self) -> dict[str, Any]:
        """All that the results depend on: the sweep, the release, its code, and the content of the files that it
        names.
        """
        return {**self.as_dict(), "release": version(), "code": _code(self.target), "files": self._files()}

    def _files(self) -> dict[str, str]:
        digests = {}
        for name in self.simulator.files:
            values: Iterable[Any] = [self.base[name]] if name in self.base else []
            for axis in self.axes:
                values = axis.values if axis.name == name else values
            for value in values:
                if isinstance(value, str) and Path(value).is_file():
                    digests[value] = hashlib.sha256(Path(value).read_bytes()).hexdigest()[:16]
        return digests

    def _check(self) -> None:
        """FieldError if no point can be prepared: then a field is wrong, and not the values of some points."""
        prepare, first = self.simulator.prepare, None
        for values in self._tries():
            try:
                prepare({**self.base, **values})
                return
            except PimsimError as error:
                first = first or error
        raise FieldError(f"{self.where}: no point can be simulated: {first}") from first

    def _tries(self) -> Iterator[dict[str, Any]]:
        """The first values, the others of each axis in turn, the last ones: each point names every axis."""
        if self.sample == LISTED:
            yield from (dict(zip(self.names, values, strict=True)) for values in self.listed[:100])
            return
        first = {axis.name: axis.ends()[0] for axis in self.axes}
        yield first
        for axis in self.axes:
            for value in axis.ends()[1:]:
                yield {**first, axis.name: value}
        yield {axis.name: axis.ends()[-1] for axis in self.axes}


def _mapping(value: Any, where: str, name: str) -> Mapping[Any, Any]:
    if not isinstance(value or {}, Mapping):
        raise FieldError(f"{where}: {name} must be a mapping of fields, not {value!r}")
    return value or {}


def _flat(values: Any, where: str, name: str) -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted names."""
    for key, value in _mapping(values, where, name).items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", plain) for inner, plain in _flat(value, where, f"{name}.{key}"))
        elif isinstance(value, bool | int | float | str):
            yield str(key), value
        else:
            raise FieldError(f"{where}: {name}.{key} must be a number, a text, true or false, not {value!r}")


def _count(points: Any, sample: str, where: str) -> int:
    if sample not in (GRID, *SAMPLES):
        raise FieldError(f"{where}: sample must be one of {', '.join((GRID, *SAMPLES, LISTED))}, not {sample!r}")
    if sample == GRID:
        if points:
            raise FieldError(f"{where}: points: a grid has the points of its axes; remove it, or sample otherwise")
        return 0
    if isinstance(points, bool) or not isinstance(points, int) or not 1 <= points <= MOST_POINTS:
        raise FieldError(f"{where}: points must be a whole number from 1 to {MOST_POINTS}, not {points!r}")
    return points


def _listed(points: Any, where: str) -> tuple[tuple[Axis, ...], tuple[tuple[Any, ...], ...]]:
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        raise FieldError(f"{where}: points must be a list of mappings for the sample {LISTED}, not {points!r}")
    flat = [dict(_flat(point, where, f"points[{row}]")) for row, point in enumerate(points)]
    names = tuple(flat[0])
    for row, point in enumerate(flat):
        if set(point) != set(names):
            other = sorted(set(point) ^ set(names))[0]
            raise FieldError(f"{where}: points[{row}]: all points name the same fields, {other} is not in all of them")
    values = tuple(tuple(point[name] for name in names) for point in flat)
    distinct = [tuple(dict.fromkeys(point[row] for point in values)) for row in range(len(names))]
    return tuple(Axis(name, own) for name, own in zip(names, distinct, strict=True)), values


@lru_cache(maxsize=8)
def _code(name: str) -> str:
    """A checksum of all sources and data of pimsim, and of the module of a target that is not pimsim's own."""
    package = Path(__file__).parents[1]
    files = [file for file in package.rglob("*") if file.suffix in CODE]
    module = name.partition(":")[0]
    spec = importlib.util.find_spec(module) if ":" in name else None
    if spec is not None and spec.origin is not None:
        files.append(Path(spec.origin))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
