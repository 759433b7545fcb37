"""Health: which parts of the service work, as their latest successes and failures say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

ENGINE, SEARCH = "engine", "search"  # the tiers below the device are called by their names

State = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True, slots=True)
class Condition:
    """How a component is.

    "degraded": its last try at something failed, the next may succeed. "failed": it will not work again by itself.
    """

    state: State
    since: float | None = None  # when it left "ok", by the clock of who told
    failures: int = 0  # since then
    message: str = ""  # of the last failure


OK = Condition("ok")


@dataclass(slots=True)
class _Component:
    troubles: set[str] = field(default_factory=set)  # activities that failed when last tried
    condition: Condition = OK
    failures: int = 0
    recoveries: int = 0


class Health:
    """Told of successes and failures, by component and activity, with the time; has no clock of its own.

    A component is degraded while one of its activities failed when last tried: a disk that is read well says nothing
    of the writes that fail. It is failed once it is lost, until it is found.
    """

    def __init__(self, components: Iterable[str]) -> None:
        self._components = {name: _Component() for name in components}

    @property
    def state(self) -> State:
        """The worst of all: "failed" means that nothing can be answered."""
        states = {component.condition.state for component in self._components.values()}
        return "failed" if "failed" in states else "degraded" if "degraded" in states else "ok"

    def conditions(self) -> dict[str, Condition]:
        return {name: component.condition for name, component in self._components.items()}

    def failures(self, component: str) -> int:
        """Total since the start."""
        return self._components[component].failures

    def recoveries(self, component: str) -> int:
        """How often it was well again, since the start."""
        return self._components[component].recoveries

    def failed(self, component: str, activity: str, message: str, time: float) -> bool:
        """A try failed. Whether the component was well before."""
        at = self._components[component]
        at.troubles.add(activity)
        return self._worsen(at, "failed" if at.condition.state == "failed" else "degraded", message, time)

    def worked(self, component: str, activity: str) -> bool:
        """A try succeeded. Whether the component is well again by that."""
        at = self._components[component]
        if at.condition is OK:
            return False
        at.troubles.discard(activity)
        if at.troubles or at.condition.state == "failed":
            return False
        at.condition = OK
        at.recoveries += 1
        return True

    def lost(self, component: str, message: str, time: float) -> bool:
        """It will not work again by itself. Whether that is news."""
        at = self._components[component]
        if at.condition.state == "failed":
            return False
        self._worsen(at, "failed", message, time)
        return True

    def found(self, component: str) -> bool:
        """It is there. Whether it was lost before."""
        at = self._components[component]
        if at.condition.state != "failed":
            return False
        at.troubles.clear()
        at.condition = OK
        at.recoveries += 1
        return True

    def _worsen(self, at: _Component, state: State, message: str, time: float) -> bool:
        at.failures += 1
        before = at.condition
        since = time if before.since is None else before.since
        at.condition = Condition(state, since, before.failures + 1, message)
        return before is OK
