"""Tenants share no KV: neither on the device, nor on host or disk, nor in the order of the queue."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.mover import ThreadMover
from ragcache.cost import PolynomialCost
from ragcache.engine.simulated.engine import SimulatedEngine
from ragcache.engine.simulated.step_cost import MeasuredCost
from ragcache.engine.torch.engine import TorchEngine
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.transfer import KVTransfer, kv_fingerprint
from ragcache.errors import BadQuery
from ragcache.policy import LRU
from ragcache.replay.virtual_time import run_virtual
from ragcache.service.answer import Answer, Query
from ragcache.service.limits import Limits
from ragcache.service.service import RagService
from ragcache.storage.lmdb_store import DiskStore
from ragcache.storage.stores import DiskRecords, HostMemory
from tests.props.asking import OTTERS, ask, events_of, run
from tests.props.scripted_finder import DOCUMENT_TOKENS, QUESTION_TOKENS, SYSTEM_TOKENS, ScriptedFinder

PATH_TOKENS = SYSTEM_TOKENS + 2 * DOCUMENT_TOKENS
ROOM = PATH_TOKENS + QUESTION_TOKENS + 10  # of a device that holds one prompt and its answer
FINDER = ScriptedFinder({letters: [(0.0, letters)] for letters in ("AB", "CD")})


def test_two_tenants_share_nothing_and_one_shares_with_itself(make_service):
    service = make_service()

    async def scenario() -> list[Answer]:
        return [await ask(service, tenant=tenant) for tenant in ("red", "blue", "red", "blue")]

    first, other, *again = run(scenario())
    prompt, question = first.usage.prompt_tokens, len(service.finder._template.question(OTTERS))
    assert first.usage.computed_tokens == other.usage.computed_tokens == prompt
    assert [answer.usage.computed_tokens for answer in again] == [question, question]
    assert {answer.token_ids for answer in (first, other, *again)} == {first.token_ids}


def test_who_names_no_tenant_is_the_default_one(make_service):
    service = make_service()

    async def scenario() -> list[Answer]:
        return [await ask(service), await ask(service, tenant="default"), await ask(service, tenant="Default")]

    _, same, other = run(scenario())
    assert same.usage.cached_tokens.device > other.usage.cached_tokens.device == 0


@pytest.mark.parametrize("tenant", ["", "x" * 201, "half a \ud800 pair"])
def test_a_tenant_that_cannot_be_named_is_refused(make_service, tenant):
    service = make_service()
    with pytest.raises(BadQuery, match="tenant") as caught:
        run(events_of(service, Query(OTTERS, tenant=tenant)))
    assert caught.value.field == "tenant"
    assert service.engine.stats().steps == 0
    assert run(ask(service, tenant="ü" * 200)).finish_reason == "length"


@contextlib.contextmanager
def tiered(model: TorchModel, folder: Path | None) -> Iterator[RagService]:
    """A service whose device holds one prompt, over a host tier, or over a disk tier in `folder`."""
    transfer = KVTransfer(model.layout, model.device)
    size = transfer.stored_bytes_per_token
    tiers: dict[str, Any] = {name: ThreadMover(name, transfer.initializer) for name in ("copies", "writes", "reads")}
    if folder is None:
        tiers["host"] = HostTier(2000 * size, size, LRU(), HostMemory(transfer))
    else:
        fingerprint = kv_fingerprint(model, transfer)
        store = DiskStore.open(folder, 16 << 20, fingerprint)
        tiers["disk"] = DiskTier(store.usable, LRU(), DiskRecords(store, transfer, fingerprint))
    cache = KnowledgeCache(ROOM * size, size, LRU(), **tiers)
    if folder is not None:
        cache.restore()
    service = RagService(FINDER, cache, TorchEngine(model, threads=1), Limits(top_k=2, max_tokens=4))
    try:
        yield service
        cache.check_integrity()
    finally:
        service.close()


async def sources(service: RagService, letters: str, tenant: str) -> dict[str, int]:
    """Where an answer's prompt came from, once all that follows from it has been moved and written."""
    usage = (await ask(service, letters, tenant=tenant, max_tokens=2)).usage
    await service.finish_writing(30)
    cached = {"host": usage.cached_tokens.host, "disk": usage.cached_tokens.disk}
    return {"computed": usage.computed_tokens} | {tier: tokens for tier, tokens in cached.items() if tokens}


