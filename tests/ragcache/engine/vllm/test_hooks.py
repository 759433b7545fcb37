"""The connector in the scheduler, driven as vLLM does: which requests it follows, what it loads, what it reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from ragcache.cache.integrity import recount
from ragcache.cost import PolynomialCost
from ragcache.engine.vllm.scheduler.hooks import SchedulerHooks
from ragcache.engine.vllm.wire.bulletin import Work
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.namespace import DEFAULT, namespace_of, salt_of
from ragcache.engine.vllm.wire.orders import Copy, Load, Outcome, Reports
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from tests.props.paged_engine import BLOCK, FakeBlock, FakePool

PROMPT = list(range(100, 122))  # five whole blocks and two tokens


@dataclass
class FakeRequest:
    """vLLM's Request, as far as the connector reads it."""

    request_id: str = "r"
    prompt_token_ids: list[int] | None = field(default_factory=lambda: PROMPT)
    num_computed_tokens: int = 0
    mm_features: tuple[Any, ...] = ()
    kv_transfer_params: Any = None
    cache_salt: str | None = None
    lora_request: Any = None

    @property
    def num_tokens(self) -> int:
        return len(PROMPT) if self.prompt_token_ids is None else len(self.prompt_token_ids)


class Scheduled:
    """A scheduler side over one worker's pool, and the steps of one request at a time."""

    def __init__(self, **settings: Any) -> None:
        self.pool = FakePool(32)
        self.side = SchedulerHooks(
            ConnectorSettings(**settings), self.pool, BLOCK, [Inventory(8)], PolynomialCost(1, 1), follows_device=True
        )
        self.blocks: list[FakeBlock] = []

    def begin(self, request: FakeRequest) -> int:
        """vLLM looks a request up and allocates its blocks; returns the tokens to be loaded."""
        tokens, waits = self.side.matched(request, 0)
        assert tokens is not None
        assert not waits
        self.blocks = self.pool.take(-(-request.num_tokens // BLOCK))
        for number, block in enumerate(self.blocks):
            self.pool.hash(block, (request.cache_salt, tuple(PROMPT[: (number + 1) * BLOCK])))
        self.side.allocated(request, [block.block_id for block in self.blocks], tokens)
        return tokens

    def step(self, request: FakeRequest, computed: int, tokens: int) -> list[Any]:
        """A step that computes `tokens` behind `computed` ones and succeeds at all orders; returns these."""
        scheduled = SimpleNamespace(
            scheduled_cached_reqs=SimpleNamespace(req_ids=[], num_computed_tokens=[]),
            scheduled_new_reqs=[SimpleNamespace(req_id=request.request_id, num_computed_tokens=computed)],
            num_scheduled_tokens={request.request_id: tokens} if tokens else {},
            total_num_scheduled_tokens=tokens,
            preempted_req_ids=None,
        )
        orders = list(self.side.step(scheduled, lambda _: self.blocks).orders)
        numbers = [order.number for order in orders if isinstance(order, Copy)]
        numbers += [number for order in orders if isinstance(order, Load) for number, _ in order.pieces]
        reports = Reports({number: Outcome(None, 0.1) for number in numbers})
        self.side.step_ended(set(), reports, lambda _: [block.block_id for block in self.blocks])
        return orders

    def serve(self, request: FakeRequest) -> tuple[int, dict[str, Any] | None]:
        """A request in one step; returns the tokens that were loaded, and what its answer says."""
        loaded = self.begin(request)
        self.step(request, loaded, request.num_tokens - loaded)
        answer = self.side.finished(request)
        self.pool.release(self.blocks)
        self.step(request, 0, 0)
        self.step(request, 0, 0)
        return loaded, answer


@pytest.fixture
def scheduled() -> Iterator[Scheduled]:
    made = Scheduled(reports=True)
    yield made
    for _ in recount(made.side.cache.hierarchy, {}):
        pass
    assert made.side.cache.quiet


def test_what_was_computed_is_loaded_but_for_one_token(scheduled: Scheduled) -> None:
    assert scheduled.serve(FakeRequest("first")) == (0, {"cached_tokens": {"device": 0}})
    assert scheduled.serve(FakeRequest("second")) == (20, {"cached_tokens": {"device": 0, "host": 20}})
    whole = FakeRequest("third", PROMPT[:20])
    assert scheduled.serve(whole) == (16, {"cached_tokens": {"device": 0, "host": 16}})


def test_loaded_tokens_are_those_of_the_request_by_tier(scheduled: Scheduled) -> None:
    scheduled.serve(FakeRequest("first"))
    request = FakeRequest("second")
    assert scheduled.side.loaded_tokens(request) == {}
    scheduled.begin(request)
    assert scheduled.side.loaded_tokens(request) == {"host": 20}
    scheduled.step(request, 20, 2)
    scheduled.side.finished(request)


def test_a_request_is_begun_once_though_it_comes_back_from_waiting(scheduled: Scheduled) -> None:
    scheduled.serve(FakeRequest("first"))
    request = FakeRequest("second")
    scheduled.begin(request)
    loads = [order for order in scheduled.step(request, 20, 0) if isinstance(order, Load)]
    assert len(loads) == 1
    request.num_computed_tokens = 20
    scheduled.side.allocated(request, [block.block_id for block in scheduled.blocks], 0)
    assert scheduled.side.loaded_tokens(request) == {"host": 20}
    assert not [order for order in scheduled.step(request, 20, 2) if isinstance(order, Load)]
    scheduled.side.finished(request)


@pytest.mark.parametrize(
    "request_", [FakeRequest(prompt_token_ids=None), FakeRequest(mm_features=("image",))], ids=["embeddings", "image"]
)
def test_a_request_whose_tokens_do_not_say_what_its_kv_is_is_left_alone(
    scheduled: Scheduled, request_: FakeRequest
) -> None:
    assert scheduled.serve(request_) == (0, None)
    assert len(scheduled.side.cache.tree) == 0


def test_boundaries_that_are_nonsense_are_counted_and_the_prompt_is_cut_into_chunks(scheduled: Scheduled) -> None:
    for number, segments in enumerate(([99], ["x"], 7)):
        scheduled.serve(FakeRequest(f"r{number}", kv_transfer_params={"segments": segments}))
    assert scheduled.side.malformed == 3
    assert [len(node.tokens) for node in scheduled.side.cache.tree.nodes()] == [20]
    scheduled.side.clear()
    scheduled.serve(FakeRequest("marked", kv_transfer_params={"segments": [9, 9]}))
    assert [len(node.tokens) for node in scheduled.side.cache.tree.nodes()] == [8, 8]
    assert scheduled.side.malformed == 3


def test_requests_of_another_salt_or_adapter_share_nothing(scheduled: Scheduled) -> None:
    lora = {"lora_request": SimpleNamespace(lora_name="x", lora_path="/x")}
    texts = ("a", "b", "a; adapter x /x", "a;", "a;; adapter x /x")
    salts: list[dict[str, Any]] = [{}, *({"cache_salt": text} for text in texts)]
    kinds = [*salts, lora, *({**salt, **lora} for salt in salts[1:])]
    for number, kind in enumerate(kinds):
        assert scheduled.serve(FakeRequest(f"new {number}", **kind))[0] == 0
    for number, kind in enumerate(kinds):
        assert scheduled.serve(FakeRequest(f"again {number}", **kind))[0] == 20


def test_steps_and_ends_are_reported_by_the_name_that_the_service_gave(scheduled: Scheduled) -> None:
    scheduled.serve(FakeRequest("first"))
    scheduled.side.bulletin()
    request = FakeRequest("second", kv_transfer_params={"name": "question 7"})
    scheduled.begin(request)
    scheduled.step(request, 20, 3)  # the last two tokens of the prompt, and one of the answer
    bulletin = scheduled.side.bulletin()
    assert bulletin is not None
    assert bulletin.sources == {"question 7": {"device": 0, "host": 20}}
    work = bulletin.work
    assert work is not None
    assert (work.steps, work.prefill_tokens, work.decode_tokens) == (2, 22 + 2, 1)
    assert isinstance(work, Work)
    scheduled.side.finished(request)
    bulletin = scheduled.side.bulletin()
    assert bulletin is not None
    assert bulletin.ended["question 7"].computed == 2


def test_without_a_service_in_front_there_are_no_bulletins() -> None:
    scheduled = Scheduled()
    scheduled.serve(FakeRequest())
    assert scheduled.side.bulletin() is None
    assert not scheduled.side.wants_steps


def test_clearing_leaves_nothing_to_load(scheduled: Scheduled) -> None:
    scheduled.serve(FakeRequest("first"))
    scheduled.side.clear()
    scheduled.step(FakeRequest("none"), 0, 0)
    assert scheduled.serve(FakeRequest("second"))[0] == 0


@pytest.mark.parametrize("namespace", [DEFAULT, "tenant", "salt default"])
def test_a_services_namespace_has_a_salt_of_its_own(namespace: str) -> None:
    names = {namespace_of(salt_of(other)) for other in (DEFAULT, "tenant", "salt default", "other")}
    assert len(names) == 4
    assert namespace_of(salt_of(namespace)) in names
    assert (salt_of(namespace) is None) == (namespace == DEFAULT)
