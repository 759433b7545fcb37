"""Engines whose steps a test lets pass one by one: the embedded one and the simulated one."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ragcache.engine.protocol import Engine, EngineEvent, Job, LastEvent
from ragcache.engine.simulated.engine import SimulatedEngine
from ragcache.engine.torch.engine import TorchEngine
from ragcache.replay.virtual_time import VirtualTimeLoop
from ragcache.reuse.plan import Computed, Exact

PATIENCE = 30  # seconds for what takes milliseconds


class Run:
    """A submitted job and its events."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self.cancel: Callable[[], None] = lambda: None

    def on_event(self, event: EngineEvent) -> None:
        self.events.append(event)

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], LastEvent)

    @property
    def kinds(self) -> list[type]:
        return [type(event) for event in self.events]


class Driven(Protocol):
    """An engine whose steps a test lets pass one by one."""

    engine: Engine

    def submit(self, job: Job) -> Run: ...

    def begin(self) -> list[int]:
        """Waits until a step has begun; how many tokens of each sequence it computes."""

    def end(self) -> None:
        """Lets that step end."""

    def finish(self, *runs: Run) -> None:
        """Lets steps pass until these have ended."""

    def close(self) -> None:
        """Closes the engine, which may be in a step."""


class DrivenTorch:
    """The embedded engine, with a gate before its model's forward."""

    def __init__(self, model: Any, **options: Any) -> None:
        self._model = model
        self._asked: queue.Queue[list[int]] = queue.Queue()
        self._allowed = threading.Semaphore(0)
        self._changed = threading.Condition()
        self.engine = TorchEngine(self, threads=1, **options)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, steps: Any) -> Any:
        self._asked.put([len(step.tokens) for step in steps])
        assert self._allowed.acquire(timeout=PATIENCE)
        return self._model.forward(steps)

    def submit(self, job: Job) -> Run:
        run = Run()

        def deliver(event: EngineEvent) -> None:
            with self._changed:
                run.on_event(event)
                self._changed.notify_all()

        run.cancel = self.engine.submit(job, deliver)
        return run

    def begin(self) -> list[int]:
        return self._asked.get(timeout=PATIENCE)

    def end(self) -> None:
        self._allowed.release()

    def finish(self, *runs: Run) -> None:
        self._allowed.release(10_000)
        with self._changed:
            assert self._changed.wait_for(lambda: all(run.ended for run in runs), PATIENCE)

    def close(self) -> None:
        self._allowed.release(10_000)
        self.engine.close()
        assert not self.engine._thread.is_alive()


class DrivenSimulation:
    """The simulated engine. Each step takes a second of virtual time."""

    def __init__(self, **options: Any) -> None:
        self._loop = VirtualTimeLoop()
        self._begun: list[list[int]] = []
        self.engine = SimulatedEngine(self, bytes_per_token=8, context_length=8192, **options)

    def step(self, chunks: Sequence[tuple[int, int]], decodes: Sequence[int]) -> float:
        self._begun.append([1] * len(decodes) + [new for _, new in chunks])
        return 1.0

    def submit(self, job: Job) -> Run:
        run = Run()

        async def submit() -> None:
            run.cancel = self.engine.submit(job, run.on_event)

        self._loop.run_until_complete(submit())
        return run

    def begin(self) -> list[int]:
        for _ in range(3):
            self._loop.run_until_complete(asyncio.sleep(0))
        return self._begun.pop(0)

    def end(self) -> None:
        self._loop.run_until_complete(asyncio.sleep(1.0))

    def finish(self, *runs: Run) -> None:
        for _ in range(10_000):
            if all(run.ended for run in runs):
                return
            self.end()
        raise AssertionError("no end")

    def close(self) -> None:
        self.engine.close()
        self._loop.close()


def job(engine: Engine, question: int, max_tokens: int = 8, missing: Sequence[int] = (), cached: Sequence[Any] = ()):
    """Numbers of tokens: of the question, of the answer, and of segments."""
    return Job(
        plan=(*(Exact(kv.length, kv) for kv in cached), *(Computed(range(3, 3 + tokens)) for tokens in missing)),
        targets=[engine.allocate(tokens) for tokens in missing],
        question=range(3, 3 + question),
        memory=engine.allocate(max(0, question + max_tokens - 1)),
        max_tokens=max_tokens,
    )
