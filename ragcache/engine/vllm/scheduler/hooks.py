"""SchedulerHooks: the connector in vLLM's scheduler, which decides what is loaded, kept and given up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ragcache.cost import PrefillCost
from ragcache.engine.vllm.scheduler.device_blocks import Block
from ragcache.engine.vllm.scheduler.outer_cache import OuterCache
from ragcache.engine.vllm.scheduler.pool_order import Pool
from ragcache.engine.vllm.scheduler.reporter import Reporter
from ragcache.engine.vllm.scheduler.ticket import Ticket
from ragcache.engine.vllm.wire.bulletin import NAME_PARAM, Bulletin
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.namespace import namespace_of
from ragcache.engine.vllm.wire.orders import Orders, Reports
from ragcache.engine.vllm.wire.passages import BadBoundaries, lengths_of, passages
from ragcache.engine.vllm.wire.settings import ConnectorSettings

log = logging.getLogger("vllm.ragcache")  # below vLLM's, so that its own settings show it


class Request(Protocol):
    """The part of vLLM's Request that is read here."""

    @property
    def request_id(self) -> str: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_computed_tokens(self) -> int: ...

    @property
    def prompt_token_ids(self) -> Sequence[int] | None: ...

    @property
    def mm_features(self) -> Sequence[Any]: ...

    @property
    def kv_transfer_params(self) -> Any: ...

    @property
    def cache_salt(self) -> str | None: ...

    @property
    def lora_request(self) -> Any: ...


class SchedulerHooks:
    """Follows vLLM's requests in an OuterCache, and reports to a service in front, if the settings say so.

    For each step vLLM calls `step`, then `step_ended`, then `bulletin`.
    """

    def __init__(
        self,
        settings: ConnectorSettings,
        pool: Pool,
        block_tokens: int,
        inventories: Sequence[Inventory],
        cost: PrefillCost,
        *,
        follows_device: bool,
    ) -> None:
        """`inventories`: one of each worker. Without `follows_device` vLLM's blocks are left to vLLM's LRU."""
        self._settings = settings
        self._block = block_tokens
        self.cache = OuterCache(settings, pool, block_tokens, inventories, cost, follows_device=follows_device)
        self._reporter = Reporter(self.cache) if settings.reports else None
        self.malformed = 0  # requests whose segments were nonsense
        log.info(
            "knowledge cache: %s, blocks of %d tokens, device blocks %s, %d segments found on disk",
            ", ".join(f"{tier.name} {tier.capacity / 2**30:.2f} GiB" for tier in self.cache.hierarchy.lower),
            block_tokens,
            f"in the order of {settings.policy}" if follows_device else "left to vLLM's LRU",
            len(self.cache.tree),
        )

    @property
    def wants_steps(self) -> bool:
        """Whether orders or bulletins wait for another step, though no request may be there."""
        return self.cache.busy or (self._reporter is not None and self._reporter.pending)

    def matched(self, request: Request, computed_tokens: int) -> tuple[int | None, bool]:
        """Tokens that can be loaded behind the `computed_tokens` that vLLM has, and whether the request has to wait.

        None if they are on their way for another request: vLLM asks again in its next step.
        """
        ticket = self._ticket(request)
        self.cache.make_room(request.num_tokens - computed_tokens)
        if ticket is None:
            return 0, False
        limit = (request.num_tokens - 1) // self._block * self._block  # one token at least is computed
        return self.cache.match(ticket, computed_tokens, limit)

    def allocated(self, request: Request, block_ids: Sequence[int], external_tokens: int) -> None:
        """The request has its blocks, and `external_tokens` are to be loaded into them."""
        ticket = self.cache.ticket(request.request_id)
        if ticket is None or (not external_tokens and request.num_computed_tokens):
            return  # without a ticket, or called again when what was waited for has come
        self.cache.begin(ticket, block_ids, external_tokens)

    def loaded_tokens(self, request: Request) -> dict[str, int]:
        """Tokens that are loaded for a request, by tier."""
        ticket = self.cache.ticket(request.request_id)
        return {} if ticket is None else dict(ticket.loaded_by_tier)

    def step(self, scheduled: Any, blocks_of: Callable[[str], Sequence[Block]]) -> Orders:
        """A step begins, as vLLM's SchedulerOutput says; returns the workers' orders.

        `blocks_of` returns the blocks of a request, by its id.
        """
        cached = scheduled.scheduled_cached_reqs
        computed = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        prefill = 0
        for request_id, tokens in scheduled.num_scheduled_tokens.items():
            ticket = self.cache.ticket(request_id)
            if ticket is None:
                continue
            reached = min(ticket.prompt_tokens, computed[request_id] + tokens)
            prefill += max(0, reached - computed[request_id])
            ticket.reached = max(ticket.reached, reached)
            if ticket.committed < len(ticket.path):
                self.cache.computed(ticket, computed[request_id] + tokens, blocks_of(request_id))
        if self._reporter is not None:
            preempted = len(scheduled.preempted_req_ids or ())
            self._reporter.scheduled(prefill, scheduled.total_num_scheduled_tokens - prefill, preempted)
        return self.cache.dispatch.take()

    def step_ended(
        self, bad_blocks: set[int], reports: Reports | None, block_ids_of: Callable[[str], Sequence[int]]
    ) -> None:
        """Loads into `bad_blocks` have failed, and workers `reports` outcomes of orders."""
        if bad_blocks:
            self.cache.lost(bad_blocks, [block_ids_of(ticket.request) for ticket in self.cache.tickets()])
        if reports is not None:
            self.cache.dispatch.hear(reports)

    def finished(self, request: Request) -> dict[str, Any] | None:
        """The request has ended; returns what its answer says of it: `cached_tokens` by tier."""
        ticket = self.cache.ticket(request.request_id)
        if self._reporter is not None and (name := _name(request)):
            self._reporter.ended(name, ticket)
        if ticket is None:
            return None
        self.cache.finish(ticket)
        return {"cached_tokens": ticket.sources}

    def bulletin(self) -> Bulletin | None:
        """A step has ended: what is new for the service in front. None if nothing is, or no service is there."""
        if self._reporter is None:
            return None
        self._reporter.stepped()
        return self._reporter.take()

    def clear(self) -> None:
        """Gives up all that no request holds, on all tiers."""
        self.cache.clear()
        if self._reporter is not None:
            self._reporter.cleared()

    def _ticket(self, request: Request) -> Ticket | None:
        """The request's ticket, opened at the first call. None for a request whose tokens do not say what its KV is."""
        ticket = self.cache.ticket(request.request_id)
        if ticket is not None or request.mm_features or request.prompt_token_ids is None:
            return ticket
        tokens = request.prompt_token_ids
        try:
            lengths = lengths_of(request.kv_transfer_params, len(tokens))
        except BadBoundaries as error:
            self.malformed += 1
            log.warning("request %s: %s; cut into chunks instead", request.request_id, error)
            lengths = None
        path = passages(tokens, lengths, self._block, self._settings.chunk_tokens) if self._settings.keeps else []
        lora = request.lora_request
        adapter = None if lora is None else f"{lora.lora_name} {lora.lora_path}"
        ticket = self.cache.open(request.request_id, path, namespace_of(request.cache_salt, adapter))
        ticket.name, ticket.prompt_tokens = _name(request), len(tokens)
        return ticket


def _name(request: Request) -> str:
    """What a service in front calls the request; empty if it has no name."""
    params = request.kv_transfer_params
    return str(params.get(NAME_PARAM, "")) if isinstance(params, dict) else ""
