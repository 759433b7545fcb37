"""A span\'s memory returns to the system with the last reference to it."""

import psutil
import torch

from ragcache.engine.torch.kv import KVLayout

MIB = 2**20


def test_dropped_spans_of_all_sizes_leave_the_process():
    layout = KVLayout(layers=4, kv_heads=2, head_dim=64, dtype=torch.float32)
    process = psutil.Process()
    before = process.memory_info().rss
    spans = [layout.allocate(tokens, torch.device("cpu")) for tokens in range(40, 1040, 4)]
    for span in spans:
        span.data.fill_(1.0)
    held = sum(span.data.nbytes for span in spans)
    assert process.memory_info().rss - before > 0.9 * held > 400 * MIB
    del spans[::2]  # holes everywhere: a heap could not give these back
    assert process.memory_info().rss - before < 0.6 * held
    del spans, span
    assert process.memory_info().rss - before < 0.1 * held


def test_views_are_of_the_spans_own_memory():
    layout = KVLayout(layers=3, kv_heads=2, head_dim=8, dtype=torch.float32)
    assert layout.bytes_per_token == 3 * 2 * 2 * 8 * 4
    span = layout.allocate(10, torch.device("cpu"))
    views = span.views(4, 9)
    assert len(views.keys) == len(views.values) == 3
    assert views.keys[1].shape == (1, 2, 5, 8)
    views.values[2].fill_(7.0)
    assert (span.data[2, 1, :, 4:9] == 7.0).all()
    assert span.data.sum() == 7.0 * 2 * 5 * 8
    assert (span.length, span.capacity, span.room) == (0, 10, 10)
