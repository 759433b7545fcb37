"""Axis: one field of a sweep, and the values it takes: a list of them, or a range with its scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pimsim.errors import FieldError
from pimsim.fields import Fields

SCALES = ("linear", "log")
MOST_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Axis:
    """The values of a field in their order, or, without any, a range from `low` to `high`, both included.

    A range has `steps` values at equal distances on its scale, or, with 0 steps, all that lies between, which a grid
    cannot have. `whole`: values are rounded to whole numbers.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    scale: str = "linear"
    steps: int = 0
    whole: bool = False

    @classmethod
    def of(cls, name: str, given: Any, where: str) -> Axis:
        """The axis of a list of plain values, or of `{from, to, steps, scale, whole}`. FieldError names the field.

        A range is of whole numbers if both its ends are, unless `whole` says otherwise.
        """
        axis_name = f"axes.{name}"
        if isinstance(given, list | tuple):
            if not given:
                raise FieldError(f"{where}: {axis_name} has no values: write one at least")
            for value in given:
                if not isinstance(value, bool | int | float | str):
                    raise FieldError(f"{where}: {axis_name}: values are numbers, texts, true or false, not {value!r}")
                if isinstance(value, float) and not math.isfinite(value):
                    raise FieldError(f"{where}: {axis_name}: values are finite, not {value!r}")
            distinct = {(type(value), value) for value in given}
            if len(distinct) < len(given):
                raise FieldError(f"{where}: {axis_name} names a value twice: {list(given)!r}")
            return cls(name, tuple(given))
        if not isinstance(given, Mapping):
            raise FieldError(
                f"{where}: {axis_name} must be a list of values or {{from, to, steps, scale}}, not {given!r}"
            )
        values = Fields(given, where, {}, f"{axis_name}.")
        ends = [given.get("from"), given.get("to")]
        low = values.number("from", least=-math.inf)
        high = values.number("to", least=-math.inf)
        axis = cls(
            name,
            low=low,
            high=high,
            scale=values.text("scale", "linear", SCALES),
            steps=values.integer("steps", 0, most=MOST_STEPS),
            whole=values.flag("whole", all(isinstance(end, int) for end in ends)),
        )
        values.end()
        if high <= low:
            raise FieldError(f"{where}: {axis_name}.to must be above {axis_name}.from, {low:g}, not {high:g}")
        if axis.scale == "log" and low <= 0:
            raise FieldError(f"{where}: {axis_name}.from must be above 0 on a log scale, not {low:g}")
        if axis.steps == 1:
            raise FieldError(f"{where}: {axis_name}.steps must be 2 at least: both ends belong to the range")
        return axis

    @property
    def numeric(self) -> bool:
        """Whether all listed values are numbers, so that less and more mean something."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def grid(self, where: str) -> tuple[Any, ...]:
        """All values, each once. FieldError for a range without steps."""
        if self.values:
            return self.values
        if not self.steps:
            raise FieldError(f"{where}: axes.{self.name}.steps is missing: a grid needs to know how many values")
        return tuple(dict.fromkeys(self._within(step / (self.steps - 1)) for step in range(self.steps)))

    def value_at(self, share: float) -> Any:
        """The value at a share 0 ≤ share < 1 of the axis: equal shares have equal chances."""
        if self.values:
            return self.values[int(share * len(self.values))]
        if self.steps:
            return self._within(int(share * self.steps) / (self.steps - 1))
        return self._within(share)

    def ends(self) -> tuple[Any, ...]:
        """All values of a list, or both ends of a range."""
        return self.values or (self._within(0.0), self._within(1.0))

    def as_dict(self) -> dict[str, Any] | list[Any]:
        """The axis as plain values, as the sweep's YAML file has it."""
        if self.values:
            return list(self.values)
        low, high = self.ends()
        ends = {"from": low, "to": high, "scale": self.scale, "whole": self.whole}
        return ends | ({"steps": self.steps} if self.steps else {})

    def _within(self, share: float) -> Any:
        if share <= 0 or share >= 1:  # the ends are exact
            value = self.low if share <= 0 else self.high
        elif self.scale == "log":
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value
