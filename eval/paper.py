"""The paper's figures, simulated: an A10G with Mistral-7B under RAGCache's load, beside what the paper reports."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from eval.props.paper_load import Pages, PaperLoad
from ragcache.console import streams
from ragcache.replay.run import simulate
from ragcache.replay.service import SimulatedSettings

GiB = 2**30
SYSTEM_TOKENS = 50
TOP_K = 2
LISTS = 1024  # of the IVF index [paper]
USUAL_SHARE = 0.125  # of the lists are probed, unless the search itself is studied
SEARCH_SHARES = (0.125, 0.25, 0.5, 1.0)
HOSTS = (8, 16, 32, 64, 128)  # GiB
POLICIES = ("pgdsf", "gdsf", "lru", "lfu")
ANSWERS = {"MMLU": 1, "NQ": 6}  # tokens [paper]
# RAGCache on an A10G with 192 GiB of host memory for KV, batches of at most 4, a window of 32 [paper]. Its requests and
# SGLang's compute what another one is computing at the time
RAGCACHE = SimulatedSettings(host_cache=192 * GiB, speculate=True, share_in_flight=False)
SYSTEMS = {
    "no cache (as vLLM)": SimulatedSettings(policy="none", reorder_window=0),
    "device only, LRU (as SGLang)": SimulatedSettings(policy="lru", reorder_window=0, share_in_flight=False),
    "RAGCache": RAGCACHE,
}
STEP = 1.1  # between the rates that are tried for the throughput
SLOW = 5.0  # throughput: the highest rate with a mean TTFT below this many times that of the lowest rate [paper]

Row = dict[str, Any]


class Evaluation:
    """The paper's experiments over one corpus; each yields rows for its table."""

    def __init__(self, pages: Pages, requests: int, seed: int) -> None:
        self._seed = seed
        self._pages = pages
        self._questions = pages.questions(requests)
        self.usual = self._load(USUAL_SHARE)

    def systems(self) -> Iterator[Row]:
        """Time to first token at shares of the first system's throughput, and each system's own throughput."""
        for dataset, tokens in ANSWERS.items():
            first = None
            for name, settings in SYSTEMS.items():
                throughput = self._throughput(settings, tokens)
                first = first or throughput
                ttft = {
                    f"at {share:.0%}": self._run(settings, first * share, tokens)["ttft"]["mean"]
                    for share in (0.5, 0.75, 1.0)
                }
                yield {"dataset": dataset, "system": name, **ttft, "throughput": throughput}

    def policies(self) -> Iterator[Row]:
        """Hits and time to first token by policy and host memory, at a rate that every policy keeps up with."""
        rate = 0.6 * self._throughput(replace(RAGCACHE, policy="lru", host_cache=HOSTS[0] * GiB), 1)
        for host in HOSTS:
            for policy in POLICIES:
                report = self._run(replace(RAGCACHE, policy=policy, host_cache=host * GiB, speculate=False), rate, 1)
                yield {
                    "host GiB": host,
                    "policy": policy,
                    "documents hit": report["hits"]["document_ratio"],
                    "tokens hit": report["hits"]["token_ratio"],
                    "prefill saved s": report["hits"]["prefill_seconds_saved"],
                    "ttft": report["ttft"]["mean"],
                }

    def reordering(self) -> Iterator[Row]:
        """Time to first token with the window off and on, around the highest rate that arrival order keeps up with."""
        plain = replace(RAGCACHE, reorder_window=0, speculate=False)
        highest = self._throughput(plain, 1)
        for load in (0.9, 1.0, 1.1, 1.25):
            off = self._run(plain, highest * load, 1)
            on = self._run(replace(plain, reorder_window=32), highest * load, 1)
            yield {
                "rate": highest * load,
                "ttft off": off["ttft"]["mean"],
                "ttft on": on["ttft"]["mean"],
                "lower by": off["ttft"]["mean"] / on["ttft"]["mean"],
                "p99 lower by": off["ttft"]["p99"] / on["ttft"]["p99"],
                "documents hit off": off["hits"]["document_ratio"],
                "documents hit on": on["hits"]["document_ratio"],
            }

    def speculation(self, factors: Sequence[float]) -> Iterator[Row]:
        """Time to first token with speculation off and on, by the share of lists that are probed, at a low rate.

        The recorded search times are multiplied by each of `factors`.
        """
        rate = 0.3 * self._throughput(replace(RAGCACHE, speculate=False), 1)
        for share in SEARCH_SHARES:
            load = self._load(share)
            settled = list(load.searches.settled())
            for factor in factors:
                slower = replace(load, searches=load.searches.scaled(factor))
                off, on = (
                    self._run(replace(RAGCACHE, speculate=speculate), rate, 1, slower) for speculate in (False, True)
                )
                before, after = (report["search"]["not_overlapped"]["mean"] for report in (off, on))
                yield {
                    "lists probed": share,
                    "search s": off["search"]["mean"],
                    "final list at 1/4": settled[0],
                    "ttft off": off["ttft"]["mean"],
                    "ttft on": on["ttft"]["mean"],
                    "ttft lower by": off["ttft"]["mean"] / on["ttft"]["mean"],
                    "search not overlapped lower by": before / after if after else None,
                    "wasted tokens": on["speculation"]["wasted_tokens"],
                }

    def _load(self, share: float) -> PaperLoad:
        return self._pages.load(*self._questions, top_k=TOP_K, nprobe=max(1, round(share * self._pages.index.nlist)))

    def _run(self, settings: SimulatedSettings, rate: float, tokens: int, load: PaperLoad | None = None) -> Row:
        load = load or self.usual
        workload = load.with_output(tokens).with_rate(rate, self._seed)
        report = simulate(workload, settings, system_tokens=SYSTEM_TOKENS, searches=load.searches, seed=self._seed)
        return report.as_dict()

    def _throughput(self, settings: SimulatedSettings, tokens: int) -> float:
        """The highest rate, in steps of STEP, with a mean TTFT below SLOW times that of the lowest rate."""
        rate = lowest = 0.02
        bound = SLOW * self._run(settings, lowest, tokens)["ttft"]["mean"]
        while self._run(settings, rate * STEP**4, tokens)["ttft"]["mean"] < bound:
            rate *= STEP**4
        while self._run(settings, rate * STEP, tokens)["ttft"]["mean"] < bound:
            rate *= STEP
        return rate


