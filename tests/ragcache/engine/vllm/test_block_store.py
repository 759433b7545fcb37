"""Loads beside the engine start behind what the engine's own thread has queued, for their blocks may be in use."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

from ragcache.engine.vllm.wire.orders import Copy, Load, Orders, Piece
from ragcache.engine.vllm.worker.block_store import BlockStore
from ragcache.engine.vllm.worker.paged_kv import Filling, PagedKV


class QueuedKV(PagedKV):
    """Blocks on a CPU whose `queued` says which thread called it."""

    def __init__(self, layers: dict[str, torch.Tensor]) -> None:
        super().__init__(layers)
        self.waited_for: list[object] = []

    def queued(self) -> Any:
        return threading.current_thread()

    def fill_and_wait(self, fillings: Sequence[Filling], after: Any) -> None:
        assert threading.current_thread() is not after, "loads that a request waits for are the reader's"
        self.waited_for.append(after)
        super().fill_and_wait(fillings, None)


def test_a_load_beside_the_engine_waits_for_what_the_engines_thread_has_queued():
    layers = {f"layer {n}": torch.arange(40).view(10, 4) * (n + 1) for n in range(2)}
    expected = [layer[:3].clone() for layer in layers.values()]
    paged = QueuedKV(layers)
    store = BlockStore(paged, block_tokens=4, disk=None)
    try:
        store.before(Orders())
        store.after(Orders(orders=[Copy(1, (0, 1, 2))]), idle=False)
        pieces = ((2, Piece(1, 4, 0, (7,))), (3, Piece(1, 8, 1, (8, 9))))
        store.before(Orders(orders=[Load("request", pieces, waits=True)]))
        ends = time.monotonic() + 30
        while not (results := store.take()).arrived:
            assert time.monotonic() < ends
            store.after(Orders(), idle=True)
        assert not results.bad_blocks
    finally:
        store.close()
    assert paged.waited_for == [threading.current_thread()] * 2
    assert [layer[7:].tolist() for layer in layers.values()] == [each.tolist() for each in expected]
