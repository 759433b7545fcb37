"""Jobs of the embedded engine, as tests submit and watch them, and models that do what a test wants."""

import queue
import threading
from collections.abc import Sequence
from typing import Any

import torch

from ragcache.engine.protocol import EngineEvent, Job, LastEvent, Sampling, Token
from ragcache.engine.torch.engine import TorchEngine
from ragcache.reuse.plan import Computed, Exact

PATIENCE = 30  # seconds for what takes milliseconds


class Changed:
    """A model with some attributes replaced."""

    def __init__(self, model: Any, **changes: Any) -> None:
        self._model = model
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class Gate:
    """A model whose forward waits for permission, so that a test stands between two steps."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.begun: queue.Queue[Any] = queue.Queue()
        self.allowed = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, steps: Any) -> Any:
        self.begun.put([len(step.tokens) for step in steps])
        assert self.allowed.acquire(timeout=PATIENCE)
        return self._model.forward(steps)

    def step(self) -> list[int]:
        """Lets the engine make one step; returns the number of tokens of each sequence in it."""
        sizes = self.begun.get(timeout=PATIENCE)
        self.allowed.release()
        return sizes


class Run:
    """A submitted job: its events, and its memory, which is the test's."""

    def __init__(self, engine: TorchEngine, job: Job) -> None:
        self.job: Job | None = job
        self.events: list[EngineEvent] = []
        self._ended = threading.Event()
        self.cancel = engine.submit(job, self._on_event)

    def _on_event(self, event: EngineEvent) -> None:
        self.events.append(event)
        if isinstance(event, LastEvent):
            self._ended.set()

    def wait(self) -> "Run":
        assert self._ended.wait(PATIENCE), f"no end after {self.events}"
        return self

    @property
    def tokens(self) -> list[int]:
        return [event.id for event in self.events if isinstance(event, Token)]

    @property
    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]


def prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 500, (length,), generator=generator).tolist()


def job(
    engine: TorchEngine,
    question: Sequence[int],
    max_tokens: int = 8,
    missing: Sequence[Sequence[int]] = (),
    cached: Sequence[Any] = (),
    **sampling: Any,
) -> Job:
    return Job(
        plan=(*(Exact(span.length, span) for span in cached), *map(Computed, missing)),
        targets=[engine.allocate(len(tokens)) for tokens in missing],
        question=question,
        memory=engine.allocate(len(question) + max_tokens - 1),
        max_tokens=max_tokens,
        sampling=Sampling(**sampling),
    )