PAPER = {
    "systems": "TTFT 1.2-4x lower than vLLM with throughput up to 2.1x, 1.1-3.5x lower than SGLang with up to 1.8x",
    "policies": "PGDSF hits +2-32 % over GDSF, +6-62 % over LRU, +6-75 % over LFU; TTFT at 8 GiB 1.38 / 1.68 / 1.78 / "
    "1.81 s, at 128 GiB 0.83 / 0.98 / 1.01 / 1.03 s (PGDSF / GDSF / LRU / LFU)",
    "reordering": "TTFT 1.2-2.1x lower at high load",
    "speculation": "TTFT up to 1.6x lower, search time not overlapped 1.5-2.3x lower",
}


def _table(rows: Sequence[Row]) -> str:
    lines = []
    widths = {name: max(len(name), *(len(_cell(row[name])) for row in rows)) for name in rows[0]}
    lines.append("  ".join(name.rjust(width) for name, width in widths.items()))
    lines += ["  ".join(_cell(row[name]).rjust(width) for name, width in widths.items()) for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 100 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints each experiment as it ends; JSON at the end."""
    parser = argparse.ArgumentParser(prog="python -m eval.paper", description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=2000, metavar="N", help="requests of each run (default: %(default)s)"
    )
    parser.add_argument(
        "--pages", type=int, default=300_000, metavar="N", help="pages of the corpus (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything drawn (default: %(default)s)")
    parser.add_argument("--only", choices=list(PAPER), help="run one experiment")
    parser.add_argument(
        "--search-factor",
        type=float,
        nargs="+",
        default=[1.0, 10.0],
        metavar="F",
        help="for speculation, multiply the search times measured here (default: 1 10)",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.requests < 10 or arguments.pages < 100 or min(arguments.search_factor) <= 0:
        parser.error("--requests is 10 or more, --pages 100 or more, and a --search-factor above 0")
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {text}", file=sys.stderr, flush=True)

    say(f"indexing {arguments.pages:,} pages and searching for {arguments.requests:,} questions ...")
    pages = Pages(arguments.pages, min(LISTS, arguments.pages // 40), arguments.seed)
    evaluation = Evaluation(pages, arguments.requests, arguments.seed)
    experiments: dict[str, Callable[[], Iterator[Row]]] = {
        "systems": evaluation.systems,
        "policies": evaluation.policies,
        "reordering": evaluation.reordering,
        "speculation": lambda: evaluation.speculation(arguments.search_factor),
    }
    results: dict[str, Any] = {"found_first": evaluation.usual.found_first}
    for name, experiment in experiments.items():
        if arguments.only in (None, name):
            say(f"{name} ...")
            rows = results[name] = list(experiment())
            if not arguments.json:
                print(f"\n{name}\n{_table(rows)}\npaper: {PAPER[name]}", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.paper"))
