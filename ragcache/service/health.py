"""Health: which parts of the service work, as their latest successes and failures say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

ENGINE, SEARCH, INDEX = "engine", "search", "index"  # the tiers below the device are called by their names

STEADY_SECONDS = 10.0  # without a failure, until what has failed counts as well again

State = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True, slots=True)
class Condition:
    """State of a component.

    "degraded": it failed a short time ago, and the next try may succeed; or, with no failures, it is not known to be
    well yet. "failed": it will not work again by itself.
    """

    state: State
    since: float | None = None  # time at which it left "ok", by the clock of the caller
    failures: int = 0  # since then
    message: str = ""  # the last failure's


OK = Condition("ok")


@dataclass(slots=True)
class _Component:
    troubles: set[str] = field(default_factory=set)  # activities that failed when last tried
    last_failure: float = 0.0
    condition: Condition = OK
    failures: int = 0
    recoveries: int = 0


class Health:
    """Keeps the state of each component, from reports of successes and failures by activity. It has no clock.

    A component is degraded from its first failure until each activity has succeeded when last tried, and none has
    failed for `steady_seconds`: one that fails and works in turns stays degraded all the while. Reads that succeed say
    nothing of writes that fail. It is failed from `lost` to `regained`, and then degraded until it is steady. Methods
    raise KeyError for a component that is not known.
    """

    def __init__(self, components: Iterable[str], steady_seconds: float = STEADY_SECONDS) -> None:
        self.steady_seconds = steady_seconds
        self._components = {name: _Component() for name in components}

    @property
    def state(self) -> State:
        """The worst state of all components; "failed" means that no request can be answered."""
        states = {component.condition.state for component in self._components.values()}
        return "failed" if "failed" in states else "degraded" if "degraded" in states else "ok"

    def conditions(self) -> dict[str, Condition]:
        """The condition of each component, by name."""
        return {name: component.condition for name, component in self._components.items()}

    def failures(self, component: str) -> int:
        """Number of failures since the start."""
        return self._components[component].failures

    def recoveries(self, component: str) -> int:
        """Number of returns to "ok" since the start."""
        return self._components[component].recoveries

    def failed(self, component: str, activity: str, message: str, time: float) -> bool:
        """Reports that a try failed at `time`. Returns whether the component was "ok" before."""
        part = self._components[component]
        part.troubles.add(activity)
        part.last_failure = time
        return self._worsen(part, "failed" if part.condition.state == "failed" else "degraded", message, time)

    def worked(self, component: str, activity: str, time: float) -> bool:
        """Reports that a try succeeded at `time`. Returns whether the component is "ok" again by now."""
        part = self._components[component]
        part.troubles.discard(activity)
        return self._settle(part, time)

    def refresh(self, time: float) -> list[str]:
        """Ends troubles that are over by `time`. Returns the components that are "ok" again."""
        return [name for name, part in self._components.items() if self._settle(part, time)]

    def unsure(self, component: str, activity: str, message: str, time: float) -> None:
        """Reports that the component works, and that `activity` will show whether it is well: degraded until then."""
        part = self._components[component]
        if part.condition.state == "failed":
            return
        part.troubles.add(activity)
        if not part.condition.failures:
            since = time if part.condition.since is None else part.condition.since
            part.condition = Condition("degraded", since, 0, message)

    def lost(self, component: str, message: str, time: float) -> bool:
        """Reports that the component will not work again by itself. Returns whether it is news."""
        part = self._components[component]
        if part.condition.state == "failed":
            return False
        self._worsen(part, "failed", message, time)
        return True

    def regained(self, component: str, time: float) -> bool:
        """Reports that the component is there at `time`. Returns whether it was lost before."""
        part = self._components[component]
        if part.condition.state != "failed":
            return False
        part.troubles.clear()
        part.last_failure = time
        part.condition = replace(part.condition, state="degraded")
        return True

    def _settle(self, part: _Component, time: float) -> bool:
        failed = part.condition.failures > 0  # and not only unsure
        steady = not part.troubles and (not failed or time - part.last_failure >= self.steady_seconds)
        if part.condition.state != "degraded" or not steady:
            return False
        part.condition = OK
        part.recoveries += failed
        return failed

    def _worsen(self, part: _Component, state: State, message: str, time: float) -> bool:
        part.failures += 1
        before = part.condition
        since = time if before.since is None else before.since
        part.condition = Condition(state, since, before.failures + 1, message)
        return before is OK
