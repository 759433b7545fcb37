"""ReportedEngine: the miniature of vLLM with a reporter, and a ledger that reads its bulletins, sent as vLLM would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragcache.engine.vllm.front.ledger import VllmLedger
from ragcache.engine.vllm.scheduler.reporter import Reporter
from ragcache.engine.vllm.wire.bulletin import Bulletin
from ragcache.engine.vllm.wire.namespace import namespace_of, salt_of
from ragcache.tree.segment import Segment
from tests.props.paged_engine import BLOCK, PagedEngine, Served

QUESTION = (9001, 9002)


class ReportedEngine:
    """A Board over a PagedEngine of `blocks` blocks, and `ledger` over that. `now` is the reporter's clock, in seconds.

    `settings` are the connector's.
    """

    bytes_per_token = 16
    block_tokens = BLOCK

    def __init__(self, folder: Path | None = None, blocks: int = 64, **settings: Any) -> None:
        self.capacity_tokens = blocks * BLOCK
        self.engine = PagedEngine(blocks, folder, **settings)
        self.now = 0.0
        self.reporter = Reporter(self.engine.cache, lambda: self.now)
        self.ledger = VllmLedger(self, ["host"] if folder is None else ["host", "disk"])

    def take_bulletins(self) -> list[tuple[int, Bulletin]]:
        bulletin = self.reporter.take()
        if bulletin is None:
            return []
        return [(0, Bulletin.from_wire(json.loads(json.dumps(bulletin.to_wire()))))]

    def clear(self) -> None:
        self.engine.cache.clear()
        self.reporter.cleared()

    def serve(self, path: Sequence[Segment], namespace: str = "default") -> Served:
        """One prompt, of `path` and the question, in a service's namespace, from its arrival to its first token."""
        name = namespace_of(salt_of(namespace))
        prompt = [token for segment in path for token in segment.tokens]
        return self.engine.serve([*prompt, *QUESTION], [len(segment) for segment in path], name)

    def recount(self) -> int:
        """Steps without a forward, for as long as the reporter wants them; returns how many."""
        steps = 0
        while self.reporter.pending and steps < 50:
            self.reporter.scheduled(0, 0, 0)
            self.reporter.stepped()
            self.ledger.refresh()
            steps += 1
        return steps

    def close(self) -> None:
        self.engine.close()
