"""Under load: many clients at once get, token for token, what each gets alone, and afterwards all memory is back.

Each question is first answered alone, with the cache off. Then a server with a device cache too small for the clients,
and a host cache behind it, is asked by all of them: repeated questions and new ones, as a whole or as
a stream; some clients hang up at a random moment, some give their question too little time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from eval.props.crowd import Crowd, Request, Visit
from eval.props.idle_server import come_to_rest
from eval.props.index_options import QUESTIONS, add_index_options, opened_index
from eval.props.question_set import QuestionError, read_questions
from eval.props.server_process import ServerDied, ServerProcess, arguments_for
from eval.props.uncached import Tally, Uncached, answer_uncached
from ragcache.cli.config import ServeConfig
from ragcache.console import streams
from ragcache.errors import RagCacheError
from retrieval.errors import RetrievalError

KNOWN = 12  # questions that are asked again and again
NEW_SHARE = 0.3  # of the requests ask a new question, for as long as there are any
STREAM_SHARE = 0.4
HANG_UP_SHARE = 0.15
TIMEOUT_SHARE = 0.15
HANG_UP_SECONDS = (0.005, 1.0)  # bounds of what is drawn, small values as often as large ones
TIMEOUT_MS = (1, 300)


@dataclass(slots=True)
class Report:
    """What the load showed. `answers` are compared with those given alone; `tokens` are those of answered prompts, by
    source; `problems` say what is wrong."""

    seed: int
    clients: int
    outcomes: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    answers: Tally = field(default_factory=Tally)
    tokens: Counter[str] = field(default_factory=Counter)
    evictions: dict[str, int] = field(default_factory=dict)
    audits: int = 0
    server_outcomes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        # not asdict for all, which before Python 3.12 makes a Counter of pairs from a Counter
        values = {name: getattr(self, name) for name in Report.__slots__}
        return json.dumps(values | {"answers": asdict(self.answers)}, indent=2)

    def in_words(self) -> str:
        rows = [
            (
                "requests",
                f"{self.outcomes.total()} by {self.clients} clients in {self.seconds:.0f} s, seed {self.seed}",
            ),
            ("how they ended", _listed(self.outcomes)),
            ("answers against alone", self.answers.in_words()),
            ("of them streamed", str(self.streams)),
            ("prompt tokens", _listed(self.tokens)),
            ("evictions", _listed(self.evictions)),
            ("recounts of the books", f"{self.audits}, all right" if not self.problems else str(self.audits)),
            ("the server counted", _listed(self.server_outcomes)),
        ]
        return "\n".join(
            [*(f"  {name:<24}{text}" for name, text in rows), *(f"PROBLEM: {problem}" for problem in self.problems)]
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count) or "none"


class UnderLoad:
    """Asks `count` requests about `questions`, of which the first KNOWN are those that come again."""

    def __init__(self, questions: Sequence[str], reference: dict[str, Uncached], *, clients: int, seed: int) -> None:
        self.report = Report(seed, clients)
        self._questions = questions
        self._reference = reference

    def requests(self, count: int) -> Iterator[Request]:
        rng = random.Random(self.report.seed)
        new = iter(self._questions[KNOWN:])
        known = self._questions[:KNOWN]
        for _ in range(count):
            question = next(new, None) if rng.random() < NEW_SHARE else None
            body: dict[str, Any] = {"question": question or rng.choice(known), "stream": rng.random() < STREAM_SHARE}
            manner = rng.random()
            if manner < HANG_UP_SHARE:
                yield Request(body, hang_up=_between(rng, HANG_UP_SECONDS))
            elif manner < HANG_UP_SHARE + TIMEOUT_SHARE:
                yield Request({**body, "timeout_ms": round(_between(rng, TIMEOUT_MS))})
            else:
                yield Request(body)

    def hold(self, visit: Visit) -> None:
        """Counts how a request ended, and adds what is wrong with it to the problems."""
        report, body = self.report, visit.request.body
        report.outcomes[visit.outcome] += 1
        if visit.outcome == "failed" or (visit.outcome == "expired" and "timeout_ms" not in body):
            report.problems.append(f"{body}: {visit.problem}")
        if visit.answer is None:
            return
        report.streams += body["stream"]
        usage = visit.answer["usage"]
        sources = {"computed": usage["computed_tokens"], **usage["cached_tokens"]}
        report.tokens.update(sources)
        if sum(sources.values()) != usage["prompt_tokens"]:
            report.problems.append(f"{body}: {sources} do not add up to {usage['prompt_tokens']} tokens")
        expected = self._reference[body["question"]]
        verdict = expected.compare(visit.answer)
        report.answers.count(verdict)
        if verdict == "different":
            report.problems.append(
                f"{body}: {visit.answer['answer']!r}, alone {expected.text!r} with margins {expected.margins}"
            )

    def run(self, url: str, count: int) -> Report:
        """Sends all requests, and checks the server once it is idle."""
        report, begin = self.report, time.monotonic()
        with tqdm(total=count, unit="request", file=sys.stderr, disable=None, leave=False) as bar:

            def on_visit(visit: Visit) -> None:
                self.hold(visit)
                bar.update()

            Crowd(url, self.requests(count), report.clients, on_visit).join()
        report.seconds = round(time.monotonic() - begin, 1)
        idle = come_to_rest(url)
        report.problems += idle.problems
        report.audits = idle.cache["integrity"]["audits"]
        report.evictions = {name: tier["evictions"] for name, tier in idle.cache["tiers"].items()}
        report.server_outcomes = idle.outcomes
        if idle.outcomes["answered"] < report.outcomes["answered"]:
            report.problems.append(f"the server counts {idle.outcomes}, the clients {dict(report.outcomes)}")
        return report


def _between(rng: random.Random, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return float(low * (high / low) ** rng.random())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if any answer differs by more than a tie, or memory is missing afterwards."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.under_load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=16, metavar="N")
    parser.add_argument("--requests", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of questions and manners (default: %(default)s)")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="JSON lines with id, question")
    parser.add_argument("--max-tokens", type=int, default=12, metavar="N")
    # room for about five requests of the default model, and as many again on the host
    add_index_options(parser, device_cache="64MiB", host_cache="64MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.clients < 1 or options.requests < 1:
        parser.error("--clients and --requests must be at least 1")
    try:
        with opened_index(options, "under-load") as (folder, index):
            report = _run(options, folder, index)
    except (RagCacheError, RetrievalError, QuestionError, ServerDied, httpx.HTTPError) as error:
        print(f"under_load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(report.as_json() if options.json else report.in_words())
    return 1 if report.problems else 0


def _run(options: argparse.Namespace, folder: Path, index: Path) -> Report:
    texts = [question.text for question in read_questions(options.questions)]
    random.Random(options.seed).shuffle(texts)
    texts = texts[: KNOWN + round(options.requests * NEW_SHARE)]
    config = ServeConfig(
        index=index,
        model=options.model,
        max_doc_tokens=options.max_doc_tokens,
        max_question_tokens=64,
        max_tokens=options.max_tokens,
        max_waiting=options.clients,  # no request is refused
        device_cache=options.device_cache,
        host_cache=options.host_cache,
        threads=options.threads,
    )
    alone = dataclasses.replace(config, cache=False, host_cache=0)
    load = UnderLoad(texts, answer_uncached(alone, texts), clients=options.clients, seed=options.seed)
    with ServerProcess(arguments_for(config), folder / "server.log") as server:
        url, _ = server.wait_ready()
        report = load.run(url, options.requests)
        server.terminate()
        if status := server.wait():
            report.problems.append(f"the server ended with status {status}")
        if "Traceback" in server.said:
            report.problems.append(f"the server said: {server.said.strip()}")
    return report


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.under_load"))
