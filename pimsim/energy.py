"""Energy: tables of what commands and bits cost, each term with its unit and source, and their sums in nJ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pimsim import fields
from pimsim.errors import FieldError
from pimsim.fields import Sourced

FOLDER = "energies"
# nJ in one of them; "per bit" and "per 64 bit" are multiplied by the bits that moved
UNITS = {"pJ": 1e-3, "nJ": 1.0, "pJ/bit": 1e-3, "pJ/64bit": 1e-3 / 64, "W": 1.0, "ratio": 1.0}


@dataclass(frozen=True, slots=True)
class Term:
    """One entry of a table: a value, its unit and its source."""

    name: str
    value: float
    unit: str

    def nj(self, amount: float) -> float:
        """nJ of `amount` events (pJ, nJ), bits (pJ/bit, pJ/64bit) or ns (W: 1 W is 1 nJ/ns)."""
        return self.value * UNITS[self.unit] * amount


@dataclass(frozen=True, slots=True)
class EnergyTable:
    """A table and its `terms`, each by its name."""

    name: str
    terms: Mapping[str, Term]
    sourced: tuple[Sourced, ...]

    @classmethod
    def load(cls, name: str, changes: Mapping[str, Any] | None = None) -> EnergyTable:
        """The table of that name, or of a YAML file. FieldError says which field is wrong."""
        values = fields.load(FOLDER, name, changes)
        terms = values.inner("terms")
        checked = {}
        for key in terms.left():
            term = terms.inner(key)
            checked[key] = Term(key, term.number("value"), term.text("unit", one_of=UNITS))
            term.sourced.append(
                Sourced(f"terms.{key}", f"{checked[key].value:g} {checked[key].unit}", term.source("source"))
            )
            term.end()
        table = cls(values.text("name"), checked, tuple(values.sourced))
        values.end()
        return table

    def __getitem__(self, name: str) -> Term:
        """The term of that name. FieldError if the table has none."""
        if name not in self.terms:
            raise FieldError(f"energies/{self.name}: no term {name!r}; there are {', '.join(self.terms)}")
        return self.terms[name]

    def get(self, name: str) -> Term:
        """The term, or one of 0 nJ where the table leaves it out."""
        return self.terms.get(name, Term(name, 0.0, "nJ"))

    def as_dict(self) -> dict[str, Any]:
        """The table as results print it."""
        return {"name": self.name, **{term.name: f"{term.value:g} {term.unit}" for term in self.terms.values()}}
