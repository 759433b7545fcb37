"""Runs: a replay set up and run, over a described machine, a service that computes, or whatever an asker asks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ragcache.cost import PrefillCost, PrefillProfile
from ragcache.engine.simulated.machine import Machine
from ragcache.errors import ConfigError
from ragcache.replay.finder import SimulatedFinder
from ragcache.replay.replay import Asker, Replay, ServiceAsker
from ragcache.replay.report import ReplayReport
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.searches import Searches
from ragcache.replay.service import SimulatedService, SimulatedSettings
from ragcache.replay.virtual_time import run_virtual
from ragcache.replay.workload import Workload
from ragcache.service.service import RagService
from ragcache.sizes import parse_size

Progress = Callable[[int], object]
SETTLING_SECONDS = 60.0  # for moves and cancelled work, after the last answer


def replay(
    workload: Workload | Path | str,
    *,
    system_tokens: int = 50,
    searches: Searches | SearchProfile | None = None,
    prefill: PrefillProfile | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    timeout_ms: int | None = None,
    **settings: Any,
) -> ReplayReport:
    """Replays a workload, or the file of one, in virtual time on a described machine; what `ragcache replay` does.

    `settings` are fields of SimulatedSettings: `hardware`, `model`, `device_cache` and `host_cache` (bytes, or a text
    such as "8GiB"), `policy` (a name, `module:Class` or a class), `admission`, `share_in_flight`, `prefill_chunk`,
    `max_batch`, `max_prefill_batch`, `max_waiting`, `reorder_window`, `speculate` and `order`. The other arguments are
    those of `simulate`. Equal arguments give equal reports. The report's times are seconds.

    Raises ConfigError for settings that cannot be used, TraceError for a workload that cannot.
    """
    known = [field.name for field in dataclasses.fields(SimulatedSettings)]
    if unknown := sorted(settings.keys() - set(known)):
        raise ConfigError(f"unknown setting {unknown[0]!r}; known are {', '.join(known)}")
    for name in ("device_cache", "host_cache"):
        if name in settings:
            settings[name] = parse_size(settings[name], name)
    return simulate(
        workload if isinstance(workload, Workload) else Workload.read(Path(workload)),
        SimulatedSettings(**settings),
        system_tokens=system_tokens,
        searches=searches,
        prefill=prefill,
        machine=machine,
        seed=seed,
        timeout_ms=timeout_ms,
    )


def simulate(
    workload: Workload,
    settings: SimulatedSettings,
    *,
    system_tokens: int,
    searches: Searches | SearchProfile | None = None,
    prefill: PrefillProfile | None = None,
    machine: Machine | None = None,
    seed: int = 0,
    timeout_ms: int | None = None,
    about: dict[str, Any] | None = None,
    on_progress: Progress = lambda _: None,
) -> ReplayReport:
    """Replays the workload in virtual time; equal arguments give equal reports.

    `system_tokens` is the length of the system prompt. `searches` say how long searches take and what they show on the
    way (give each replay its own); `prefill` are measured times in place of the machine's; `machine` stands in for that
    of the settings, and must have their `prefill_chunk`. A request is given up after `timeout_ms`. `about` is added to
    the report's config, and `on_progress` gets numbers of requests that ended.

    Raises ConfigError for what cannot be simulated, IntegrityError if the cache's books do not balance in the end.
    """
    finder = SimulatedFinder(workload, system_tokens=system_tokens, searches=searches, seed=seed)
    simulated = SimulatedService(
        settings, finder, longest_answer=workload.longest_answer, prefill=prefill, machine=machine
    )

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
    """Replays the workload over a service whose finder is the workload's, on the running loop and by its clock.

    `cost` prices the prefills that the cache saved. Raises IntegrityError if the cache's books do not balance."""
    replay = Replay(workload, ServiceAsker(service, system_tokens, timeout_ms))
    outcomes = await replay.run(on_progress)
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLING_SECONDS
    while not service.cache.idle and loop.time() < end:
        await asyncio.sleep(0.01)
    service.cache.check_integrity()
    stats = service.stats
    totals = {
        "shared_tokens": stats.shared_tokens, "retries": stats.retries, "preemptions": stats.preemptions
    }  # fmt: skip
    return ReplayReport(outcomes, config, most_in_flight=replay.most_in_flight, totals=totals, cost=cost)


async def replay_remote(
    workload: Workload, asker: Asker, config: dict[str, Any], on_progress: Progress = lambda _: None
) -> ReplayReport:
    """Replays the workload over whatever `asker` asks, on the running loop and by its clock."""
    replay = Replay(workload, asker)
    outcomes = await replay.run(on_progress)
    return ReplayReport(outcomes, config, most_in_flight=replay.most_in_flight, totals={})
