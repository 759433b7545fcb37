"""Services are wired in one way: settings are checked once, and a tier is there only where it is asked for."""

import dataclasses

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.engine.torch.engine import TorchEngine
from ragcache.errors import ConfigError
from ragcache.policy import LRU, PGDSF, POLICIES
from ragcache.prompt.template import PromptTemplate
from ragcache.service.limits import Limits
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.settings import ServiceSettings
from ragcache.service.wire import KvParts, Parts, wire
from ragcache.sizes import DiskCache
from tests.props.asking import ask, run


class CopiesInMemory:
    """A host store that keeps what it is given."""

    def put(self, kv):
        return kv

    def load(self, copy):
        return copy


@pytest.fixture
def parts(tiny_model, tiny_checkpoint, tiny_retriever):
    """Parts over the tiny model; each call has an engine and a finder of its own."""

    def make(**kv) -> Parts:
        template = PromptTemplate.load(tiny_checkpoint, max_doc_tokens=64, max_question_tokens=64)
        return Parts(
            finder=RetrieverFinder(tiny_retriever, template),
            engine=TorchEngine(tiny_model, threads=1),
            kv=KvParts(bytes_per_token=tiny_model.layout.bytes_per_token, **kv),
            model_name="tiny",
        )

    return make


def test_a_service_answers_by_its_settings(parts):
    made = parts()
    service = wire(ServiceSettings(device_cache=1 << 20, max_tokens=5, top_k=1), made)
    answer = run(ask(service))
    assert (answer.usage.completion_tokens, len(answer.documents)) == (5, 1)
    assert (service.model_name, service.cache.capacity, service.cache.keeps) == ("tiny", 1 << 20, True)
    assert (service.finder, service.engine) == (made.finder, made.engine)
    assert service.limits == ServiceSettings(device_cache=1, max_tokens=5, top_k=1).limits
    made.engine.close()


def test_policy_and_tiers_are_those_of_the_settings(parts):
    capacities: list[int] = []

    def policy(capacity: int) -> LRU:
        capacities.append(capacity)
        return LRU()

    token = parts().kv.bytes_per_token
    host = {"host": CopiesInMemory(), "stored_bytes_per_token": token // 2}
    settings = ServiceSettings(device_cache=100 * token, host_cache=300 * token, policy=policy)
    service = wire(settings, parts(**host))
    assert isinstance(service.cache, KnowledgeCache)
    assert sorted(capacities) == [100, 600]  # tokens: a token takes half as much on the host
    assert service.cache.lower_names == ["host"]
    assert wire(ServiceSettings(device_cache=100 * token), parts(**host)).cache.lower_names == []


def test_room_for_a_request_is_kept_free_where_newcomers_compete(parts):
    token = parts().kv.bytes_per_token
    for admission, tokens, stays in (("always", 30, 100), ("competes", 30, 70), ("competes", 99, 50)):
        settings = ServiceSettings(device_cache=100 * token, admission=admission)
        service = wire(settings, parts(request_tokens=tokens))
        assert service.cache._stay_limit == stays * token


def test_a_cache_that_stands_for_an_engines_own_is_taken_as_it_is(parts):
    cache = KnowledgeCache(1000, 1, PGDSF())
    made = parts()
    service = wire(ServiceSettings(device_cache=5), Parts(finder=made.finder, engine=made.engine, kv=cache))
    assert service.cache is cache


def test_a_device_cache_without_room_for_a_token_is_refused(parts):
    made = parts()
    with pytest.raises(
        ConfigError, match=f"device_cache is 7 bytes; one token of tiny takes {made.kv.bytes_per_token}"
    ):
        wire(ServiceSettings(device_cache=7), made)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device_cache": -1}, "device_cache must be at least 0, not -1"),
        ({"host_cache": -1}, "host_cache must be at least 0, not -1"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"prefill_chunk": 0}, "prefill_chunk must be at least 1, not 0"),
        ({"max_batch": 0}, "max_batch must be at least 1, not 0"),
        ({"max_prefill_batch": 0}, "max_prefill_batch must be at least 1, not 0"),
        ({"max_waiting": -1}, "max_waiting must be at least 0, not -1"),
        ({"reorder_window": -1}, "reorder_window must be at least 0, not -1"),
        ({"admission": "no"}, "admission is one of always, competes, not 'no'"),
        ({"keeps": False, "host_cache": 1}, "has no use where no KV is kept"),
        ({"keeps": False, "disk_cache": DiskCache.parse("kv:1GiB")}, "has no use where no KV is kept"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        ServiceSettings(**{"device_cache": 1, **settings})


def test_the_default_policy_is_pgdsf():
    assert ServiceSettings(device_cache=1).policy is POLICIES["pgdsf"]


def test_settings_of_another_object_are_those_of_the_same_name():
    """Each setting that the source has arrives; what is given beside it goes before, and the rest keeps its default."""
    first = ServiceSettings(device_cache=3, top_k=4, max_batch=5, max_waiting=6, reorder_window=7, speculate=True)
    assert ServiceSettings.of(first) == first
    assert ServiceSettings.of(first.limits, device_cache=3) == first
    assert ServiceSettings.of(first, top_k=1) == dataclasses.replace(first, top_k=1)
    assert ServiceSettings.of(object(), device_cache=3) == ServiceSettings(device_cache=3)
    with pytest.raises(ConfigError, match="max_batch must be at least 1"):
        ServiceSettings.of(first, max_batch=0)


def test_limits_are_the_settings_of_their_names():
    settings = ServiceSettings(
        device_cache=1,
        top_k=3,
        max_tokens=4,
        max_batch=5,
        max_waiting=6,
        reorder_window=7,
        max_prefill_batch=9,
        speculate=True,
    )
    assert settings.limits == Limits(
        top_k=3, max_tokens=4, max_batch=5, max_waiting=6, reorder_window=7, max_prefill_batch=9, speculate=True
    )
