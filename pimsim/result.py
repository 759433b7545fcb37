"""Provenance: what every result carries, so that a reader can judge it and repeat it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from pimsim.fields import Sourced

IMPLAUSIBLE = 1.005  # of an analytic bound: more than rounding may explain


def version() -> str:
    """The installed release; pimsim is a part of the distribution ragcache."""
    try:
        return metadata.version("ragcache")
    except metadata.PackageNotFoundError:  # run from a folder of sources
        return "unknown"


def configuration_hash(configuration: Any) -> str:
    """16 hex digits, equal for equal configurations of equal releases: dataclasses, mappings, lists and plain
    values.
    """
    text = json.dumps([version(), _plain(configuration)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


@dataclass(frozen=True, slots=True)
class Bound:
    """An analytic limit of a result, and what the result `achieved`, in the same unit; nothing can be better than
    `limit`.
    """

    name: str
    limit: float
    achieved: float
    unit: str
    lower_is_better: bool = False  # times are bounded from below, rates from above

    @property
    def nearness(self) -> float:
        """How near a result comes to the bound: 1 at it, towards 0 far from it, above 1 only if the result cannot
        be.
        """
        if not self.limit or not self.achieved:
            return 0.0
        return self.limit / self.achieved if self.lower_is_better else self.achieved / self.limit

    def as_dict(self) -> dict[str, Any]:
        """The bound as the commands' JSON has it."""
        return {
            "name": self.name,
            "limit": self.limit,
            "achieved": self.achieved,
            "unit": self.unit,
            "nearness": self.nearness,
        }


@dataclass(frozen=True, slots=True)
class Provenance:
    """What one result rests on. `clocks_mhz` by name; `assumed` parameters have no source outside this project."""

    configuration: str
    clocks_mhz: Mapping[str, float]
    assumed: Sequence[Sourced]
    bounds: Sequence[Bound]  # the one that holds comes first
    warnings: Sequence[str] = ()
    energy_table: Mapping[str, Any] = field(default_factory=dict)
    release: str = field(default_factory=version)

    @classmethod
    def of(
        cls,
        configuration: Any,
        *,
        clocks_mhz: Mapping[str, float],
        sourced: Iterable[Sourced],
        bounds: Sequence[Bound],
        energy_table: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ) -> Provenance:
        """The provenance of a result: of `sourced`, all parameters used, the assumed ones are kept; a bound that the
        result passes becomes a warning.
        """
        implausible = [
            f"{bound.name}: {bound.achieved:g} {bound.unit} passes the analytic bound of {bound.limit:g}: do not trust"
            " this result"
            for bound in bounds
            if bound.nearness > IMPLAUSIBLE
        ]
        return cls(
            configuration_hash(configuration),
            dict(clocks_mhz),
            [value for value in sourced if value.source.assumed],
            list(bounds),
            [*warnings, *implausible],
            dict(energy_table or {}),
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields as the commands' JSON names them."""
        return {
            "version": self.release,
            "configuration_hash": self.configuration,
            "clocks_mhz": dict(self.clocks_mhz),
            "bounds": [bound.as_dict() for bound in self.bounds],
            "assumed": [value.as_dict() for value in self.assumed],
            "energy_table": dict(self.energy_table),
            "warnings": list(self.warnings),
        }

    def in_words(self) -> str:
        """The provenance as lines for the terminal: bounds, clocks, assumed values, energies, version and warnings."""
        lines = [
            f"  bound: {bound.name} {bound.limit:.6g} {bound.unit}, {bound.nearness:.0%} of it reached"
            for bound in self.bounds
        ]
        clocks = ", ".join(f"{name} {mhz:g} MHz" for name, mhz in self.clocks_mhz.items())
        lines.append(f"  clocks: {clocks}")
        if self.assumed:
            lines.append(f"  assumed: {', '.join(f'{value.name} {value.value}' for value in self.assumed)}")
        if self.energy_table:
            terms = ", ".join(f"{name} {value}" for name, value in self.energy_table.items() if name != "name")
            lines.append(f"  energies of {self.energy_table.get('name', '?')}: {terms}")
        lines.append(f"  pimsim {self.release}, configuration {self.configuration}")
        lines += [f"  WARNING: {warning}" for warning in self.warnings]
        return "\n".join(lines)
