"""`ragcache replay`: a workload's requests sent at their times, to a described machine, this one, or a server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ragcache.cost import PrefillProfile
from ragcache.engine.cores import MOST_THREADS
from ragcache.engine.simulated.hardware import HARDWARE
from ragcache.errors import ConfigError
from ragcache.model.shape import MODELS
from ragcache.replay.report import ReplayReport
from ragcache.replay.run import replay_remote, replay_service, simulate
from ragcache.replay.search_profile import SearchProfile
from ragcache.replay.searches import SearchesTogether
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.timeline import write_timeline
from ragcache.replay.workload import Workload
from ragcache.reuse.arrangement import ORDERS
from ragcache.sizes import parse_size
from ragcache.whole_file import check_writable

if TYPE_CHECKING:
    from ragcache.replay.pim_machine import PimMachine

_NUMBERS = {
    "system-tokens": (50, "length of the system prompt"),
    "prefill-chunk": (512, "compute at most this many prompt tokens in one step"),
    "max-batch": (4, "requests that the engine works on at a time"),
    "max-prefill-batch": (4, "stop speculating once this many prompts await prefill"),
    "max-waiting": (100_000, "requests that may wait; further ones are refused"),
    "reorder-window": (
        32, "a request may be overtaken by this many later ones that have more in the cache (0: order of arrival)"
    ),
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workload",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines {t, path: [ids], sizes: [tokens], question: text or tokens, output: tokens}; may be .gz",
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="Poisson arrivals at this many requests a second, instead of the times t",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the arrivals and of everything drawn (default: 0)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="send only this many requests, those that come first")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--engine",
        choices=("simulated", "torch"),
        default="simulated",
        help="simulated: in virtual time (default); torch: computed here, with made-up documents of the given sizes",
    )
    where.add_argument("--url", help="address of a running server, which finds documents of its own")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="write a chrome trace of the requests")
    _add_machine(parser)
    _add_service(parser)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("the machine and the model")
    machine.add_argument(
        "--hardware",
        metavar="NAME",
        help=f"{', '.join(HARDWARE)} (default: a10g); or a system as `pimsim run` takes it, such as heterrag, "
        "cpu-gpu-v100 or a YAML file, which brings its own search times",
    )
    machine.add_argument(
        "--model",
        metavar="NAME",
        help=f"{', '.join(MODELS)} (default: mistral-7b); with a system of pimsim, one of pimsim's models in place of "
        "the system's own; with --engine torch, a folder, GGUF file or Hugging Face id",
    )
    machine.add_argument("--prefill-times", type=Path, metavar="FILE", help="prefills measured by `ragcache profile`")
    machine.add_argument("--search", type=Path, metavar="FILE", help="searches recorded by `ragcache profile-search`")
    machine.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads (default: 0, one for each core)"
    )


def _add_service(parser: argparse.ArgumentParser) -> None:
    service = parser.add_argument_group("the service")
    service.add_argument(
        "--device-cache",
        default="0",
        metavar="SIZE",
        help="device memory for KV, such as 2GiB (default: what the model leaves)",
    )
    service.add_argument(
        "--host-cache", default="0", metavar="SIZE", help="host memory for KV, such as 192GiB (default: none)"
    )
    service.add_argument(
        "--policy",
        default="pgdsf",
        metavar="NAME",
        help="as for `serve`, or none, which keeps no KV between requests (default: pgdsf)",
    )
    service.add_argument(
        "--admission", default="always", metavar="NAME", help="always or competes, as for `serve` (default: always)"
    )
    service.add_argument(
        "--share-in-flight",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="wait for the KV of documents that another request is computing, instead of computing it again (default)",
    )
    for name, (default, text) in _NUMBERS.items():
        service.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    service.add_argument(
        "--speculate",
        choices=("off", "dynamic"),
        default="off",
        help="dynamic: prefill the documents that a search has found so far, while it goes on (default: off)",
    )
    service.add_argument(
        "--order",
        choices=ORDERS,
        default="retrieval",
        help="order of the documents in a prompt, as for `serve` (default: retrieval, that of the workload)",
    )
    service.add_argument("--timeout-ms", type=int, metavar="N", help="give a request up after this many milliseconds")


@dataclass(frozen=True, slots=True)
class _Task:
    """What is replayed: `about` is added to the report's config, `on_progress` gets numbers of requests that ended."""

    options: argparse.Namespace
    workload: Workload
    about: dict[str, Any]
    on_progress: Callable[[int], object]


