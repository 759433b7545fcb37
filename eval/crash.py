"""Crash: a server is killed at random moments under load, and started again over what that left on its disk cache.

Each round starts `ragcache serve` as a process, compares its first answers with uncached ones, sends it questions from
several clients, and kills it with SIGKILL: while they ask, or while it ends after SIGTERM. Some rounds also kill a
server that is starting. What is then on disk is checked in a copy, so that the next server finds it as the crash left
it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.demo_corpus import demo_index
from eval.props.load import Load
from eval.props.question_set import QuestionError, read_questions
from eval.props.server_process import ServerDied, ServerProcess, arguments_for
from eval.props.uncached import Tally, Uncached, answer_uncached
from ragcache.cli.config import ServeConfig
from ragcache.console import streams
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.transfer import KVTransfer, kv_fingerprint
from ragcache.errors import RagCacheError
from ragcache.model.checkpoint import Checkpoint
from ragcache.sizes import parse_size
from ragcache.storage.lmdb_store import DiskStore
from retrieval.errors import RetrievalError
from server.client import RagClient, ServerError

QUESTIONS = Path(__file__).parent / "questions" / "python.jsonl"
KNOWN, NEW = 12, 36  # questions that are asked again and again, and others
FIRST = 4  # answers after each start that are compared with uncached ones before anything else is asked
STARTING_SHARE = 0.2  # of the rounds kill a server that is still starting, too
FINISHING_SHARE = 0.25  # of the rounds kill one that is ending after SIGTERM
FINISHING_SECONDS = 0.8  # after SIGTERM, at most
# what a crash may leave to be swept: KV that was being written or removed, which no header makes visible
INNOCENT = {"unfinished"}
BAD_WORDS = ("Traceback", "do not balance")  # in a server's log


@dataclass(slots=True)
class Report:
    """What the rounds showed: `kills` by phase, `visible` records after each kill; `problems` say what is wrong."""

    rounds: int = 0
    seed: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    visible: list[int] = field(default_factory=list)
    verified: int = 0
    damaged: int = 0
    swept: Counter[str] = field(default_factory=Counter)
    discarded: int = 0
    first_answers: Tally = field(default_factory=Tally)
    first_tokens: Counter[str] = field(default_factory=Counter)
    load_answers: Tally = field(default_factory=Tally)
    load_tokens: Counter[str] = field(default_factory=Counter)
    hung_up: int = 0
    ready_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        values: dict[str, Any] = {name: getattr(self, name) for name in Report.__slots__}
        values["first_answers"], values["load_answers"] = asdict(self.first_answers), asdict(self.load_answers)
        values["visible"] = _spread(self.visible)
        values["ready_seconds"] = _spread([round(seconds, 2) for seconds in self.ready_seconds])
        values["seconds"] = round(self.seconds, 1)
        return json.dumps(values, indent=2)

    def in_words(self) -> str:
        visible = _spread(self.visible)
        lines = [
            f"{self.rounds} rounds in {self.seconds:.0f} s, seed {self.seed}",
            f"kills: {_listed(self.kills)}; restarts: {self.restarts}",
            f"records visible after a kill: {visible['min']} / {visible['median']} / {visible['max']} (least, median, "
            f"most); {self.verified} read and checked, {self.damaged} damaged",
            f"swept: {_listed(self.swept)}; cache files given up: {self.discarded}",
            f"first answers after a start: {self.first_answers.in_words()}; tokens: {_listed(self.first_tokens)}",
            f"answers under load: {self.load_answers.in_words()}; tokens: {_listed(self.load_tokens)}; "
            f"hung up: {self.hung_up}",
            *(f"PROBLEM: {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)} if values else {}


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"


class Crash:
    """Runs the rounds in `folder`, which holds the disk cache, its copy and the servers' logs."""

    def __init__(
        self,
        config: ServeConfig,
        known: Sequence[str],
        new: Sequence[str],
        reference: dict[str, Uncached],
        fingerprint: bytes,
        folder: Path,
        *,
        seed: int,
        clients: int,
        load_seconds: float,
    ) -> None:
        """`config` names the disk cache. `reference` has an answer to each question."""
        assert config.disk is not None
        self._disk = config.disk
        self._arguments = arguments_for(config)
        self._known, self._new, self._reference = known, new, reference
        self._fingerprint = fingerprint
        self._folder = folder
        self._rng = random.Random(seed)
        self._clients, self._load_seconds = clients, load_seconds
        self._on_disk: int | None = None  # records that the next server should find
        self.report = Report(seed=seed)

    def run(self, rounds: int, progress: Callable[[], object] = lambda: None) -> Report:
        """Kills a server under load in each of `rounds`, and starts a last one."""
        begin = time.monotonic()
        report = self.report
        try:
            for report.rounds in range(1, rounds + 1):
                if self._rng.random() < STARTING_SHARE:
                    self._kill_starting()
                self._round()
                progress()
            with self._server() as server:
                self._ask_first(server)
                server.terminate()
                status = server.wait()
                if status != 0:
                    self._problem(f"the last server ended with status {status}")
                self._read_log(server)
        except (ServerDied, ServerError) as error:
            self._problem(str(error))
        report.seconds = time.monotonic() - begin
        return report

    def _kill_starting(self) -> None:
        usual = statistics.median(self.report.ready_seconds) if self.report.ready_seconds else 4.0
        with self._server() as server:
            time.sleep(self._rng.uniform(0, usual))
            self._kill(server, "starting")

    def _round(self) -> None:
        with self._server() as server:
            url = self._ask_first(server)
            load = Load(url, self._known, self._new, self._clients, self._rng)
            time.sleep(self._rng.uniform(0, self._load_seconds))
            phase = "under load"
            load.expect_end()
            if self._rng.random() < FINISHING_SHARE:
                phase = "finishing"
                server.terminate()
                time.sleep(self._rng.uniform(0, FINISHING_SECONDS))
            self._kill(server, phase)
            load.join()
        self.report.hung_up += load.hung_up
        for problem in load.problems:
            self._problem(problem)
        for question, body in load.answers:
            self._compare(question, body, self.report.load_answers, self.report.load_tokens)

    def _server(self) -> ServerProcess:
        return ServerProcess(self._arguments, self._folder / "server.log")

    def _kill(self, server: ServerProcess, phase: str) -> None:
        self.report.kills[phase if server.kill() else "ended before"] += 1
        self._read_log(server)
        self._check_disk()

    def _check_disk(self) -> None:
        """Opens a copy of what is on disk, and reads and checks every record of it."""
        report, copy = self.report, self._folder / "copy"
        self._on_disk = 0
        if not (self._disk.folder / "data.mdb").exists():
            report.visible.append(0)
            return
        shutil.copytree(self._disk.folder, copy)
        try:
            with DiskStore.open(copy, self._disk.size, self._fingerprint) as store:
                report.swept.update(store.swept)
                if half := {reason: count for reason, count in store.swept.items() if reason not in INNOCENT}:
                    self._problem(f"half a record was visible, and swept: {half}")
                if store.discarded:
                    report.discarded += 1
                    self._problem(f"the cache file was given up: {store.discarded}")
                damaged = store.verify()
                report.visible.append(len(store))
                report.verified += len(store)
                report.damaged += len(damaged)
                for error in damaged.values():
                    self._problem(str(error))
                self._on_disk = len(store)
        finally:
            shutil.rmtree(copy)

    def _ask_first(self, server: ServerProcess) -> str:
        """Asks questions that earlier servers were asked, one after the other; the server's URL."""
        url, seconds = server.wait_ready()
        self.report.ready_seconds.append(seconds)
        with RagClient(url) as client:
            records = client.get("/v1/cache")["tiers"]["disk"]["nodes"]
            if self._on_disk is not None:
                self.report.restarts += 1
                if records != self._on_disk:
                    self._problem(f"the server took in {records} of {self._on_disk} records")
            for question in self._rng.sample(self._known, min(FIRST, len(self._known))):
                self._compare(question, client.ask(question), self.report.first_answers, self.report.first_tokens)
            failures = client.get("/v1/cache")["tiers"]["disk"]["failures"]
            if failures:
                self._problem(f"moves from or to the disk failed: {failures}")
        return url

    def _compare(self, question: str, body: dict[str, Any], tally: Tally, tokens: Counter[str]) -> None:
        """Compares an answer with the uncached one, and the sum of its tokens by source with the prompt's."""
        usage = body["usage"]
        sources = {"computed": usage["computed_tokens"], **usage["cached_tokens"]}
        tokens.update(sources)
        if sum(sources.values()) != usage["prompt_tokens"]:
            self._problem(f"{question!r}: {sources} do not add up to {usage['prompt_tokens']} tokens")
        verdict = self._reference[question].compare(body)
        tally.count(verdict)
        if verdict == "different":
            expected = self._reference[question]
            self._problem(
                f"{question!r}: {body['answer']!r}, uncached {expected.text!r} with margins {expected.margins}"
            )

    def _read_log(self, server: ServerProcess) -> None:
        """Adds a problem if a server's log has one of BAD_WORDS."""
        for word in BAD_WORDS:
            if word in server.said:
                self._problem(f"the server said: {server.said.strip()}")

    def _problem(self, problem: str) -> None:
        self.report.problems.append(f"round {self.report.rounds}: {problem}")


