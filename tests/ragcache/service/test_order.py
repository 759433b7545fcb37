"""Documents in the order of what is cached: exact KV of another prompt, chosen by request or by default."""

import asyncio

import pytest

from ragcache.errors import BadQuery, ConfigError
from ragcache.service.answer import Query
from ragcache.service.limits import Limits
from ragcache.service.request import Request
from ragcache.service.settings import ServiceSettings
from tests.props.asking import OTTERS, adds_up, ask, run

# both questions find the same three documents, in other orders
ONE, OTHER = OTTERS, "What floats on its back, hand in hand?"


def ids(answer):
    return [document.id for document in answer.documents]


def test_by_tree_documents_stand_as_they_are_cached(make_service):
    async def scenario():
        service = make_service(max_tokens=12)
        first = await ask(service, ONE, top_k=16)
        retrieval = await ask(service, OTHER, top_k=16)
        await service.clear()
        again = await ask(service, ONE, top_k=16)
        tree = await ask(service, OTHER, top_k=16, order="tree")
        return first, retrieval, again, tree

    first, retrieval, again, tree = run(scenario())
    assert first.order == again.order == tuple(ids(first))
    assert retrieval.order == tuple(ids(retrieval)) != first.order  # or else this shows nothing
    assert tree.order == first.order
    assert ids(tree) == ids(retrieval)  # best first, as ever
    assert adds_up(tree.usage)
    assert tree.usage.computed_tokens < retrieval.usage.computed_tokens
    assert tree.usage.prompt_tokens == retrieval.usage.prompt_tokens


def test_the_kv_is_exact_for_the_prompt_that_is_read(make_service):
    async def scenario(keep):
        service = make_service(keep=keep, max_tokens=12)
        await ask(service, ONE, top_k=5)
        return await ask(service, ONE, top_k=5, order="tree")

    kept, computed = run(scenario(True)), run(scenario(False))
    assert kept.order == computed.order
    assert kept.token_ids == computed.token_ids
    assert kept.usage.computed_tokens < computed.usage.computed_tokens


def test_what_is_being_computed_counts_as_cached(make_service):
    async def scenario():
        service = make_service(max_tokens=4, step_seconds=0.02, prefill_chunk=64)
        first = asyncio.create_task(ask(service, ONE, top_k=16))
        while not service.running:
            await asyncio.sleep(0.002)
        second = await ask(service, OTHER, top_k=16, order="tree")
        return await first, second

    first, second = run(scenario())
    assert second.order == first.order


def test_tenants_do_not_see_each_others_orders(make_service):
    async def scenario():
        service = make_service(max_tokens=4)
        for _ in range(3):
            await ask(service, ONE, top_k=16, tenant="one")
        return await ask(service, OTHER, top_k=16, tenant="other", order="tree")

    answer = run(scenario())
    assert answer.order == tuple(ids(answer))
    assert answer.usage.cached_tokens.device == 0


def test_the_default_is_the_services_and_a_request_may_say_otherwise():
    limits = Limits(top_k=2, max_tokens=16, order="tree")
    assert Request.of(Query("Why?"), limits, 9).order == "tree"
    assert Request.of(Query("Why?", order="retrieval"), limits, 9).order == "retrieval"
    assert Request.of(Query("Why?"), Limits(top_k=2, max_tokens=16), 9).order == "retrieval"


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ("best", "order is one of retrieval, tree, not 'best'"),
        ("", "order is one of retrieval, tree, not ''"),
        (3, "order must be a text, not of type int"),
    ],
)
def test_another_order_is_refused_by_name(order, says):
    with pytest.raises(BadQuery) as refused:
        Request.of(Query("Why?", order=order), Limits(top_k=2, max_tokens=16), 9)
    assert (str(refused.value), refused.value.field) == (says, "order")


def test_a_service_of_another_order_is_refused():
    with pytest.raises(ConfigError, match="order is one of retrieval, tree, not 'best'"):
        ServiceSettings(device_cache=100, order="best")
