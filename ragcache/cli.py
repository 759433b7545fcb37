"""The command line, `ragcache COMMAND`: the one place that knows every package."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragcache.config import ServeConfig, option_kind
from ragcache.errors import RagCacheError
from retrieval.errors import RetrievalError

# Each command imports what it needs when it runs: `ragcache query` should not wait seconds for torch to load.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. Errors that are the user's to mend are one line on stderr."""
    options = _parser().parse_args(arguments)
    # SIGTERM unwinds the stack like Ctrl-C does, so that half-written files are removed
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(options.run(options) or 0)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ragcache", description="A RAG service that keeps the KV of its documents in a knowledge tree."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    corpus = commands.add_parser("corpus", help="collect documents into a corpus")
    kinds = corpus.add_subparsers(dest="kind", required=True, metavar="KIND")
    python = kinds.add_parser(
        "python", help="docstrings of the standard library and of installed packages, 60 words or more"
    )
    python.add_argument("--out", type=Path, required=True, metavar="FILE", help="docs.jsonl or docs.jsonl.gz")
    python.add_argument(
        "--package",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="only these packages; stdlib is the standard library (default: stdlib and what ragcache installs)",
    )
    python.set_defaults(run=_corpus_python)

    index = commands.add_parser("index", help="build a vector index and document store from a corpus")
    index.add_argument("--corpus", type=Path, required=True, metavar="FILE", help="JSON lines with id, text, title")
    index.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    index.add_argument("--type", choices=("flat", "ivf", "hnsw"), default="flat", help="default: flat (exact)")
    index.add_argument("--embedder", default="default", metavar="NAME", help="folder or Hugging Face id")
    index.add_argument("--embeddings", type=Path, metavar="FILE.npy", help="use these vectors [documents, dimensions]")
    index.add_argument("--quiet", action="store_true", help="no progress bars")
    index.set_defaults(run=_index)

    serve = commands.add_parser("serve", help="answer questions over HTTP")
    serve.add_argument("--config", type=Path, metavar="FILE.toml", help="settings by the names below; options win")
    _add_settings(serve)
    serve.set_defaults(run=_serve)

    simulate = commands.add_parser(
        "simulate", help="replay a trace through the knowledge cache, to compare policies and sizes of cache"
    )
    simulate.add_argument("--trace", type=Path, required=True, metavar="FILE", help="the requests, may be .gz")
    simulate.add_argument(
        "--format",
        choices=("paths", "objects", "ragpulse"),
        required=True,
        help="paths: JSON lines {t, path: [ids], sizes: [tokens]}; objects: CSV with obj and size, one document a "
        "request; ragpulse: trace.jsonl[.gz] of RAGPulse with passages.jsonl[.gz] beside it",
    )
    simulate.add_argument("--policy", required=True, metavar="P[,P…]", help="names such as pgdsf,lru, or all")
    simulate.add_argument(
        "--capacity", required=True, metavar="N[,N…]", help="what the cache holds, in tokens (objects: unit of size)"
    )
    simulate.add_argument(
        "--cost",
        default="50,0.01",
        metavar="constant|a,b|PROFILE",
        help="time of a prefill: 1 s each; a*new + b*((cached+new)^2 - cached^2) microseconds; or a measured "
        "profile (default: %(default)s)",
    )
    simulate.add_argument(
        "--admission",
        choices=("always", "competes"),
        default="always",
        help="whether a newcomer always stays, or only where the policy prefers it to what it would displace "
        "(default: %(default)s)",
    )
    simulate.add_argument(
        "--host-capacity",
        type=int,
        default=0,
        metavar="N",
        help="what a host tier below it holds, in the same unit; loading from there counts as no time (default: none)",
    )
    simulate.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    simulate.add_argument("--curve", type=Path, metavar="FILE.png", help="plot hits and time saved against capacity")
    simulate.set_defaults(run=_simulate)

    profile = commands.add_parser(
        "profile",
        help="measure how long a prefill takes on this machine, for `serve` and `simulate --cost` to weigh by",
    )
    profile.add_argument("--model", default="default", metavar="NAME", help="folder, GGUF file or Hugging Face id")
    profile.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads (0, the default: one a core)"
    )
    profile.add_argument(
        "--cached", metavar="N,N…", help="numbers of cached tokens (default: up to the context, or 8192)"
    )
    profile.add_argument("--new", metavar="N,N…", help="numbers of tokens to compute behind them")
    profile.add_argument(
        "--runs", type=int, default=3, metavar="N", help="a time is the median of so many (default: 3)"
    )
    profile.add_argument(
        "--prefill-chunk", type=int, default=512, metavar="N", help="tokens computed in one step, as `serve` has it"
    )
    profile.add_argument(
        "--out", type=Path, metavar="FILE", help="write here (default: where `serve` finds it by itself)"
    )
    profile.add_argument("--json", action="store_true", help="print the profile instead of a table")
    profile.set_defaults(run=_profile)

    query = commands.add_parser("query", help="ask a running server")
    query.add_argument("question")
    query.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    query.add_argument("--top-k", type=int, metavar="N", help="how many documents")
    query.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    query.add_argument("--temperature", type=float, metavar="T", help="0 (the default) is greedy")
    query.set_defaults(run=_query)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """An option for each setting; None where it was not given, so that the file's value shows through."""
    for field in dataclasses.fields(ServeConfig):
        kind = option_kind(field.name)
        flag = f"--{field.name.replace('_', '-')}"
        text = field.metadata["help"]
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=f"{text} (default)")
            continue
        default = "" if field.metadata.get("required") else f" (default: {_readable(field)})"
        size = field.metadata.get("size")
        metavar = "SIZE" if size else {int: "N", float: "SECONDS", Path: "FILE"}.get(kind, "NAME")
        metavar = field.metadata.get("form", metavar)
        parser.add_argument(flag, type=str if size or kind is Path else kind, metavar=metavar, help=text + default)


def _readable(field: dataclasses.Field[Any]) -> str:
    default: Any = field.default
    return f"{default >> 30}GiB" if field.metadata.get("size") and default else str(default) or "none"


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
            from ragcache.vllm_assembly import assemble
        else:
            from ragcache.assembly import assemble
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
    from ragcache.simulation import Simulation, choices, report
    from ragcache.trace import read_trace

    policies, capacities = choices(options.policy, options.capacity)
    cost = parse_cost(options.cost)
    if options.curve is not None:
        from ragcache.curve import check_plotting

        check_plotting(options.curve)  # now, and not after minutes of replay
    trace = read_trace(options.trace, options.format)
    simulation = Simulation(trace, cost, options.admission, options.host_capacity)
    outcomes = simulation.run_all(policies, capacities)
    print(report(outcomes, as_json=options.json))
    if options.curve is not None:
        from ragcache.curve import draw

        draw(outcomes, options.curve, title=f"{options.trace.name}: {trace.documents:,} documents asked for")
        print(f"curves in {options.curve}", file=sys.stderr)
    return 0


def _profile(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ragcache.assembly import available_cores
    from ragcache.engine.checkpoint import Checkpoint
    from ragcache.engine.model import TorchModel
    from ragcache.engine.profiling import Plan, Profiling, doubts, parse_axis, table
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


if __name__ == "__main__":
    sys.exit(main())