def test_host_memory_is_the_tenants_own(tiny_model):
    async def scenario(service: RagService) -> None:
        whole = {"computed": PATH_TOKENS + QUESTION_TOKENS}
        assert await sources(service, "AB", "red") == whole
        assert await sources(service, "CD", "blue") == whole  # which leaves the device to it alone
        assert await sources(service, "AB", "blue") == {"computed": whole["computed"] - SYSTEM_TOKENS}
        assert await sources(service, "AB", "red") == {"computed": QUESTION_TOKENS, "host": PATH_TOKENS}

    with tiered(tiny_model, None) as service:
        asyncio.run(scenario(service))


def test_records_on_disk_are_the_tenants_own(tiny_model, tmp_path):
    with tiered(tiny_model, tmp_path) as service:
        asyncio.run(sources(service, "AB", "red"))

    async def scenario(service: RagService) -> None:
        assert await sources(service, "AB", "blue") == {"computed": PATH_TOKENS + QUESTION_TOKENS}
        assert await sources(service, "AB", "red") == {"computed": QUESTION_TOKENS, "disk": PATH_TOKENS}

    with tiered(tiny_model, tmp_path) as service:
        asyncio.run(scenario(service))


def test_what_another_tenant_has_cached_gives_no_turn():
    """AB is cached for red alone: red's question overtakes, blue's does not."""

    async def order_of(tenant: str) -> list[str]:
        engine = SimulatedEngine(MeasuredCost(PolynomialCost(1000, 0), 0.01), bytes_per_token=8, context_length=4096)
        limits = Limits(top_k=2, max_tokens=50, max_batch=1, reorder_window=8)
        service = RagService(FINDER, KnowledgeCache(80_000, 8, LRU()), engine, limits)
        order: list[str] = []

        async def question(letters: str, tenant: str, max_tokens: int = 1) -> None:
            await ask(service, letters, tenant=tenant, max_tokens=max_tokens)
            order.append(letters)

        await question("AB", "red")
        tasks = [asyncio.create_task(question("CD", "green", 50))]  # keeps the engine busy
        await asyncio.sleep(0.01)
        for letters, asker in (("CD", "blue"), ("AB", tenant)):
            tasks.append(asyncio.create_task(question(letters, asker)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        return order[2:]

    assert run_virtual(order_of("red")) == ["AB", "CD"]
    assert run_virtual(order_of("blue")) == ["CD", "AB"]


def test_speculation_works_for_the_tenant_who_asks():
    """What is guessed for red is kept for red, and the guess itself becomes red's answer."""

    async def main() -> tuple[Answer, Answer, Answer]:
        engine = SimulatedEngine(MeasuredCost(PolynomialCost(1000, 0), 0.01), bytes_per_token=8, context_length=4096)
        finder = ScriptedFinder({"q": [(0.1, "AB"), (0.5, "AB")]})
        limits = Limits(top_k=2, max_tokens=4, speculate=True)
        service = RagService(finder, KnowledgeCache(80_000, 8, LRU()), engine, limits)
        return tuple([await ask(service, "q", tenant=tenant) for tenant in ("red", "blue", "red")])  # type: ignore[return-value]

    red, blue, again = run_virtual(main())
    assert all(answer.speculation.used for answer in (red, blue, again))
    assert red.usage.cached_tokens.device == blue.usage.cached_tokens.device == 0
    assert again.usage.cached_tokens.device == PATH_TOKENS
