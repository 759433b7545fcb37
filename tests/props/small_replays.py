"""Small replays for tests: a millisecond for each prompt token, so that times can be worked out by hand."""

from typing import Any

from ragcache.cost import PrefillProfile
from ragcache.engine.simulated.hardware import HARDWARE
from ragcache.model.shape import MODELS
from ragcache.replay.replay import Served
from ragcache.replay.report import ReplayReport
from ragcache.replay.run import simulate
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.workload import TimedRequest, Workload

TOKEN = MODELS["mistral-7b"].kv_bytes_per_token  # bytes
LINK = HARDWARE["a10g"].host_rate  # bytes a second
SYSTEM, QUESTION = 10, 20  # tokens
PREFILL = PrefillProfile("m", "cpu", "float32", 1, (0, 1000), (1, 1000), ((0.001, 1.0), (0.001, 1.0)))


def workload(*requests: tuple[float, str], size: int = 100, output: int = 1) -> Workload:
    """Requests by their times and their documents, a letter each, all of one size."""
    return Workload(
        tuple(
            TimedRequest(time, tuple((letter, size) for letter in letters), QUESTION, output)
            for time, letters in requests
        )
    )


def searches(seconds: tuple[float, ...], *lists: tuple[tuple[int, ...], ...]) -> SearchProfile:
    return SearchProfile("ivf", 1000, 8, 16, len(lists[0][-1]), "m", "now", seconds, lists)


def replayed(requests: Workload, *, profile: SearchProfile | None = None, **options: Any) -> ReplayReport:
    """`options`: settings of the service, sizes of caches in tokens; `timeout_ms` and `seed` are the replay's."""
    of_replay = {name: options.pop(name) for name in ("timeout_ms", "seed", "on_progress") if name in options}
    for name in ("device_cache", "host_cache"):
        options[name] = options.get(name, 0) * TOKEN
    settings = SimulatedSettings(**{"reorder_window": 0, "max_batch": 1, **options})
    return simulate(requests, settings, system_tokens=SYSTEM, searches=profile, prefill=PREFILL, **of_replay)


def served(report: ReplayReport) -> list[Served]:
    """How each request was served; fails unless all were answered."""
    each_served = [outcome.served for outcome in report.outcomes]
    assert all(each_served), [outcome.message for outcome in report.outcomes]
    return [each for each in each_served if each is not None]
