"""RetrieverFinder: the finder of a live service, over an index and a prompt template."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tokenizers import Tokenizer

from ragcache.errors import BadQuery
from ragcache.prompt.template import PromptTemplate
from ragcache.service.answer import UsedDocument
from ragcache.service.finder import Found
from retrieval.retriever import Retriever, SearchStage

AT_ONCE = (1.0,)


class RetrieverFinder:
    """Searches one after the other on a thread of its own, where prompts are written."""

    def __init__(self, retriever: Retriever, template: PromptTemplate, shares: Sequence[float] | None = None) -> None:
        """Closes the retriever when it is closed. `shares` cut its searches, as Retriever.search_stages says."""
        self._retriever = retriever
        self._shares = shares
        self._template = template
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")

    @property
    def corpus_size(self) -> int:
        return len(self._retriever)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._template.tokenizer

    def check(self, question: str) -> None:
        self._template.check_question(question)

    async def find(self, question: str, top_k: int, room: int, *, staged: bool) -> AsyncGenerator[Found]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Found | None] = asyncio.Queue()
        unwanted = threading.Event()

        def search() -> None:
            for stage in self._retriever.search_stages(question, top_k, self._shares if staged else AT_ONCE):
                if unwanted.is_set():
                    return
                if stage.done or len(stage.hits) == top_k:
                    with contextlib.suppress(BadQuery) if not stage.done else contextlib.nullcontext():
                        found = self._found(question, stage, room)
                        with contextlib.suppress(RuntimeError):  # a closed loop has no one left to tell
                            loop.call_soon_threadsafe(arrived.put_nowait, found)

        searching = loop.run_in_executor(self._thread, search)
        searching.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (found := await arrived.get()) is not None:
                yield found
            await searching  # raises what went wrong
        finally:
            unwanted.set()
            if not searching.cancel():
                searching.exception()  # whoever has gone is not told

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._retriever.close()

    def _found(self, question: str, stage: SearchStage, room: int) -> Found:
        prompt = self._template.build(question, [hit.document for hit in stage.hits], room=room)
        documents = tuple(
            UsedDocument(hit.document.id, hit.document.title, round(float(hit.score), 6), segment.truncated)
            for hit, segment in zip(stage.hits, prompt.documents, strict=True)
        )
        return Found(documents, prompt, stage.done)
