"""Replaying: a replay put together and run, over a described machine or over a service that computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ragcache.cost import PrefillCost, PrefillProfile
from ragcache.engine.simulated.machine import Machine
from ragcache.replay.finder import SimulatedFinder
from ragcache.replay.replay import Asker, Replay, ServiceAsker
from ragcache.replay.report import ReplayReport
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.searches import Searching
from ragcache.replay.service import SimulatedService, SimulatedSettings
from ragcache.replay.virtual_time import run_virtual
from ragcache.replay.workload import Workload
from ragcache.service.service import RagService

Progress = Callable[[int], object]
SETTLING_SECONDS = 60.0  # for moves and cancelled work, after the last answer


def simulate(
    workload: Workload,
    settings: SimulatedSettings,
    *,
    system_tokens: int,
    searches: Searching | SearchProfile | None = None,
    prefill: PrefillProfile | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    timeout_ms: int | None = None,
    about: dict[str, Any] | None = None,
    on_progress: Progress = lambda _: None,
) -> ReplayReport:
    """Replays the workload in virtual time; equal arguments give equal reports. `about` is added to its config.

    `machine` stands in for that of the settings, and must have their chunks. Give each replay `searches` of its own.

    Raises IntegrityError if the cache's books do not balance in the end.
    """
    finder = SimulatedFinder(workload, system_tokens=system_tokens, searches=searches, seed=seed)
    longest = max(request.output for request in workload.requests)
    simulated = SimulatedService(settings, finder, longest_answer=longest, prefill=prefill, machine=machine)

    async def main() -> ReplayReport:
        config = {**simulated.described, "system_tokens": system_tokens, "seed": seed, **(about or {})}
        return await replay_service(
            workload, simulated.service, config, system_tokens, simulated.cost, timeout_ms, on_progress
        )

    return run_virtual(main())


async def replay_service(
    workload: Workload,
    service: RagService,
    config: dict[str, Any],
    system_tokens: int,
    cost: PrefillCost | None,
    timeout_ms: int | None = None,
    on_progress: Progress = lambda _: None,
) -> ReplayReport:
    """Replays the workload over a service whose finder is the workload's, on the running loop."""
    replay = Replay(workload, ServiceAsker(service, system_tokens, timeout_ms))
    outcomes = await replay.run(on_progress)
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLING_SECONDS
    while not service.cache.idle and loop.time() < end:
        await asyncio.sleep(0.01)
    service.cache.check_integrity()
    stats = service.stats
    totals = {"retries": stats.retries, "preemptions": stats.preemptions}
    return ReplayReport(outcomes, config, most_in_flight=replay.most_in_flight, totals=totals, cost=cost)


async def replay_remote(
    workload: Workload, asker: Asker, config: dict[str, Any], on_progress: Progress = lambda _: None
) -> ReplayReport:
    """Replays the workload over whatever `asker` asks, on the running loop."""
    replay = Replay(workload, asker)
    outcomes = await replay.run(on_progress)
    return ReplayReport(outcomes, config, most_in_flight=replay.most_in_flight, totals={})
