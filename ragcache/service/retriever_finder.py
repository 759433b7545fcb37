"""RetrieverFinder: the finder of a live service, over an index and a prompt template."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from tokenizers import Tokenizer

from ragcache.errors import BadQuery
from ragcache.prompt.template import PromptTemplate
from ragcache.service.answer import UsedDocument
from ragcache.service.finder import Stage
from ragcache.service.health import State
from retrieval.errors import SearchFailed
from retrieval.retriever import Hit, Retriever, SearchStage

AT_ONCE = (1.0,)
UNWANTED_SECONDS = 0.2  # between two looks at whether an index that is being checked is wanted still


class RetrieverFinder:
    """Searches one after the other on a thread of its own, which also writes the prompts."""

    def __init__(self, retriever: Retriever, template: PromptTemplate, shares: Sequence[float] | None = None) -> None:
        """Owns the retriever: `close` closes it. `shares` cut its searches into stages: see Retriever.search_stages."""
        self._retriever = retriever
        self._shares = shares
        self._template = template
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")

    @property
    def corpus_size(self) -> int:
        return len(self._retriever)

    @property
    def index_state(self) -> tuple[State, str]:
        check = self._retriever.check
        if check.damage is not None:
            return "failed", str(check.damage)
        pending = check.pending
        return ("degraded", f"still being checked: {pending}") if pending else ("ok", "")

    @property
    def tokenizer(self) -> Tokenizer:
        return self._template.tokenizer

    def reopened(self, unwanted: Callable[[], bool] = lambda: False) -> RetrieverFinder:
        """A finder over the index that lies where this one's did, once all its files are checked and after a search.

        Raises as Retriever does, IndexDamaged included, and SearchFailed if it is `unwanted` before.
        """
        retriever = self._retriever.reopened()
        try:
            while not retriever.check.wait(UNWANTED_SECONDS):
                if unwanted():
                    raise SearchFailed("the index is not opened anew: nothing waits for it any more")
            retriever.check.require_sound()
            for _ in retriever.search_stages("Is it there?", 1, self._shares):
                pass
        except BaseException:
            retriever.close()
            raise
        return RetrieverFinder(retriever, self._template, self._shares)

    def check(self, question: str) -> None:
        self._template.check_question(question)

    async def find(self, question: str, top_k: int, room: int, *, staged: bool) -> AsyncGenerator[Stage]:
        loop = asyncio.get_running_loop()
        stages: asyncio.Queue[Stage | None] = asyncio.Queue()
        unwanted = threading.Event()

        def search() -> None:
            shares = self._shares if staged else AT_ONCE
            for result in self._retriever.search_stages(question, top_k, shares, self._template.longest_document):
                if unwanted.is_set():
                    return
                if result.done or len(result.hits) == top_k:
                    with contextlib.suppress(BadQuery) if not result.done else contextlib.nullcontext():
                        stage = self._stage(question, result, room)
                        with contextlib.suppress(RuntimeError):  # the loop is closed: its requests have ended
                            loop.call_soon_threadsafe(stages.put_nowait, stage)

        searching = loop.run_in_executor(self._thread, copy_context().run, search)  # whose lines have the request's id
        searching.add_done_callback(lambda _: stages.put_nowait(None))
        try:
            while (stage := await stages.get()) is not None:
                yield stage
            await searching  # raises what went wrong
        finally:
            unwanted.set()
            if not searching.cancel():
                searching.exception()  # retrieved, so that asyncio does not log it: the request has gone

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._retriever.close()

    def _stage(self, question: str, result: SearchStage, room: int) -> Stage:
        prompt = self._template.build(question, [hit.document for hit in result.hits], room=room)
        truncated = {segment.label: segment.truncated for segment in prompt.documents}
        documents = tuple(_used(hit, truncated[hit.document.id]) for hit in result.hits)
        return Stage(documents, prompt, result.done)


def _used(hit: Hit, truncated: bool) -> UsedDocument:
    document, cut = hit.document, hit.document.passage
    start, end = (None, None) if cut is None else (cut.start, cut.end)
    return UsedDocument(document.id, document.title, round(float(hit.score), 6), truncated, document.source, start, end)
