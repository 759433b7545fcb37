"""The service over vLLM, by HTTP: which request goes next, what it reports of its tiers, and guesses that change no
answer."""

import time

import pytest

from tests.vllm.live import DOCUMENT, QUESTION, serving, started, totals
from tests.vllm.site import BLOCK, SYSTEM

PROMPT = len(SYSTEM) + 2 * DOCUMENT + len(QUESTION)
PATH = (len(SYSTEM) + 2 * DOCUMENT) // BLOCK * BLOCK  # of it, what is kept


@pytest.fixture(scope="module")
def engine():
    made = started()
    yield made
    made.close()


def cached(answer):
    return answer["usage"]["cached_tokens"]


@pytest.mark.parametrize(("window", "first"), [(32, "cached"), (0, "new")])
def test_what_is_cached_goes_first_within_the_window(engine, window, first):
    with serving(engine, max_batch=1, reorder_window=window) as live:
        live.ask("AB")
        ahead = live.begin("XY", max_tokens=60)
        while not live.service.running:
            time.sleep(0.01)
        waiting = {"new": live.begin("CD", max_tokens=1)}
        while not live.service.waiting:
            time.sleep(0.005)
        waiting["cached"] = live.begin("AB", max_tokens=1)
        ends = {name: future.result() for name, future in waiting.items()}
        assert ahead.result()["usage"]["completion_tokens"] > 1
        assert cached(ends["cached"])["device"] >= PATH
        assert min(ends, key=lambda name: ends[name]["timing"]["queue_ms"]) == first


def test_the_cache_is_reported_as_it_is(engine):
    with serving(engine) as live:
        before = live.cache()
        assert before["nodes"] == 0
        first, second = live.ask("AB"), live.ask("AB")
        cache = live.cache()
        assert cache["nodes"] == 3
        assert cache["tiers"]["device"]["nodes"] == cache["tiers"]["host"]["nodes"] == 3
        for tier in cache["tiers"].values():
            assert tier["bytes"]["total"] == sum(tier["bytes"][state] for state in ("free", "cached", "held"))
            assert tier["bytes"]["cached"] == PATH * engine.bytes_per_token
        device, host = totals(cache, before, "device"), totals(cache, before, "host")
        assert (device["hits"], device["misses"], device["insertions"]) == (3, 3, 3)
        assert device["hit_tokens"] >= PATH
        assert (host["hits"], host["insertions"]) == (0, 3)
        assert cache["moves"]["device_to_host"]["moves"] - before["moves"]["device_to_host"]["moves"] == 3
        assert cached(first) == {"device": 0, "host": 0, "disk": 0}
        assert cached(second)["device"] == PROMPT // BLOCK * BLOCK  # the question's whole blocks, too

        metrics = live.http.get("/metrics").text
        assert f'ragcache_cache_nodes{{tier="host"}} {3.0}' in metrics
        hits = cache["tiers"]["device"]["hits"]
        assert f'ragcache_cache_hits_total{{tier="device"}} {float(hits)}' in metrics
        assert 'ragcache_component_up{component="host"} 1.0' in metrics

        cleared = live.http.delete("/v1/cache").json()
        assert cleared == {"dropped_nodes": 3, "dropped_bytes": 2 * PATH * engine.bytes_per_token, "held_bytes": 0}
        assert live.cache()["nodes"] == 0
        assert cached(live.ask("AB"))["device"] == 0


def test_by_tree_documents_stand_as_vllm_has_them_or_computes_them(engine):
    with serving(engine) as live:
        live.ask("AB")
        cached_before = live.ask("BA", order="tree")
        ahead = live.begin("CD")
        while not live.service.running:
            time.sleep(0.002)
        beside = live.ask("DC", order="tree")
        ahead.result()
    assert (cached_before["order"], beside["order"]) == (["A", "B"], ["C", "D"])
    assert cached(cached_before)["device"] >= PATH


