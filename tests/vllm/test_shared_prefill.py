"""Requests that come at once and begin alike: vLLM computes what they share once, wherever the rest comes from."""

import re
from typing import Any

import pytest

from tests.vllm.live import Live, serving, started, until
from tests.vllm.site import BLOCK

CLIENTS = 4


@pytest.fixture(scope="module")
def engine():
    """In steps of 64 tokens, so that prompts take several."""
    made = started(max_batch=CLIENTS)
    yield made
    made.close()


def herd(live: Live, *documents: str) -> list[dict[str, Any]]:
    """The usages of questions over these documents, asked at once."""
    answers = [live.begin(letters) for letters in documents]
    return [answer.result()["usage"] for answer in answers]


def computed(usages: list[dict[str, Any]]) -> list[int]:
    """What each of the requests has computed, most first; what vLLM says that it has computed is the sum of it."""
    for usage in usages:
        assert usage["computed_tokens"] + sum(usage["cached_tokens"].values()) == usage["prompt_tokens"]
    return sorted((usage["computed_tokens"] for usage in usages), reverse=True)


def test_a_question_that_many_ask_at_once_is_computed_once(engine):
    with serving(engine) as live:
        before = engine.stats().prefill_tokens
        usages = herd(live, *["AB"] * CLIENTS)
        prompt = usages[0]["prompt_tokens"]
        rest = prompt - (prompt - 1) // BLOCK * BLOCK
        assert computed(usages) == [prompt] + [rest] * (CLIENTS - 1)
        shared = re.search(r"^ragcache_shared_in_flight_tokens_total (.*)$", live.http.get("/metrics").text, re.M)
        # what the connector has reported to be cached by a follower's turn is not in flight any more
        assert shared is not None
        assert 0 < float(shared[1]) <= (CLIENTS - 1) * (prompt - rest)
        until(lambda: not engine.stats().running)
        assert engine.stats().prefill_tokens - before == prompt + (CLIENTS - 1) * rest


def test_a_common_first_document_is_computed_once(engine):
    with serving(engine) as live:
        usages = herd(live, "AB", "AC", "AD", "A")
        tokens = computed(usages)
        assert tokens[0] == max(usage["prompt_tokens"] for usage in usages)
        assert all(each <= 150 + 20 + BLOCK for each in tokens[1:])


def test_what_lies_on_the_host_is_loaded_and_the_rest_computed_once(engine):
    with serving(engine) as live:
        live.ask("A")
        live.cache()
        engine._thread.result_of(engine._llm.reset_prefix_cache())  # the device's blocks alone
        usages = herd(live, *["AB"] * CLIENTS)
        tokens = computed(usages)
        assert usages[0]["cached_tokens"]["host"] + usages[1]["cached_tokens"]["host"] > 0
        assert sum(each > 2 * BLOCK for each in tokens) == 1


def test_what_lies_on_disk_is_loaded_once_and_the_rest_computed_once(tmp_path):
    engine = started(max_batch=CLIENTS, host_cache=0, disk_cache=f"{tmp_path}:1GiB")
    try:
        with serving(engine, ("disk",)) as live:
            live.ask("A")
            live.cache()
            engine._thread.result_of(engine._llm.reset_prefix_cache())
            usages = herd(live, *["AB"] * CLIENTS)
            tokens = computed(usages)
            assert sum(usage["cached_tokens"]["disk"] > 0 for usage in usages) == 1
            assert sum(each > 2 * BLOCK for each in tokens) == 1
    finally:
        engine.close()
