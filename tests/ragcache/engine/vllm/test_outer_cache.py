"""The outer cache over an engine in miniature: whatever happens, the KV that is read is right and the books balance."""

import random

import pytest

from ragcache.engine.vllm.wire.passages import passages
from ragcache.errors import RecordError
from tests.props.paged_engine import BLOCK, PagedEngine

SYSTEM = list(range(100, 106))
DOCUMENTS = [[1000 * n + token for token in range(9 + 5 * n % 17)] for n in range(1, 9)]


@pytest.fixture
def engines():
    made = []

    def make(*arguments, **settings):
        made.append(PagedEngine(*arguments, **settings))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def serve(engine, chosen, question=7, namespace="default", **how):
    documents = [DOCUMENTS[n] for n in chosen]
    prompt = [*SYSTEM, *(token for document in documents for token in document), 9000 + question, 9100 + question]
    return engine.serve(prompt, [len(SYSTEM), *map(len, documents)], namespace, **how)


def whole(chosen):
    return (len(SYSTEM) + sum(len(DOCUMENTS[n]) for n in chosen)) // BLOCK * BLOCK


def test_a_path_comes_back_from_the_host(engines):
    engine = engines(64)
    assert serve(engine, [0, 1]).sources == {"device": 0}
    assert serve(engine, [0, 1], 8).sources == {"device": whole([0, 1])}
    engine.forget_device()
    assert serve(engine, [0, 1], 9).sources == {"device": 0, "host": whole([0, 1])}
    engine.forget_device()
    assert serve(engine, [1, 0]).sources == {"device": 0, "host": whole([])}


def test_what_the_device_has_is_not_loaded(engines):
    engine = engines(64)
    serve(engine, [0, 1])
    engine.forget_device()
    serve(engine, [0])
    assert serve(engine, [0, 1], 8).sources == {"device": whole([0]), "host": whole([0, 1]) - whole([0])}


def test_namespaces_share_nothing(engines):
    engine = engines(64)
    serve(engine, [0, 1], namespace="mine")
    assert serve(engine, [0, 1], namespace="yours").sources == {"device": 0}


@pytest.mark.parametrize("damaged", [False, True])
def test_what_comes_from_disk_for_another_request_is_waited_for_and_not_loaded_again(
    engines, tmp_path, damaged, monkeypatch
):
    first = engines(64, tmp_path)
    serve(first, [0, 1])
    first.close()
    engine = engines(64, tmp_path)
    cache, step, asked = engine.cache, engine._step, []
    prompt = [*SYSTEM, *DOCUMENTS[0], *DOCUMENTS[1], 9007, 9107]
    path = passages(prompt, [len(SYSTEM), len(DOCUMENTS[0]), len(DOCUMENTS[1])], BLOCK, 8)

    def asks(namespace):
        ticket = cache.open("another", path, namespace)
        answer = cache.match(ticket, 0, whole([0, 1]))
        cache.finish(ticket)
        return answer

    def watched(forward):
        before = asks("default"), asks("yours")
        results = step(forward)
        asked.append((before, bool(results.arrived)))
        return results

    engine._step = watched
    if damaged:
        monkeypatch.setattr(engine.store._disk, "read_into", lambda *_: _maybe(random, 2))
    served = serve(engine, [0, 1])
    assert served.failed == damaged
    arrived = next(number for number, (_, arrived) in enumerate(asked) if arrived)
    # from the first step, which has the order, to the one that says that it is done
    assert [before for before, _ in asked[: arrived + 1]] == [((None, False), (0, False))] * (arrived + 1)
    # then there is something to be had of the disk or the host again, or nothing where it cannot be read
    assert all(tokens is not None for (((tokens, _), _), _) in asked[arrived + 1 :])
    assert asks("default")[0] is not None


def test_a_disk_survives_and_fills_the_host(engines, tmp_path):
    first = engines(64, tmp_path)
    serve(first, [0, 1])
    first.close()
    second = engines(64, tmp_path)
    assert serve(second, [0, 1]).sources == {"device": 0, "disk": whole([0, 1])}
    second.forget_device()
    assert serve(second, [0, 1]).sources == {"device": 0, "host": whole([0, 1])}
    nodes = {node.label: node.frequency for node in second.cache.tree.nodes()}
    assert set(nodes.values()) == {3}