def test_the_books_of_the_connector_are_recounted(engine):
    with serving(engine) as live:
        live.ask("AB")
        integrity = live.cache()["integrity"]
        assert live.service.cache.report().audits >= 1  # at most once a minute, and so for the engine's first request
        assert integrity["audits"] >= 1
        assert integrity["failed"] == 0


def test_a_stop_string_ends_the_work_and_the_sources_are_reported(engine):
    with serving(engine) as live:
        whole = live.ask("AB", max_tokens=40)
        text = whole["answer"]
        stopped = live.ask("AB", max_tokens=40, stop=[text[len(text) // 2 :][:3]])
        assert stopped["finish_reason"] == "stop"
        assert text.startswith(stopped["answer"])
        assert stopped["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
        assert cached(stopped)["device"] >= PATH
        live.cache()


def test_a_right_guess_becomes_the_answer(engine):
    with serving(engine, speculate=False) as live:
        plain = live.ask("AB", max_tokens=12)
    with serving(engine, speculate=True) as live:
        computed = engine.stats().prefill_tokens
        guessed = live.ask(
            [(0.0, "AB"), (lambda: engine.stats().prefill_tokens >= computed + 128, "AB")], max_tokens=12
        )
        live.cache()
        assert engine.stats().prefill_tokens == computed + PROMPT  # once
    assert guessed["answer"] == plain["answer"]
    assert guessed["speculation"] == {"started": 1, "used": True, "wasted_tokens": 0}
    assert guessed["timing"]["search_overlap_ms"] > 0
    assert guessed["usage"] == plain["usage"]


def test_a_wrong_guess_is_stopped_in_vllm_and_leaves_what_is_complete(engine):
    with serving(engine, speculate=False) as live:
        plain = live.ask("CD", max_tokens=12)
    with serving(engine, speculate=True) as live:
        computed = engine.stats().prefill_tokens
        wrong = [(0.0, "ABEF"), (lambda: engine.stats().prefill_tokens >= computed + 256, "CD")]
        answer = live.ask(wrong, max_tokens=12)
        cache = live.cache()  # nothing is held: its blocks are free
        given_up = engine.stats().prefill_tokens - computed - answer["usage"]["computed_tokens"]
        assert 256 <= given_up < len(SYSTEM) + 4 * DOCUMENT
        # the documents that were complete are kept, what was computed of the next is lost
        kept = [end // BLOCK * BLOCK for end in (len(SYSTEM) + n * DOCUMENT for n in range(4))]
        complete = max(end for end in kept if end <= given_up)
        assert answer["speculation"] == {"started": 1, "used": False, "wasted_tokens": given_up - complete}
        assert cache["nodes"] == 3 + kept.index(complete)
        again = live.ask("A", max_tokens=1)
        assert cached(again)["device"] >= kept[1]
    assert answer["answer"] == plain["answer"]


def test_questions_at_once_with_guesses_answer_as_without(engine):
    scripts = [("AB", "AB"), ("CD", "AB"), ("EF", "EF"), ("AB", "BA"), ("GH", "GI"), ("BA", "BA")]
    with serving(engine, speculate=False) as live:
        plain = [live.ask(final, max_tokens=6)["answer"] for _, final in scripts]
    with serving(engine, speculate=True, max_prefill_batch=8) as live:
        asked = [
            live.begin([(0.02 * n, guess), (0.3, final)], max_tokens=6) for n, (guess, final) in enumerate(scripts)
        ]
        assert [future.result()["answer"] for future in asked] == plain
        stats = live.service.stats
        live.cache()
    assert stats.speculations >= 4
    assert stats.used_speculations >= 1


def test_equal_seeds_give_equal_answers_cached_or_not(engine):
    """Prompts of several steps, with whose seeds vLLM's core dies on a CPU."""
    with serving(engine) as live:
        drawn = [live.ask("KL", max_tokens=12, temperature=1.2, top_p=0.9, seed=seed)["answer"] for seed in (3, 3, 4)]
        unseeded = live.ask("MN", max_tokens=4, temperature=1.0)
    assert drawn[0] == drawn[1] != drawn[2]
    assert unseeded["usage"]["completion_tokens"] > 0
