"""The command line, `ragcache COMMAND`: the one place that knows every package."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ragcache.cli.config import ServeConfig
from ragcache.cli.options import parser
from ragcache.errors import RagCacheError
from retrieval.errors import RetrievalError

# Each command imports what it needs when it runs: `ragcache query` should not wait seconds for torch to load.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. Errors that are the user's to mend are one line on stderr."""
    options = parser().parse_args(arguments)
    # SIGTERM unwinds the stack like Ctrl-C does, so that half-written files are removed
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(_COMMANDS[options.command](options) or 0)
    except (RagCacheError, RetrievalError) as error:
        print(f"ragcache {options.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"ragcache {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _terminate(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)


def _corpus_python(options: argparse.Namespace) -> int:
    from retrieval.corpus import write_corpus
    from retrieval.pydocs import collect

    documents = collect(options.package)
    write_corpus(options.out, documents)
    print(f"{len(documents)} documents in {options.out}")
    return 0


def _index(options: argparse.Namespace) -> int:
    from retrieval.embedder import Embedder
    from retrieval.index import build_index

    embedder = Embedder.load(options.embedder)
    manifest = build_index(
        options.corpus, options.out, options.type, embedder, options.embeddings, progress=not options.quiet
    )
    print(f"{manifest.documents} documents in {options.out / 'faiss.idx'} ({options.type})")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from server.run import bind

    names = [field.name for field in dataclasses.fields(ServeConfig)]
    config = ServeConfig.load(options.config, {name: getattr(options, name) for name in names})
    with bind(config.host, config.port) as bound:  # before the seconds of loading: a busy port is told at once
        if config.engine == "vllm":
            from ragcache.engine.vllm.interface import require_package

            require_package()
            from ragcache.cli.assembly.vllm import assemble
        else:
            from ragcache.cli.assembly.torch import assemble
        from server.app import create_app
        from server.run import run

        print(f"loading {config.index} and model {config.model} ...", file=sys.stderr, flush=True)
        service = assemble(config, announce=lambda line: print(line, file=sys.stderr, flush=True))
        try:
            host, port = bound.getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            print(
                f"serving {service.corpus_size} documents with {service.model_name} on http://{host}:{port} "
                f"({service.cache.describe()}); Ctrl-C ends",
                file=sys.stderr,
                flush=True,
            )
            run(create_app(service), bound, grace_seconds=config.grace_seconds, finish=service.finish_writing)
        finally:
            service.close()
    return 0


def _simulate(options: argparse.Namespace) -> int:
    from ragcache.cost import parse_cost
    from ragcache.simulate.simulation import Simulation, choices, report
    from ragcache.simulate.trace import read_trace

    policies, capacities = choices(options.policy, options.capacity)
    cost = parse_cost(options.cost)
    if options.curve is not None:
        from ragcache.simulate.curve import check_plotting

        check_plotting(options.curve)  # now, and not after minutes of replay
    trace = read_trace(options.trace, options.format)
    simulation = Simulation(trace, cost, options.admission, options.host_capacity)
    outcomes = simulation.run_all(policies, capacities)
    print(report(outcomes, as_json=options.json))
    if options.curve is not None:
        from ragcache.simulate.curve import draw

        draw(outcomes, options.curve, title=f"{options.trace.name}: {trace.documents:,} documents asked for")
        print(f"curves in {options.curve}", file=sys.stderr)
    return 0


def _profile(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ragcache.cli.assembly.torch import available_cores
    from ragcache.engine.torch.model import TorchModel
    from ragcache.engine.torch.profiling import Plan, Profiling, doubts, parse_axis, table
    from ragcache.model.checkpoint import Checkpoint
    from ragcache.whole_file import check_writable

    cached, new = (
        None if text is None else parse_axis(text, name)
        for text, name in ((options.cached, "--cached"), (options.new, "--new"))
    )
    # what cannot be done is told before a model is loaded, and certainly before minutes of measuring
    plan = Plan(options.threads or available_cores(), options.runs, options.prefill_chunk, cached, new)
    if options.out is not None:
        check_writable(options.out)
    profiling = Profiling(TorchModel.load(Checkpoint.resolve(options.model)), plan)
    file = options.out
    if file is None:
        file = profiling.setting.file
        file.parent.mkdir(parents=True, exist_ok=True)
        check_writable(file)
    seconds = profiling.warm_up()
    points = len(profiling.grid.cached) * len(profiling.grid.new)
    print(f"measuring {points} points {plan.runs} times: about {_duration(seconds)}", file=sys.stderr, flush=True)
    with tqdm(total=profiling.tokens, unit="tokens", unit_scale=True, disable=None, leave=False) as bar:
        profile = profiling.measure(bar.update)
    profile.save(file)
    print(profile.as_json() if options.json else table(profile))
    if doubt := doubts(profile):
        print(f"{doubt}: was the machine busy? Measure again when it is quiet", file=sys.stderr)
    print(f"profile in {file}", file=sys.stderr)
    return 0


def _profile_search(options: argparse.Namespace) -> int:
    from itertools import islice

    from tqdm import tqdm

    from ragcache.errors import ConfigError
    from ragcache.replay.search_recording import record_questions
    from ragcache.simulate.trace import json_lines
    from ragcache.whole_file import check_writable
    from retrieval.retriever import Retriever

    check_writable(options.out)
    if options.repeat < 1 or options.limit < 1:
        raise ConfigError("--repeat and --limit must be at least 1")
    questions = []
    for where, row in islice(json_lines(options.questions), options.limit):
        if not isinstance(row.get("question"), str) or not row["question"].strip():
            raise ConfigError(f"{where}: 'question' is missing: a text")
        questions.append(row["question"])
    with (
        Retriever.open(options.index, threads=1) as retriever,
        tqdm(total=len(questions), unit="searches", disable=None, leave=False) as bar,
    ):
        profile = record_questions(
            retriever,
            questions,
            top_k=options.top_k,
            stages=options.stages,
            repeat=options.repeat,
            on_progress=bar.update,
        )
    profile.save(options.out)
    print(f"{'stage':>5}{'milliseconds':>15}{'final list':>13}")
    for at, (seconds, share) in enumerate(zip(profile.stage_seconds, profile.settled(), strict=True), 1):
        print(f"{at:>5}{seconds * 1000:>15.3f}{share:>13.1%}")
    if len(profile.stage_seconds) == 1:
        print(f"searches of one stage ({profile.index_type}): they show nothing before they end", file=sys.stderr)
    print(f"{len(profile.lists)} searches in {options.out}", file=sys.stderr)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ragcache.errors import ConfigError
    from ragcache.replay.timeline import write_timeline
    from ragcache.replay.workload import Workload
    from ragcache.whole_file import check_writable

    for name, least in (("system_tokens", 0), ("threads", 0), ("timeout_ms", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if options.hardware is not None and (options.url is not None or options.engine == "torch"):
        other = "--url" if options.url is not None else "--engine torch"
        raise ConfigError(f"--hardware describes what is to be simulated, and {other} asks the real: leave out either")
    if options.trace is not None:
        check_writable(options.trace)
    workload = Workload.read(options.workload)
    if options.limit is not None:
        workload = workload.first(options.limit)
    if options.rate is not None:
        workload = workload.with_rate(options.rate, options.seed)
    about = {"workload": options.workload.name, "rate": options.rate, "seed": options.seed}
    with tqdm(total=len(workload), unit="requests", unit_scale=True, disable=None, leave=False) as bar:
        if options.url is not None:
            report = _replay_remote(options, workload, about, bar.update)
        elif options.engine == "torch":
            report = _replay_here(options, workload, about, bar.update)
        else:
            report = _replay_simulated(options, workload, about, bar.update)
    if options.trace is not None:
        write_timeline(options.trace, report.outcomes)
    print(report.as_json() if options.json else report.table())
    return 0


def _replay_settings(options: argparse.Namespace, **changes: Any) -> Any:
    from ragcache.replay.service import SimulatedSettings
    from ragcache.sizes import parse_size

    given = {
        "hardware": options.hardware or "a10g",
        "model": options.model or "mistral-7b",
        "device_cache": parse_size(options.device_cache),
        "host_cache": parse_size(options.host_cache),
        "policy": options.policy,
        "admission": options.admission,
        "prefill_chunk": options.prefill_chunk,
        "max_batch": options.max_batch,
        "max_prefill_batch": options.max_prefill_batch,
        "max_waiting": options.max_waiting,
        "reorder_window": options.reorder_window,
        "speculate": options.speculate == "dynamic",
    }
    return SimulatedSettings(**{**given, **changes})


def _replay_simulated(options: argparse.Namespace, workload: Any, about: dict[str, Any], on_progress: Any) -> Any:
    from ragcache.cost import PrefillProfile
    from ragcache.replay.run import simulate
    from ragcache.replay.search_profile import SearchProfile
    from ragcache.replay.searches import Together

    settings = _replay_settings(options)
    machine = _pim_machine(options)
    searches: Any = None
    if machine is not None:
        searches = Together(machine)
    elif options.search is not None:
        searches = SearchProfile.load(options.search)
    return simulate(
        workload,
        settings,
        system_tokens=options.system_tokens,
        searches=searches,
        prefill=None if options.prefill_times is None else PrefillProfile.load(options.prefill_times),
        machine=machine,
        seed=options.seed,
        timeout_ms=options.timeout_ms,
        about={"engine": "simulated", **about},
        on_progress=on_progress,
    )


def _pim_machine(options: argparse.Namespace) -> Any:
    """The system of pimsim that `--hardware` names, or None where it names a machine of our table."""
    from ragcache.engine.simulated.hardware import HARDWARE
    from ragcache.errors import ConfigError

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


def _replay_here(options: argparse.Namespace, workload: Any, about: dict[str, Any], on_progress: Any) -> Any:
    import asyncio

    from ragcache.cli.assembly.torch import assemble_replay
    from ragcache.replay.run import replay_service
    from ragcache.replay.search_profile import SearchProfile

    # a described model is named only so that the rest of the settings is checked in one place
    settings = _replay_settings(options, model="smollm2-135m", hardware="this-cpu")
    print("loading the model ...", file=sys.stderr, flush=True)
    service, cost, described = assemble_replay(
        settings,
        workload,
        model=options.model or "default",
        system_tokens=options.system_tokens,
        searches=None if options.search is None else SearchProfile.load(options.search),
        seed=options.seed,
        threads=options.threads,
    )
    try:
        return asyncio.run(
            replay_service(
                workload,
                service,
                {"engine": "torch", **described, **about},
                options.system_tokens,
                cost,
                options.timeout_ms,
                on_progress,
            )
        )
    finally:
        service.close()


def _replay_remote(options: argparse.Namespace, workload: Any, about: dict[str, Any], on_progress: Any) -> Any:
    import asyncio

    from ragcache.replay.run import replay_remote
    from server.remote import RemoteAsker

    print(f"{options.url} finds documents of its own; only questions, lengths and times are sent", file=sys.stderr)

    async def main() -> Any:
        async with RemoteAsker(options.url, options.timeout_ms) as asker:
            return await replay_remote(workload, asker, {"url": options.url, **about}, on_progress)

    return asyncio.run(main())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{max(1, rest)} s"


def _query(options: argparse.Namespace) -> int:
    from server.client import RagClient

    with RagClient(options.url) as client:
        asked = {"top_k": options.top_k, "max_tokens": options.max_tokens, "temperature": options.temperature}
        for name, data in client.stream(options.question, **asked):
            if name == "delta":
                print(data["text"], end="", flush=True)
            elif name == "done":
                print(flush=True)
                print(_summary(data), file=sys.stderr)
    return 0


def _summary(answer: dict[str, Any]) -> str:
    """What an answer was made of, in three lines."""
    usage, timing = answer["usage"], answer["timing"]
    cached = sum(usage["cached_tokens"].values())
    titles = ", ".join(
        document["title"] + (" (cut short)" if document["truncated"] else "") for document in answer["documents"]
    )
    return (
        f"\nfrom:   {titles}\n"
        f"prompt: {usage['prompt_tokens']} tokens, {cached} from the cache, {usage['computed_tokens']} computed\n"
        f"time:   {timing['ttft_ms']:.0f} ms to the first token, {timing['total_ms']:.0f} ms in all"
    )


_COMMANDS = {
    "corpus": _corpus_python,
    "index": _index,
    "serve": _serve,
    "simulate": _simulate,
    "profile": _profile,
    "profile-search": _profile_search,
    "replay": _replay,
    "query": _query,
}


if __name__ == "__main__":
    sys.exit(main())
