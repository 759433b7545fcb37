"""SimulatedService: the service, cache and queue that serve, over a machine that is only described."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ragcache.cache.cache import ADMISSIONS, KnowledgeCache
from ragcache.cache.interface import HostTier
from ragcache.cost import PrefillCost, PrefillProfile
from ragcache.engine.simulated.engine import SimulatedEngine
from ragcache.engine.simulated.machine import Machine
from ragcache.engine.simulated.roofline import Roofline
from ragcache.engine.simulated.step_cost import MeasuredCost, StepCost
from ragcache.errors import ConfigError
from ragcache.policy import POLICIES
from ragcache.replay.finder import SimulatedFinder
from ragcache.replay.virtual_mover import SimulatedHost, VirtualMover
from ragcache.service.limits import Limits
from ragcache.service.service import RagService


@dataclass(frozen=True, slots=True)
class SimulatedSettings:
    """A machine, a model, and how the service is set up. Sizes are bytes; `device_cache` 0 is what the model leaves.

    `hardware` and `model` are names of the roofline's tables, where the service is given no other machine. `policy`
    none keeps no KV between requests.
    """

    hardware: str = "a10g"
    model: str = "mistral-7b"
    device_cache: int = 0
    host_cache: int = 0
    policy: str = "pgdsf"
    admission: str = "always"
    prefill_chunk: int = 512
    max_batch: int = 4
    max_prefill_batch: int = 4
    max_waiting: int = 100_000
    reorder_window: int = 32
    speculate: bool = False

    def __post_init__(self) -> None:
        if self.policy not in (*POLICIES, "none"):
            raise ConfigError(f"there is no policy {self.policy!r}; known are {', '.join((*POLICIES, 'none'))}")
        if self.admission not in ADMISSIONS:
            raise ConfigError(f"admission is one of {', '.join(ADMISSIONS)}, not {self.admission!r}")
        for name in ("prefill_chunk", "max_batch", "max_prefill_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("device_cache", "host_cache", "max_waiting", "reorder_window"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.policy == "none" and self.host_cache:
            raise ConfigError("a host cache has no use with the policy none: leave out one or the other")

    def limits(self, max_tokens: int, top_k: int) -> Limits:
        return Limits(
            top_k=top_k,
            max_tokens=max_tokens,
            max_batch=self.max_batch,
            max_waiting=self.max_waiting,
            reorder_window=self.reorder_window,
            max_prefill_batch=self.max_prefill_batch,
            speculate=self.speculate,
        )


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
        """`prefill` are measured times, to be used instead of the machine's; `machine` stands in for that of the
        settings, whose chunks it must have."""
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
        if capacity < token:
            raise ConfigError(f"device_cache is {capacity} bytes; one token of {model} takes {token}")
        engine = SimulatedEngine(
            step,
            bytes_per_token=token,
            # what a workload asks is computed, though the model may be made for shorter prompts
            context_length=max(machine.context_length, finder.longest() + 1),
            prefill_chunk=settings.prefill_chunk,
            vocab=machine.vocab,
        )
        make = POLICIES["lru" if settings.policy == "none" else settings.policy]
        movers: dict[str, Any] = {}
        if settings.host_cache:
            mover = VirtualMover()
            store = SimulatedHost(mover, token, machine.host_rate)
            capacity_below = settings.host_cache
            movers = {
                "copies": mover,
                "host": HostTier(capacity_below, token, make(capacity_below // token), store),
            }
        working = min(finder.longest() * token, capacity // 2) if settings.admission == "competes" else 0
        cache = KnowledgeCache(
            capacity,
            token,
            make(capacity // token),
            keep=settings.policy != "none",
            cost=self.cost,
            admission=settings.admission,
            working=working,
            **movers,
        )
        limits = settings.limits(longest_answer, finder.corpus_size)
        self.service = RagService(finder, cache, engine, limits, model_name=model)
        self.described = {**asdict(settings), **machine.described, "device_cache": capacity}


class _Remembered:
    """A cost that is asked for the same again and again."""

    def __init__(self, cost: PrefillCost) -> None:
        self._cost = cost
        self._known: dict[tuple[int, int], float] = {}

    def __call__(self, cached_tokens: int, new_tokens: int) -> float:
        key = cached_tokens, new_tokens
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._cost(cached_tokens, new_tokens)
        return found


def _measured(prefill: PrefillProfile, machine: Machine) -> MeasuredCost:
    """Measured prefills; decodes, of which the profile says nothing, as the machine has them."""
    one, context = machine.step((), [0]), 1024
    return MeasuredCost(
        prefill,
        step_seconds=one,
        sequence_seconds=max(0.0, machine.step((), [0, 0]) - one),
        token_seconds=max(0.0, (machine.step((), [context]) - one) / context),
    )
