"""The model computes the same over KV that was moved to host memory and back, even while it moves."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import StepInput, TorchModel
from ragcache.engine.torch.transfer import KVTransfer
from ragcache.prompt.template import PromptTemplate
from retrieval.corpus import Document


def on_mover(work: Callable[[], Any]) -> Any:
    """The result of `work` on a thread like those of the cache's movers."""
    with ThreadPoolExecutor(1, initializer=KVTransfer.initializer) as mover:
        return mover.submit(work).result(timeout=60)


def prompts(seed: int, *sizes: int, top: int = 500) -> list[list[int]]:
    chance = random.Random(seed)
    return [chance.choices(range(top), k=size) for size in sizes]


def prefilled(model: TorchModel, segments: list[list[int]]) -> list[KVSpan]:
    """The spans of `segments`, one after the other."""
    spans: list[KVSpan] = []
    for segment in segments:
        spans.append(model.layout.allocate(len(segment), model.device))
        start = sum(span.length for span in spans)
        model.forward([StepInput(segment, start, spans, spans[-1:], wants_logits=False)])
    return spans


def greedy(model: TorchModel, cached: list[KVSpan], question: list[int], count: int) -> list[tuple[int, float]]:
    """The next `count` tokens behind `cached` and `question`, each with its logit."""
    spans = [*cached, model.layout.allocate(len(question) + count, model.device)]
    tokens, start, written = question, sum(span.length for span in cached), []
    for _ in range(count):
        logits = model.forward([StepInput(tokens, start, spans, spans[-1:])])[0]
        start += len(tokens)
        tokens = [int(logits.argmax())]
        written.append((tokens[0], float(logits.max())))
    return written


@pytest.mark.parametrize("way_back", [KVTransfer.to_device, KVTransfer.adopt])
def test_the_model_computes_the_same_over_spans_that_came_back(tiny_model, way_back):
    transfer = KVTransfer(tiny_model.layout, tiny_model.device)
    *segments, question = prompts(1, 30, 41, 1, 9)
    spans = prefilled(tiny_model, segments)
    expected = greedy(tiny_model, spans, question, 12)
    back = on_mover(lambda: [way_back(transfer, transfer.to_host(span)) for span in spans])
    assert greedy(tiny_model, back, question, 12) == expected
    mixed = [spans[0], back[1], spans[2]]
    assert greedy(tiny_model, mixed, question, 12) == expected


def test_the_model_computes_nearly_the_same_over_float16(tiny_model):
    transfer = KVTransfer(tiny_model.layout, tiny_model.device, torch.float16)
    *segments, question = prompts(2, 30, 41, 9)
    spans = prefilled(tiny_model, segments)
    back = [transfer.to_device(transfer.to_host(span)) for span in spans]
    expected = greedy(tiny_model, spans, question, 1)[0][1]
    assert greedy(tiny_model, back, question, 1)[0][1] == pytest.approx(expected, abs=0.05)


@pytest.mark.full(proof="test_the_model_computes_the_same_over_spans_that_came_back")
@pytest.mark.real
def test_a_real_answer_is_the_same_from_a_document_that_came_back(checkpoint, model):
    template = PromptTemplate.load(checkpoint, max_doc_tokens=300, max_question_tokens=64)
    text = "Otters hold hands while they sleep, so that the river does not carry them apart. " * 15
    prompt = template.build("Why do otters hold hands?", [Document("otter", "Otters", text)], room=2000)
    question = list(prompt.question)
    transfer = KVTransfer(model.layout, model.device)
    spans = prefilled(model, [list(segment.tokens) for segment in prompt.path])
    expected = greedy(model, spans, question, 16)
    hosts = on_mover(lambda: [transfer.to_host(span) for span in spans])
    records = [bytes(host.buffer) for host in hosts]
    assert greedy(model, [transfer.to_device(host) for host in hosts], question, 16) == expected
    for host, record in zip(hosts, records, strict=True):
        host.buffer[:] = record
    assert greedy(model, [transfer.adopt(host) for host in hosts], question, 16) == expected


@pytest.mark.parametrize("stored", [None, torch.float16])
def test_kv_moves_while_the_model_computes(tiny_model, stored):
    transfer = KVTransfer(tiny_model.layout, tiny_model.device, stored)
    *segments, question = prompts(3, 300, 200, 7)
    spans = prefilled(tiny_model, segments)
    expected = greedy(tiny_model, spans, question, 60)
    wanted = [span.data.to(transfer.stored).to(span.data.dtype) for span in spans]
    ended = threading.Event()

    def move() -> int:
        moves = 0
        while not ended.is_set() or not moves:
            for span, want in zip(spans, wanted, strict=True):
                back = transfer.to_device(transfer.to_host(span))
                assert torch.equal(back.data, want)
                moves += 1
        return moves

    with ThreadPoolExecutor(2, initializer=KVTransfer.initializer) as movers:
        running = [movers.submit(move) for _ in range(2)]
        try:
            got = greedy(tiny_model, spans, question, 60)
        finally:
            ended.set()
        assert all(future.result(timeout=60) > 0 for future in running)
    assert got == expected
