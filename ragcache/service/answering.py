"""Answering: one answer in the making, from its documents to its last token, event by event."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ragcache.cache.lease import Lease
from ragcache.engine.protocol import (
    EngineEvent,
    Failed,
    Finished,
    FinishReason,
    Preempted,
    Prefilled,
    Progressed,
    Started,
    Token,
)
from ragcache.errors import EngineError
from ragcache.prompt.detokenizer import Detokenizer
from ragcache.reuse.plan import lengths
from ragcache.schedule.generation import Generation, GenerationTask
from ragcache.service.answer import Answer, CachedTokens, Retrieved, Speculated, Timing, Usage, UsedDocument


@dataclass(slots=True)
class Times:
    """When an answer reached each stage, in seconds of the service's loop.

    `arrived`: the query came. `retrieved`: its documents were final. `started`: the engine's first step. `prefilled`:
    its prompt was computed. `first` and `last`: its first and its latest token. Times from `started` on are those of
    the attempt that gave the first token; a stage that is not reached has the time of the one before it.
    """

    arrived: float
    retrieved: float
    started: float = field(init=False)
    prefilled: float = field(init=False)
    first: float = field(init=False)
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.start(self.retrieved)

    def start(self, time: float) -> None:
        """The engine works on the answer from `time` on."""
        self.started = time
        self.prefill(time)

    def prefill(self, time: float) -> None:
        """The prompt is computed at `time`."""
        self.prefilled = self.first = self.last = time

    def timing(self, overlap: float) -> Timing:
        """The times as an answer reports them. `overlap`: seconds by which its speculation began before `retrieved`."""
        return Timing(
            retrieval_ms=_milliseconds(self.retrieved - self.arrived),
            queue_ms=_milliseconds(self.started - self.retrieved),
            prefill_ms=_milliseconds(self.prefilled - self.started),
            ttft_ms=_milliseconds(self.first - self.arrived),
            total_ms=_milliseconds(self.last - self.arrived),
            search_overlap_ms=_milliseconds(overlap),
        )


@dataclass(slots=True)
class Attempt:
    """A generation for the answer.

    A `guess` is one that speculation began, `overlap` seconds before the documents were final.
    """

    generation: Generation
    guess: bool = False
    overlap: float = 0.0


class Next(NamedTuple):
    """What follows from an event: `text` to send, and a task to `start` with the new attempt, if there is one.

    With `when_left` it is to be started once another request has left, if one is running.
    """

    text: str = ""
    start: GenerationTask | None = None
    when_left: bool = False


class Answering:
    """An answer in the making: a state machine that takes the engine's events and returns what follows from each.

    It has no clock and awaits nothing: the service waits for events, hands them to `take` and does what it returns.
    `attempt` is the generation whose events count; an event that ends an attempt too early replaces it. Once the answer
    is complete it has `ended`, and `finish` and `answer` may be called.
    """

    def __init__(
        self,
        task: GenerationTask,
        documents: tuple[UsedDocument, ...],
        detokenizer: Detokenizer,
        times: Times,
        generate: Callable[[], Generation],
    ) -> None:
        """`generate` returns a new generation, which has not started."""
        self.id = f"rag-{uuid.uuid4().hex[:16]}"
        self.task = task
        self.times = times
        self.attempt = Attempt(generate())
        self._documents = documents
        self._detokenizer = detokenizer
        self._generate = generate
        self._failures = 0
        self._sources: Lease | None = None  # of the attempt that gave the first token
        self._reason: FinishReason | None = None

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self._reason is not None

    @property
    def retrieved(self) -> Retrieved:
        """The event that starts the answer."""
        return Retrieved(self.id, self._documents)

    def adopt(self, guess: Generation) -> None:
        """Makes a speculation that runs for this very task the first attempt."""
        self.attempt = Attempt(guess, guess=True, overlap=self.times.retrieved - guess.began)

    def take(self, time: float, event: EngineEvent) -> Next:
        """Takes in an event of the attempt, which came at `time`. Raises EngineError if the answer cannot go on."""
        time = max(time, self.times.retrieved)  # tokens of a speculation are sent behind the documents
        match event:
            case Started():
                return self.started(time)
            case Progressed():
                return Next()
            case Prefilled():
                return self.prefilled(time)
            case Token():
                return self.token(time, event)
            case Failed():
                return self.failed(event.message)
            case Preempted():
                return self.preempted()
            case Finished():
                return self.finished(time, event.reason)

    def started(self, time: float) -> Next:
        """The attempt's first step begins."""
        if self._sources is None:
            self.times.start(time)
        return Next()

    def prefilled(self, time: float) -> Next:
        """The attempt's prompt is computed."""
        if self._sources is None:
            self.times.prefill(time)
        return Next()

    def token(self, time: float, token: Token) -> Next:
        """One more token; the answer ends with it if that completes a stop string."""
        self.times.last = time
        if self._sources is None:
            self._sources, self.times.first = self.attempt.generation.lease, time
        text = self._detokenizer.add(token.id, token.margin)
        if self._detokenizer.stopped:
            self._reason = "stop"
        return Next(text)

    def failed(self, message: str) -> Next:
        """The attempt failed: a second one follows, unless this was the second or part of the answer has been sent."""
        self._failures += 1
        if self._detokenizer.ids or self._failures > 1:
            raise EngineError(f"the engine failed: {message}")
        self.attempt = Attempt(self._generate())
        return Next(start=self.task)

    def preempted(self) -> Next:
        """The attempt gave up its memory: another one goes on behind the tokens that were generated."""
        ids = self._detokenizer.ids
        guess, overlap = (self.attempt.guess, self.attempt.overlap) if ids else (False, 0.0)
        self.attempt = Attempt(self._generate(), guess, overlap)
        # memory is as full as it was until a request leaves
        return Next(start=self.task.resumed(ids), when_left=True)

    def finished(self, time: float, reason: FinishReason) -> Next:
        """The attempt is complete, and so is the answer."""
        self.times.last = max(self.times.last, time)
        self._reason = reason
        return Next()

    def finish(self) -> str:
        """The text that was held back in case more tokens came. Call once, when ended."""
        return self._detokenizer.finish()

    def answer(self, speculation: Speculated) -> Answer:
        """The complete answer, once ended and after `finish`."""
        assert self._reason is not None
        return Answer(
            id=self.id,
            answer=self._detokenizer.text,
            finish_reason=self._reason,
            documents=self._documents,
            order=tuple(segment.label for segment in self.task.prompt.documents),
            usage=self._usage(),
            timing=self.times.timing(self.attempt.overlap),
            speculation=speculation,
            token_ids=tuple(self._detokenizer.ids),
            margins=tuple(self._detokenizer.margins),
        )

    @property
    def shared_tokens(self) -> int:
        """Prompt tokens that another request was computing when this one had its turn, and that it did not compute."""
        return self._lease.shared_tokens

    @property
    def _lease(self) -> Lease:
        """Where the prompt's KV came from."""
        return self._sources or self.attempt.generation.lease

    def _usage(self) -> Usage:
        sources = self._lease
        tokens = len(self.task.prompt)
        return Usage(
            prompt_tokens=tokens,
            completion_tokens=len(self._detokenizer.ids),
            computed_tokens=tokens - sources.cached_tokens - lengths(sources.plan).moved,
            cached_tokens=CachedTokens(*sources.cached_by_tier),
        )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
