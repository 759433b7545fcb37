"""A service in virtual time whose engine takes a millisecond a token, and of which some jobs fail."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.interface import HostTier
from ragcache.cost import PolynomialCost
from ragcache.engine.protocol import EngineEvent, Failed, Finished, Job, Preempted
from ragcache.engine.simulated.engine import SimulatedEngine, SimulatedKV
from ragcache.engine.simulated.step_cost import MeasuredCost
from ragcache.policy import POLICIES
from ragcache.replay.virtual_mover import SimulatedHost, VirtualMover
from ragcache.replay.virtual_time import run_virtual
from ragcache.service.answer import Answer
from ragcache.service.limits import Limits
from ragcache.service.service import RagService
from tests.props.asking import ask
from tests.props.scripted_finder import DOCUMENT_TOKENS, QUESTION_TOKENS, SYSTEM_TOKENS, Script, ScriptedFinder

TOKEN = 0.001  # seconds of prefill; a decode takes 10 of them
PROMPT = SYSTEM_TOKENS + 2 * DOCUMENT_TOKENS + QUESTION_TOKENS


class Unreliable:
    """An engine of which some jobs end at an event of a kind: `fates` has the kind and the last event, job by job.

    It never has more than `most` jobs at a time.
    """

    def __init__(self, engine: Any, fates: Callable[[], tuple[type, Failed | Preempted] | None], most: int) -> None:
        self._engine = engine
        self._fates = fates
        self._most = most
        self._running = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, job: Job, deliver: Callable[[EngineEvent], None]) -> Callable[[], None]:
        self._running += 1
        assert self._running <= self._most
        fate, ended = self._fates(), False

        def on_event(event: EngineEvent) -> None:
            nonlocal ended
            if ended:
                return
            if fate is not None and isinstance(event, fate[0]):
                ended = True
                cancel()
                event = replace(fate[1], computed_tokens=getattr(event, "computed_tokens", 0))
            self._running -= isinstance(event, Finished | Failed | Preempted)
            deliver(event)

        cancel = self._engine.submit(job, on_event)
        return cancel


class UnreliableHost(SimulatedHost):
    """A host store over a slow link, of which some copies fail: `fails` says of each whether it does."""

    def __init__(self, mover: VirtualMover, fails: Callable[[], bool]) -> None:
        super().__init__(mover, 8, 8 * 2000)  # half a millisecond a token
        self._fails = fails

    def _copy(self, kv: SimulatedKV) -> SimulatedKV:
        copy = super()._copy(kv)
        if self._fails():
            raise OSError("made up")
        return copy


def service_of(
    scripts: dict[str, Script | str],
    *,
    share: bool = True,
    cache_tokens: int = 5000,
    policy: str = "lru",
    fates: Callable[[], tuple[type, Failed | Preempted] | None] = lambda: None,
    host_tokens: int = 0,
    copies_fail: Callable[[], bool] = lambda: False,
    **limits: Any,
) -> RagService:
    """Steps of 50 tokens, a millisecond each. A script that is a word is the documents of a search without time."""
    cost = MeasuredCost(PolynomialCost(1000, 0), 0.01)
    engine = SimulatedEngine(cost, bytes_per_token=8, context_length=4096, prefill_chunk=50, vocab=500)
    mover = VirtualMover() if host_tokens else None
    cache = KnowledgeCache(
        cache_tokens * 8,
        8,
        POLICIES[policy](cache_tokens),
        cost=cost.prefill,
        share_in_flight=share,
        host=None
        if mover is None
        else HostTier(host_tokens * 8, 8, POLICIES[policy](host_tokens), UnreliableHost(mover, copies_fail)),
        copies=mover,
    )
    finder = ScriptedFinder({q: [(0.0, s)] if isinstance(s, str) else s for q, s in scripts.items()})
    chosen = Limits(**{"top_k": 2, "max_tokens": 64, "max_waiting": 99} | limits)
    return RagService(finder, cache, Unreliable(engine, fates, chosen.max_batch), chosen)  # type: ignore[arg-type]


def settled(service: RagService) -> None:
    service.cache.check_integrity()
    assert service.cache.balance().held == 0
    assert (service.waiting, service.running) == (0, 0)
    assert service.engine.stats().running == 0
    assert not service.cache._in_flight._owners  # type: ignore[attr-defined]


async def outcomes_of(
    service: RagService, arrivals: Iterable[tuple[float, float | None, dict[str, Any]]]
) -> list[Answer | BaseException]:
    """What becomes of the questions "0", "1", … with these options of a query.

    Each comes this many seconds after the one before, and hangs up after the second number of seconds. The
    cache's books are checked after each, and when all have ended.
    """
    tasks = []
    for number, (pause, leaves, options) in enumerate(arrivals):
        await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(ask(service, str(number), **options)))
        if leaves is not None:
            asyncio.get_running_loop().call_later(leaves, tasks[-1].cancel)
        service.cache.check_integrity()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 3600)
    await asyncio.sleep(2)
    settled(service)
    return outcomes


def answered(service: RagService, *questions: str) -> list[Answer]:
    """The answers to questions that are asked at once, in virtual time."""

    async def main() -> list[Answer]:
        answers = await asyncio.gather(*(ask(service, question, max_tokens=2) for question in questions))
        settled(service)
        return answers

    return run_virtual(main())
