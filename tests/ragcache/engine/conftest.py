"""Embedded engines over the tiny model, and what `transformers` itself generates with it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from ragcache.engine.torch.engine import TorchEngine


@pytest.fixture
def engines(tiny_model) -> Iterator[Callable[..., TorchEngine]]:
    made: list[TorchEngine] = []

    def make(model: Any = tiny_model, threads: int = 1, **options: Any) -> TorchEngine:
        made.append(TorchEngine(model, threads=threads, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
        assert not engine._thread.is_alive()


@pytest.fixture(scope="session")
def generate(llama) -> Callable[[list[int], int], list[int]]:
    """Greedy generation as `transformers` does it."""
    module = llama()

    def call(tokens: list[int], count: int) -> list[int]:
        ids = torch.tensor([tokens])
        out = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
        return out[0, len(tokens) :].tolist()

    return call
