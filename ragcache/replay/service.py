"""SimulatedService: the service, cache and queue that serve, over a machine that is only described."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ragcache.cost import PrefillCost, PrefillProfile
from ragcache.engine.simulated.engine import SimulatedEngine
from ragcache.engine.simulated.machine import Machine
from ragcache.engine.simulated.roofline import Roofline
from ragcache.engine.simulated.step_cost import MeasuredCost, StepCost
from ragcache.errors import ConfigError
from ragcache.policy import PolicyChoice, policy_factory, policy_name
from ragcache.replay.finder import SimulatedFinder
from ragcache.replay.virtual_mover import SimulatedHost, VirtualMover
from ragcache.service.settings import ServiceSettings
from ragcache.service.wire import KvParts, Parts, wire

NO_CACHE = "none"  # a policy that keeps no KV between requests


@dataclass(frozen=True, slots=True)
class SimulatedSettings:
    """A machine, a model, and how the service is set up. Sizes are bytes; `device_cache` 0 is what the model leaves.

    `hardware` and `model` are names of the roofline's tables, where the service is given no other machine. `policy` is
    a name, `module:Class` or a class of one's own; "none" keeps no KV between requests. Raises ConfigError, which names
    the setting that cannot be used.
    """

    hardware: str = "a10g"
    model: str = "mistral-7b"
    device_cache: int = 0
    host_cache: int = 0
    policy: PolicyChoice = "pgdsf"
    admission: str = "always"
    share_in_flight: bool = True
    prefill_chunk: int = 512
    max_batch: int = 4
    max_prefill_batch: int = 4
    max_waiting: int = 100_000
    reorder_window: int = 32
    speculate: bool = False
    order: str = "retrieval"

    def __post_init__(self) -> None:
        self.service(device_cache=self.device_cache)  # checks them

    def service(self, *, device_cache: int, max_tokens: int = 1, top_k: int = 1) -> ServiceSettings:
        """The settings of the service, with `device_cache` bytes of KV, whose longest answer has `max_tokens`."""
        keeps = self.policy != NO_CACHE
        return ServiceSettings.of(
            self,
            device_cache=device_cache,
            policy=policy_factory(self.policy if keeps else "lru", more=[NO_CACHE]),
            keeps=keeps,
            top_k=top_k,
            max_tokens=max_tokens,
        )

    @property
    def described(self) -> dict[str, Any]:
        """The settings as a report has them."""
        return {**asdict(self), "policy": policy_name(self.policy)}


class SimulatedService:
    """A RagService in virtual time, with the cost that its engine and its policy go by, and what it was made from."""

    def __init__(
        self,
        settings: SimulatedSettings,
        finder: SimulatedFinder,
        *,
        longest_answer: int,
        prefill: PrefillProfile | None = None,
        machine: Machine | None = None,
    ) -> None:
        """`longest_answer` is in tokens. `prefill` are measured times, used instead of the machine's. `machine` stands
        in for that of the settings, and must have their `prefill_chunk`. Raises ConfigError for what does not fit."""
        if machine is None:
            machine = Roofline.named(settings.hardware, settings.model, prefill_chunk=settings.prefill_chunk)
        self.cost: PrefillCost = _Remembered(machine) if prefill is None else prefill
        step: StepCost = machine if prefill is None else _measured(prefill, machine)
        token, model = machine.bytes_per_token, machine.described["model"]
        capacity = settings.device_cache or machine.kv_capacity()
        if prefill is None and capacity > machine.kv_capacity():  # measured times are of a machine of unknown memory
            raise ConfigError(
                f"device_cache is {capacity} bytes; {machine.described['hardware']} has {machine.kv_capacity()} left "
                f"beside the weights of {model}"
            )
        longest_request = finder.longest()
        engine = SimulatedEngine(
            step,
            bytes_per_token=token,
            # what a workload asks for is computed, though the model may be made for shorter prompts
            context_length=max(machine.context_length, longest_request + 1),
            prefill_chunk=settings.prefill_chunk,
            vocab=machine.vocab,
        )
        mover = VirtualMover()  # one link: what it moves waits for what it moved before
        kv = KvParts(
            bytes_per_token=token,
            cost=self.cost,
            request_tokens=longest_request,
            host=SimulatedHost(mover, token, machine.host_rate),
            copies=mover,
        )
        self.service = wire(
            settings.service(device_cache=capacity, max_tokens=longest_answer, top_k=finder.corpus_size),
            Parts(finder=finder, engine=engine, kv=kv, model_name=model),
        )
        self.described = {**settings.described, **machine.described, "device_cache": capacity}


class _Remembered:
    """A prefill cost that computes each pair of arguments once."""

    def __init__(self, cost: PrefillCost) -> None:
        self._cost = cost
        self._known: dict[tuple[int, int], float] = {}

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        key = cached_tokens, new_tokens
        seconds = self._known.get(key)
        if seconds is None:
            seconds = self._known[key] = self._cost(cached_tokens, new_tokens)
        return seconds


def _measured(prefill: PrefillProfile, machine: Machine) -> MeasuredCost:
    """Prefills as measured; decodes, of which the profile says nothing, by the machine's times."""
    one, context = machine.step((), [0]), 1024
    return MeasuredCost(
        prefill,
        step_seconds=one,
        sequence_seconds=max(0.0, machine.step((), [0, 0]) - one),
        token_seconds=max(0.0, (machine.step((), [context]) - one) / context),
    )