def _fingerprint(config: ServeConfig) -> bytes:
    """Names the model, weights and layout whose KV the disk cache of such a server holds."""
    model = TorchModel.load(Checkpoint.resolve(config.model))
    return kv_fingerprint(model, KVTransfer(model.layout, model.device))


def _terminated(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)  # unwinds the stack, which ends the server and removes the folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="kills under load (default: %(default)s)")
    parser.add_argument("--model", default="default", help="folder, GGUF file or Hugging Face id")
    parser.add_argument("--index", type=Path, help="folder of a built index (default: the demo's, built if missing)")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="JSON lines with id, question")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the questions and the times of kills (default: %(default)s)"
    )
    parser.add_argument("--clients", type=int, default=4, metavar="N")
    parser.add_argument(
        "--load-seconds", type=float, default=3.0, help="longest life of a server under load (default: %(default)s)"
    )
    parser.add_argument("--max-doc-tokens", type=int, default=100, metavar="N")
    parser.add_argument("--max-tokens", type=int, default=4, metavar="N")
    # room for about two requests, one and seven of the default model
    parser.add_argument("--device-cache", type=parse_size, default="32MiB", metavar="SIZE")
    parser.add_argument("--host-cache", type=parse_size, default="16MiB", metavar="SIZE")
    parser.add_argument("--disk-cache", type=parse_size, default="96MiB", metavar="SIZE")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="torch threads of the server (0: one a core)"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if there was a problem."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.clients < 1 or not options.load_seconds >= 0:
        parser.error("--rounds and --clients must be at least 1, --load-seconds at least 0")
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        report = _run(options)
    except (RagCacheError, RetrievalError, QuestionError) as error:
        print(f"crash: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(report.as_json() if options.json else report.in_words())
    return 1 if report.problems else 0


def _run(options: argparse.Namespace) -> Report:
    index = options.index or demo_index()
    texts = [question.text for question in read_questions(options.questions)]
    random.Random(options.seed).shuffle(texts)
    texts = texts[: KNOWN + NEW]
    known = min(KNOWN, len(texts))
    with tempfile.TemporaryDirectory(prefix="ragcache-crash-") as name:
        folder = Path(name)
        config = ServeConfig(
            index=index,
            model=options.model,
            max_doc_tokens=options.max_doc_tokens,
            max_question_tokens=64,
            max_tokens=options.max_tokens,
            device_cache=options.device_cache,
            host_cache=options.host_cache,
            disk_cache=f"{folder / 'kv'}:{options.disk_cache}",
            threads=options.threads,
        )
        uncached = ServeConfig(
            **{
                **{name: getattr(config, name) for name in ServeConfig.__slots__},
                "cache": False,
                "host_cache": 0,
                "disk_cache": "",
                "device_cache": 2**30,
            }
        )
        crash = Crash(
            config,
            texts[:known],
            texts[known:] or texts,
            answer_uncached(uncached, texts),
            _fingerprint(config),
            folder,
            seed=options.seed,
            clients=options.clients,
            load_seconds=options.load_seconds,
        )
        with tqdm(total=options.rounds, unit="round", file=sys.stderr, disable=None, leave=False) as bar:
            return crash.run(options.rounds, bar.update)


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.crash"))
