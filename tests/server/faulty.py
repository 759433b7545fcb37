"""Faulty: a real part of the service, some of whose methods fail for a while."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.mover import ThreadMover
from ragcache.engine.torch.engine import TorchEngine
from ragcache.engine.torch.transfer import KVTransfer, kv_fingerprint
from ragcache.policy import LRU
from ragcache.prompt.template import PromptTemplate
from ragcache.service.limits import Limits
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.stores import DiskRecords, HostMemory
from retrieval.retriever import Retriever


class Faulty:
    """Passes everything on to `part`, but for methods in `broken`, which raise, `times` times if that is given.

    `raised` counts that.
    """

    def __init__(self, part: Any) -> None:
        self.part = part
        self.broken: dict[str, BaseException] = {}
        self.times: int | None = None
        self.raised = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.part, name)
        if not callable(attribute):
            return attribute

        def method(*arguments: Any, **options: Any) -> Any:
            if (error := self.broken.get(name)) and self.raised != self.times:
                self.raised += 1
                raise error
            return attribute(*arguments, **options)

        return method


class Parts:
    """The parts of a service over the tiny model, each of which may fail: `index`, `store`, `embedder`, `model`,
    `engine`, `host`, `disk`."""

    DEVICE_TOKENS, HOST_TOKENS, DISK_BYTES = 300, 600, 1 << 24

    def __init__(self, index: Path, checkpoint: Any, model: Any, disk: Path | None = None) -> None:
        opened = Retriever.open(index, threads=1)
        self.index, self.store, self.embedder = (Faulty(part) for part in (opened.index, opened.store, opened.embedder))
        retriever = Retriever(self.index, self.store, self.embedder, opened.manifest, opened.check)  # type: ignore[arg-type]
        self.model = Faulty(model)
        self.engine = Faulty(TorchEngine(self.model, threads=1))  # type: ignore[arg-type]
        template = PromptTemplate.load(checkpoint, max_doc_tokens=64, max_question_tokens=64)
        transfer = KVTransfer(model.layout, model.device)
        size = model.layout.bytes_per_token
        self.host = Faulty(HostMemory(transfer))
        host = HostTier(self.HOST_TOKENS * size, size, LRU(), self.host) if disk is None else None
        if disk is not None:
            fingerprint = kv_fingerprint(model, transfer)
            records = DiskStore.open(disk, self.DISK_BYTES, fingerprint)
            self.disk = Faulty(DiskRecords(records, transfer, fingerprint))
            below = DiskTier(records.usable, LRU(), self.disk)
        cache = KnowledgeCache(
            self.DEVICE_TOKENS * size,
            size,
            LRU(),
            host=host,
            disk=None if disk is None else below,
            copies=ThreadMover("copies", transfer.initializer),
            writes=ThreadMover("writes", transfer.initializer),
            reads=ThreadMover("reads", transfer.initializer),
        )
        finder = RetrieverFinder(retriever, template)
        self.service = RagService(finder, cache, self.engine, Limits(top_k=2, max_tokens=8))  # type: ignore[arg-type]


MakeParts = Callable[..., Parts]
