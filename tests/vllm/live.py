"""Live: the service over VllmEngine behind HTTP, with a finder that returns what a test has scripted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import uvicorn

from ragcache.cli.assembly.vllm_arguments import engine_arguments
from ragcache.cli.config import ServeConfig
from ragcache.engine.vllm.front.engine import VllmEngine
from ragcache.engine.vllm.front.ledger import VllmLedger
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.prompt import Prompt
from ragcache.prompt.template import PromptTemplate
from ragcache.reuse.arrangement import Group
from ragcache.service.answer import UsedDocument
from ragcache.service.finder import Stage
from ragcache.service.limits import Limits
from ragcache.service.service import RagService
from ragcache.tree.segment import Segment
from server.app import create_app
from server.run import bind
from tests.vllm.site import SYSTEM, document

PATIENCE = 60
DOCUMENT = 150  # tokens
QUESTION = range(700, 720)

When = float | Callable[[], bool]  # seconds from the stage before, or a condition that has to hold
Script = Sequence[tuple[When, str]]  # the documents of each stage, a letter each; the last is final


def started(**changes: Any) -> VllmEngine:
    """vLLM over the default model, in steps of 64 tokens at most."""
    settings: dict[str, Any] = {
        "device_cache": 96 << 20,
        "host_cache": 1 << 30,
        "prefill_chunk": 64,
        "max_batch": 4,
        "engine": "vllm",
        "vllm_options": '{"enforce_eager": true}',
    }
    return VllmEngine(engine_arguments(ServeConfig(**settings | changes)))


class StagedFinder:
    """A finder that returns the documents of a question's script, stage by stage."""

    corpus_size = 26
    index_state = ("ok", "")

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.tokenizer = PromptTemplate.load(
            Checkpoint.resolve("default"), max_doc_tokens=1024, max_question_tokens=512
        ).tokenizer

    def check(self, question: str) -> None:
        assert question in self.scripts

    async def find(self, question: str, top_k: int, room: int, *, staged: bool) -> AsyncGenerator[Stage]:
        del top_k, room
        script = self.scripts[question]
        for number, (when, letters) in enumerate(script, 1):
            if callable(when):
                while not when():
                    await asyncio.sleep(0.002)
            else:
                await asyncio.sleep(when)
            done = number == len(script)
            if staged or done:
                documents = tuple(UsedDocument(letter, letter, 1.0, False) for letter in letters)
                system, *path = path_of(letters)
                prompt = Prompt.of([system], [Group((segment,)) for segment in path], tuple(QUESTION))
                yield Stage(documents, prompt, done)

    def close(self) -> None:
        pass


def path_of(letters: str) -> tuple[Segment, ...]:
    return (
        Segment.of("system", SYSTEM),
        *(Segment.of(letter, document(ord(letter), DOCUMENT)) for letter in letters),
    )


class Live:
    """A server and a client of it. A question is the name of its script."""

    def __init__(self, service: RagService, finder: StagedFinder, http: httpx.Client) -> None:
        self.service = service
        self.http = http
        self._finder = finder
        self._threads = ThreadPoolExecutor(8)

    def ask(self, script: Script | str, **body: Any) -> dict[str, Any]:
        """The answer to a question with this script. A word is a script that finds these documents at once."""
        stages = [(0.0, script)] if isinstance(script, str) else script
        question = f"{[letters for _, letters in stages]} {len(self._finder.scripts)}"
        self._finder.scripts[question] = stages
        answered = self.http.post("/v1/query", json={"question": question, "max_tokens": 4, **body})
        assert answered.status_code == 200, answered.text
        return answered.json()

    def begin(self, script: Script | str, **body: Any) -> Future[dict[str, Any]]:
        """As `ask`, in a thread of its own."""
        return self._threads.submit(self.ask, script, **body)

    def cache(self) -> dict[str, Any]:
        """The body of `/v1/cache`, once nothing runs or moves."""
        body: dict[str, Any] = {}

        def settled() -> bool:
            body.update(self.http.get("/v1/cache").json())
            held = body["tiers"]["device"]["bytes"]["held"]
            return not (body["moving"] or body["unwritten"] or held or self.service.running)

        until(settled)
        return body

    def close(self) -> None:
        self._threads.shutdown()
        self.http.close()


@contextlib.contextmanager
def serving(engine: VllmEngine, lower: Sequence[str] = ("host",), **limits: Any) -> Iterator[Live]:
    """Empties the engine's caches and serves over it; the engine outlives the server."""
    ledger = VllmLedger(engine, lower)
    empty(ledger)
    finder = StagedFinder()
    service = RagService(finder, ledger, engine, Limits(**{"top_k": 2, "max_tokens": 200, "max_batch": 4} | limits))
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(service), log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    host, port = bound.getsockname()
    live = Live(service, finder, httpx.Client(base_url=f"http://{host}:{port}", timeout=PATIENCE, trust_env=False))
    try:
        yield live
    finally:
        live.close()
        server.should_exit = True
        thread.join()
    ledger.check_integrity()
    assert ledger.balance().held == 0
    assert engine.stats().running == 0


def idle(ledger: VllmLedger) -> bool:
    """Whether vLLM has reported that no block is in use, and nothing moves."""
    tiers = ledger.report().tiers
    return not ledger.moving and not tiers[0].balance.held


def empty(ledger: VllmLedger) -> None:
    """Waits until nothing is in use, then has all caches emptied."""
    until(lambda: idle(ledger))

    def emptied() -> bool:
        ledger.drop_unheld()  # asks at first, then looks whether it is done
        return not ledger.moving

    until(emptied)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def totals(cache: Mapping[str, Any], earlier: Mapping[str, Any], tier: str) -> dict[str, int]:
    """By how much a tier's counters have risen between two bodies of `/v1/cache`."""
    then, now = earlier["tiers"][tier], cache["tiers"][tier]
    return {name: now[name] - then[name] for name in now if isinstance(now[name], int)}