def test_a_damaged_copy_is_computed_again_and_replaced(engines):
    engine = engines(64)
    serve(engine, [0, 1])
    engine.forget_device()
    copies = engine.store._copies
    copies[sorted(copies)[1]].host.buffer[0] ^= 1
    failed = serve(engine, [0, 1], 8)
    assert failed.failed
    # what was read before the damage is a hit, all behind it a miss
    assert failed.sources["host"] == engine.cache.counts()["host"].hit_tokens == whole([])
    assert engine.cache.counts()["host"].failures == {"checksum": 1}
    serve(engine, [0, 1], 9)
    engine.forget_device()
    again = serve(engine, [0, 1], 10)
    assert (again.failed, again.sources["host"]) == (False, whole([0, 1]))


def test_a_request_given_up_after_a_failed_load_leaves_no_wrong_kv(engines):
    engine = engines(64)
    serve(engine, [0, 1])
    engine.forget_device()
    copies = engine.store._copies
    copies[sorted(copies)[1]].host.buffer[0] ^= 1
    assert serve(engine, [0, 1], 8, patient=False).failed
    # what the forward made of the wrong KV was not copied, and vLLM's own cache does not serve it
    for question in range(9, 12):
        assert not serve(engine, [0, 1], question).failed
        engine.forget_device()


def test_hot_nodes_outlive_a_scan_of_the_device(engines):
    engine = engines(24, host_cache=0, policy="lfu")
    for question in range(4):
        serve(engine, [0], question)
    for n in range(1, 8):
        serve(engine, [n])
    assert serve(engine, [0], 5).sources["device"] == whole([0])
    assert engine.cache.counts()["device"].evictions > 0


def test_a_full_host_keeps_what_the_policy_values_though_the_device_has_it_too(engines):
    engine = engines(64, host_cache=900, policy="lfu")  # 56 tokens
    for question in range(4):
        serve(engine, [0], question)
    for n in range(1, 8):
        serve(engine, [n])
    assert engine.cache.counts()["host"].evictions > 0
    engine.forget_device()  # which gives no warning
    assert serve(engine, [0], 5).sources == {"device": 0, "host": whole([0])}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("policy", ["pgdsf", "lru", "arc"])
def test_random_traffic_with_faults(engines, tmp_path, seed, policy, monkeypatch):
    source = random.Random(seed)
    settings = {"host_cache": source.choice([0, 900, 4000, 10**6]), "policy": policy}
    settings["admission"] = source.choice(["always", "competes"])
    engine = engines(source.choice([20, 30, 60]), tmp_path if source.random() < 0.7 else None, **settings)
    store = engine.store
    gather, faults = store._paged.gather, source.choice([0.0, 0.1])
    monkeypatch.setattr(store._paged, "gather", lambda blocks: _maybe(source, faults) or gather(blocks))
    if store._disk is not None:
        for name in ("write", "read_into", "remove"):
            real = getattr(store._disk, name)
            monkeypatch.setattr(store._disk, name, lambda *a, real=real: _maybe(source, faults) or real(*a))
    failed = 0
    for question in range(120):
        chosen = [min(int(source.expovariate(0.5)), 7) for _ in range(source.choice([1, 2]))]
        if source.random() < faults and store._copies:
            source.choice(list(store._copies.values())).host.buffer[0] ^= 1
        if source.random() < 0.1:
            engine.forget_device()
        engine.settles = source.random() < 0.5
        namespace, patient = source.choice(["default", "other"]), source.random() < 0.5
        failed += serve(engine, chosen, question % 5, namespace, patient=patient).failed
    engine.settles = True
    serve(engine, [0])
    tiers = engine.cache.hierarchy.tiers()
    assert all(tier.held_nodes == 0 for tier in tiers)
    host = engine.cache.hierarchy.host
    assert store.copies == (host.nodes if host is not None else 0)
    if not faults:
        assert failed == 0


def _maybe(source, share):
    if source.random() < share:
        raise RecordError("a fault of the test", reason="io")
