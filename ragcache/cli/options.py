"""Options: what the command line accepts, and says of itself."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ragcache.cli.config import ServeConfig, option_kind


def parser() -> argparse.ArgumentParser:
    """Of `ragcache COMMAND`; the command is in `command`."""
    whole = argparse.ArgumentParser(
        prog="ragcache", description="A RAG service that keeps the KV of its documents in a knowledge tree."
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

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

    index = commands.add_parser("index", help="build a vector index and document store from a corpus")
    index.add_argument("--corpus", type=Path, required=True, metavar="FILE", help="JSON lines with id, text, title")
    index.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    index.add_argument("--type", choices=("flat", "ivf", "hnsw"), default="flat", help="default: flat (exact)")
    index.add_argument("--embedder", default="default", metavar="NAME", help="folder or Hugging Face id")
    index.add_argument("--embeddings", type=Path, metavar="FILE.npy", help="use these vectors [documents, dimensions]")
    index.add_argument("--quiet", action="store_true", help="no progress bars")

    serve = commands.add_parser("serve", help="answer questions over HTTP")
    serve.add_argument("--config", type=Path, metavar="FILE.toml", help="settings by the names below; options win")
    _add_settings(serve)

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

    searches = commands.add_parser(
        "profile-search", help="record real searches stage by stage, for `replay --search` to repeat in virtual time"
    )
    searches.add_argument("--index", type=Path, required=True, metavar="FILE", help="faiss.idx of an index folder")
    searches.add_argument(
        "--questions", type=Path, required=True, metavar="FILE", help="JSON lines with a question each, may be .gz"
    )
    searches.add_argument("--top-k", type=int, default=2, metavar="N", help="documents to search for (default: 2)")
    searches.add_argument("--stages", type=int, metavar="N", help="of equal effort (default: as many as pay)")
    searches.add_argument("--limit", type=int, default=1000, metavar="N", help="questions at most (default: 1000)")
    searches.add_argument("--repeat", type=int, default=3, metavar="N", help="a time is the median of so many")
    searches.add_argument("--out", type=Path, required=True, metavar="FILE.json")

    _add_replay(commands)

    query = commands.add_parser("query", help="ask a running server")
    query.add_argument("question")
    query.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    query.add_argument("--top-k", type=int, metavar="N", help="how many documents")
    query.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    query.add_argument("--temperature", type=float, metavar="T", help="0 (the default) is greedy")
    return whole


def _add_replay(commands: Any) -> None:
    replay = commands.add_parser(
        "replay",
        help="send a workload's requests at their times: to a described machine in virtual time, to this one, or to a "
        "running server",
    )
    replay.add_argument(
        "--workload",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines {t, path: [ids], sizes: [tokens], question: text or tokens, output: tokens}, may be .gz",
    )
    replay.add_argument("--rate", type=float, metavar="R", help="Poisson arrivals, so many a second, instead of t")
    replay.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals and whatever is drawn")
    replay.add_argument("--limit", type=int, metavar="N", help="only the first requests")
    where = replay.add_mutually_exclusive_group()
    where.add_argument(
        "--engine",
        choices=("simulated", "torch"),
        default="simulated",
        help="simulated: in virtual time (default); torch: computed here, with made-up documents of the given sizes",
    )
    where.add_argument("--url", help="a running server, which finds documents of its own")
    machine = replay.add_argument_group("the machine and the model")
    machine.add_argument(
        "--hardware",
        metavar="NAME",
        help="a10g (default), h100, 2xh800 or this-cpu; or a system as `pimsim run` takes it, such as heterrag, "
        "cpu-gpu-v100 or a YAML file, which brings its own times of searches",
    )
    machine.add_argument(
        "--model",
        metavar="NAME",
        help="mistral-7b (default), llama2-7b, mixtral-8x7b, llama2-70b, llama-3.1-8b or smollm2-135m; with a system "
        "of pimsim one of pimsim's instead of the system's own; with --engine torch a folder, GGUF file or Hugging "
        "Face id",
    )
    machine.add_argument("--prefill-times", type=Path, metavar="FILE", help="as measured by `ragcache profile`")
    machine.add_argument("--search", type=Path, metavar="FILE", help="searches recorded by `ragcache profile-search`")
    machine.add_argument("--threads", type=int, default=0, metavar="N", help="torch threads (0: one a core)")
    service = replay.add_argument_group("the service")
    service.add_argument("--device-cache", default="0", metavar="SIZE", help="such as 2GiB (default: what is left)")
    service.add_argument("--host-cache", default="0", metavar="SIZE", help="such as 192GiB (default: none)")
    service.add_argument("--policy", default="pgdsf", metavar="NAME", help="as for serve, or none (default: pgdsf)")
    service.add_argument("--admission", default="always", metavar="NAME", help="always (default) or competes")
    for name, default, text in (
        ("system-tokens", 50, "length of the system prompt"),
        ("prefill-chunk", 512, "prompt tokens computed in one step, at most"),
        ("max-batch", 4, "requests that the engine works on at a time"),
        ("max-prefill-batch", 4, "with so many prompts to be computed, nothing is speculated on"),
        ("max-waiting", 100_000, "requests that may wait; a further one is refused"),
        ("reorder-window", 32, "by how many later requests one may be passed (0: order of arrival)"),
    ):
        service.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    service.add_argument("--speculate", choices=("off", "dynamic"), default="off", help="default: off")
    service.add_argument("--timeout-ms", type=int, metavar="N", help="after so long a request is given up")
    replay.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    replay.add_argument("--trace", type=Path, metavar="FILE.json", help="write a chrome trace of the requests")


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