def run(options: argparse.Namespace) -> int:
    """Prints a table or JSON. Raises ConfigError, TraceError, ModelError or ServerError for what cannot be replayed."""
    _check(options)
    if options.trace is not None:
        check_writable(options.trace)
    workload = Workload.read(options.workload)
    if options.limit is not None:
        workload = workload.first(options.limit)
    if options.rate is not None:
        workload = workload.with_rate(options.rate, options.seed)
    about = {"workload": options.workload.name, "rate": options.rate, "seed": options.seed}
    with tqdm(total=len(workload), unit="requests", unit_scale=True, disable=None, leave=False) as bar:
        task = _Task(options, workload, about, bar.update)
        if options.url is not None:
            report = _over_http(task)
        elif options.engine == "torch":
            report = _computed_here(task)
        else:
            report = _simulated(task)
    if options.trace is not None:
        write_timeline(options.trace, report.outcomes)
    print(report.as_json() if options.json else report.table())
    return 0


def _check(options: argparse.Namespace) -> None:
    for name, least in (("system_tokens", 0), ("threads", 0), ("timeout_ms", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if options.threads > MOST_THREADS:
        raise ConfigError(f"--threads must be at most {MOST_THREADS}, not {options.threads}")
    if options.hardware is not None and (options.url is not None or options.engine == "torch"):
        other = "--url" if options.url is not None else "--engine torch"
        raise ConfigError(
            f"--hardware describes a machine to be simulated, and {other} asks a real one: leave out one or the other"
        )


def _settings(options: argparse.Namespace, *, hardware: str, model: str) -> SimulatedSettings:
    return SimulatedSettings(
        hardware=hardware,
        model=model,
        device_cache=parse_size(options.device_cache, "--device-cache"),
        host_cache=parse_size(options.host_cache, "--host-cache"),
        policy=options.policy,
        admission=options.admission,
        share_in_flight=options.share_in_flight,
        prefill_chunk=options.prefill_chunk,
        max_batch=options.max_batch,
        max_prefill_batch=options.max_prefill_batch,
        max_waiting=options.max_waiting,
        reorder_window=options.reorder_window,
        speculate=options.speculate == "dynamic",
        order=options.order,
    )


def _simulated(task: _Task) -> ReplayReport:
    options = task.options
    settings = _settings(options, hardware=options.hardware or "a10g", model=options.model or "mistral-7b")
    machine = _pim_machine(options)
    searches: SearchesTogether | SearchProfile | None = None
    if machine is not None:
        searches = SearchesTogether(machine)
    elif options.search is not None:
        searches = SearchProfile.load(options.search)
    return simulate(
        task.workload,
        settings,
        system_tokens=options.system_tokens,
        searches=searches,
        prefill=None if options.prefill_times is None else PrefillProfile.load(options.prefill_times),
        machine=machine,
        seed=options.seed,
        timeout_ms=options.timeout_ms,
        about={"engine": "simulated", **task.about},
        on_progress=task.on_progress,
    )


def _pim_machine(options: argparse.Namespace) -> PimMachine | None:
    """The system of pimsim that `--hardware` names, or None where it names a machine of our own table."""
    if options.hardware is None or options.hardware in HARDWARE:
        return None
    from ragcache.replay.pim_machine import PimMachine

    machine = PimMachine.load(
        options.hardware, model=options.model, prefill_chunk=options.prefill_chunk, seed=options.seed
    )
    for option, what in (("search", "searches"), ("prefill_times", "prefills")):
        if getattr(options, option) is not None:
            name = option.replace("_", "-")
            raise ConfigError(
                f"--{name} and --hardware {options.hardware} both say how long {what} take: leave out --{name}, or "
                f"take one of {', '.join(HARDWARE)}"
            )
    return machine


def _computed_here(task: _Task) -> ReplayReport:
    from ragcache.cli.assembly.torch import assemble_replay

    options = task.options
    # a described machine and model are named only so that the other settings are checked in one place
    settings = _settings(options, hardware="this-cpu", model="smollm2-135m")
    print("loading the model ...", file=sys.stderr, flush=True)
    service, cost, described = assemble_replay(
        settings,
        task.workload,
        model=options.model or "default",
        system_tokens=options.system_tokens,
        searches=None if options.search is None else SearchProfile.load(options.search),
        seed=options.seed,
        threads=options.threads,
    )
    try:
        return asyncio.run(
            replay_service(
                task.workload,
                service,
                {"engine": "torch", **described, **task.about},
                options.system_tokens,
                cost,
                options.timeout_ms,
                task.on_progress,
            )
        )
    finally:
        service.close()


def _over_http(task: _Task) -> ReplayReport:
    from server.remote import RemoteAsker

    url, timeout_ms = task.options.url, task.options.timeout_ms
    print(f"{url} finds documents of its own; only questions, lengths and times are sent", file=sys.stderr)

    async def main() -> ReplayReport:
        async with RemoteAsker(url, timeout_ms) as asker:
            return await replay_remote(task.workload, asker, {"url": url, **task.about}, task.on_progress)

    return asyncio.run(main())
