"""OuterCache: the knowledge cache around vLLM's own: what it should load, keep and give up.

A node is copied to the host as soon as it is computed, for once its blocks are free there is no moment left for it.
Host and disk fill the blocks that vLLM gave a request. Tree, tiers, policies, records and the writing behind are those
of KnowledgeCache. Nothing here waits or knows vLLM's classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from ragcache.cache.hierarchy import Hierarchy
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.records import restore
from ragcache.cache.report import CacheReport
from ragcache.cache.tier import Balance, TierCounts
from ragcache.cost import PrefillCost
from ragcache.engine.vllm.scheduler.block_loads import BlockLoads
from ragcache.engine.vllm.scheduler.device_blocks import Block, DeviceBlocks
from ragcache.engine.vllm.scheduler.dispatch import Dispatch
from ragcache.engine.vllm.scheduler.late_writes import LateWrites
from ragcache.engine.vllm.scheduler.pool_device import PoolDevice
from ragcache.engine.vllm.scheduler.pool_order import Pool
from ragcache.engine.vllm.scheduler.remote_stores import RemoteHost, RemoteRecords
from ragcache.engine.vllm.scheduler.step_mover import StepMover
from ragcache.engine.vllm.scheduler.tally import tally
from ragcache.engine.vllm.scheduler.ticket import Ticket
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.policy import policy_factory
from ragcache.tree.segment import Segment
from ragcache.tree.tree import HOST, Node


class OuterCache:
    """Requests' lives against the tree and its tiers; `dispatch` has the orders of the next step.

    A request is opened, matched (which changes nothing), begun once vLLM has given it blocks, computed so far, and
    finished. Belongs to one thread.
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
        """`inventories`: one of each worker. Without `follows_device` vLLM's blocks are left to vLLM."""
        self.dispatch = Dispatch(len(inventories))
        self._workers = len(inventories)
        self._block = block_tokens
        self._cost = cost
        self._uses = 0
        self._tickets: dict[str, Ticket] = {}  # by the request's id
        token = max(inventory.bytes_per_token for inventory in inventories)
        make = policy_factory(settings.policy)
        host = disk = records = None
        if settings.host_cache:
            capacity = settings.host_cache // len(inventories)
            host = HostTier(capacity, token, make(max(1, capacity // token)), RemoteHost(self.dispatch))
        if settings.disk is not None:
            usable = min(inventory.usable for inventory in inventories)
            records = RemoteRecords(self.dispatch, inventories)
            disk = DiskTier(usable, make(max(1, usable // token)), records)
        pool_tokens = pool.num_gpu_blocks * block_tokens
        self.hierarchy = Hierarchy(
            pool_tokens * token,
            token,
            make(pool_tokens),
            host,
            disk,
            contested=settings.admission == "competes",
            inclusive=True,
            copies=StepMover(self.dispatch),
            writes=StepMover(self.dispatch),
        )
        self.tree = self.hierarchy.tree
        self._device = PoolDevice(self.hierarchy, pool, block_tokens, follows=follows_device)
        self._loads = BlockLoads(self.hierarchy, self.dispatch, block_tokens)
        self._writes: LateWrites | None = None
        if self.hierarchy.disk is not None and records is not None:
            self._writes = LateWrites(self.hierarchy, self.hierarchy.disk, records)
            self._uses = restore(self.hierarchy)[1]
            self.hierarchy.moves.on_room(self._writes.advance)

    @property
    def busy(self) -> bool:
        """Whether another step is needed, even if no request is there."""
        return self.dispatch.busy

    @property
    def quiet(self) -> bool:
        """Whether no request is there, and no order under way."""
        return not self._tickets and not self.busy

    def counts(self) -> dict[str, TierCounts]:
        """Totals of each tier, by its name."""
        return {tier.name: tier.counts for tier in self.hierarchy.tiers()}

    def ticket(self, request: str) -> Ticket | None:
        """The ticket of a request that was opened and is not finished; else None."""
        return self._tickets.get(request)

    def tickets(self) -> Iterable[Ticket]:
        """The tickets of all requests that were opened and are not finished."""
        return self._tickets.values()

    def report(self) -> CacheReport:
        """The tiers of all workers together. On the device, blocks in use count as held, whatever they are used for."""
        report = CacheReport.of(self.hierarchy, 0 if self._writes is None else len(self._writes))
        device, *lower = report.tiers
        tiers = [dataclasses.replace(device, balance=self._device.balance()), *lower]
        if self._workers == 1:
            return dataclasses.replace(report, tiers=tiers)
        times = self._workers
        moves = {name: dataclasses.replace(each, bytes=each.bytes * times) for name, each in report.moves.items()}
        tiers = [dataclasses.replace(tier, balance=_times(tier.balance, times)) for tier in tiers]
        return dataclasses.replace(report, tiers=tiers, moves=moves)

    # -- a request's life

    def open(self, request: str, path: Sequence[Segment], namespace: str) -> Ticket:
        """Opens a ticket for a request, by its id in vLLM."""
        ticket = self._tickets[request] = Ticket(request, list(path), namespace)
        return ticket

    def match(self, ticket: Ticket, local: int, limit: int) -> tuple[int | None, bool]:
        """Tokens that can be loaded behind the `local` ones that vLLM has, of at most `limit` in all, and whether the
        request has to wait for them.

        All are whole blocks. None if another request waits for some of them: ask again in the next step, for once they
        have come vLLM has them, and what that request computes behind them. Changes nothing but `ticket.local`.
        """
        ticket.local = local
        sources = self._loads.sources(self._nodes_of(ticket), local, limit)
        if not sources:
            return 0, False
        if self._loads.awaited(sources):
            return None, False
        return min(limit, sources[-1].end) - local, self._loads.waits(sources)

    def make_room(self, tokens: int) -> None:
        """Call before vLLM takes blocks for `tokens` tokens: those that the policy would give up come first."""
        self._device.make_room(tokens)

    def begin(self, ticket: Ticket, blocks: Sequence[int], tokens: int) -> None:
        """Starts a request that has its blocks: loads `tokens` tokens behind those that vLLM had at the last match."""
        self.hierarchy.release(ticket.held)
        ticket.held, ticket.nodes, ticket.committed = [], [], 0
        nodes = self._nodes_of(ticket)
        sources = self._loads.sources(nodes, ticket.local, ticket.local + tokens) if tokens else []
        self._loads.give(ticket, sources, blocks, tokens)
        if not ticket.counted:
            ticket.counted = True
            ticket.cached_tokens = ticket.local + tokens
            ticket.sources = {"device": ticket.local, **ticket.loaded_by_tier}
            missed = sum(map(len, ticket.path)) - ticket.cached_tokens
            if missed > 0:
                # PGDSF (3): T(alpha, beta) / beta
                ticket.price = self._cost(ticket.cached_tokens, missed) / missed
            tally(ticket, self.hierarchy, nodes, self._loads.nearest)

    def computed(self, ticket: Ticket, tokens: int, blocks: Sequence[Block]) -> None:
        """Keeps the segments that this step completes: the prompt's first `tokens` tokens will be in `blocks`."""
        parent = ticket.nodes[-1] if ticket.nodes else self.tree.root(ticket.namespace)
        start = sum(len(segment) for segment in ticket.path[: ticket.committed])
        while ticket.committed < len(ticket.path):
            segment = ticket.path[ticket.committed]
            end = start + len(segment)
            if end > tokens:
                return
            node = self._computed_node(parent, segment)
            kv = DeviceBlocks.of(blocks[start // self._block : end // self._block])
            if node is None or not self._keep(ticket, node, kv, start):
                del ticket.path[ticket.committed :]  # the rest stays the request's own
                return
            ticket.nodes.append(node)
            ticket.committed += 1
            parent, start = node, end

    def finish(self, ticket: Ticket) -> None:
        """Ends a request, whether it was answered or not. Call before vLLM frees its blocks."""
        del self._tickets[ticket.request]
        self.hierarchy.release(ticket.held)
        ticket.held = []
        self._device.freed()
        if self._writes is not None:
            self._writes.add(ticket.nodes)
            if not self._tickets:
                self._writes.learn()

    def lost(self, blocks: set[int], tables: Iterable[Sequence[int]]) -> None:
        """Has vLLM forget `blocks`, whose loads failed. `tables`: the blocks of each running request, in order."""
        if blocks:
            self.dispatch.era += 1
            self._device.spoiled(blocks, tables)

    def clear(self) -> None:
        """Gives up all that no request holds, on all tiers."""
        self._device.clear()

    # -- within

    def _nodes_of(self, ticket: Ticket) -> list[Node]:
        return self.tree.match(self.tree.root(ticket.namespace), ticket.path)

    def _computed_node(self, parent: Node, segment: Segment) -> Node | None:
        """The node of a segment that was computed behind `parent`; None where the tree has no place for it."""
        if not parent.is_root and not any(parent.places):  # given up meanwhile: nothing can stand on it
            return None
        node = parent.children.get(segment.key)
        if node is None:
            return self.tree.insert(parent, segment)
        return node if node.tokens == segment.tokens else None  # else a digest collision

    def _keep(self, ticket: Ticket, node: Node, kv: DeviceBlocks, start: int) -> bool:
        """Keeps a computed node where there is room; False if that is nowhere, and the node is out of the tree.

        Its first token is number `start` of the prompt.
        """
        if ticket.committed >= ticket.used:  # else it was computed before, and the request preempted
            ticket.used = ticket.committed + 1
            self._raise_use(node, None if start < ticket.cached_tokens else ticket.price)
        place = self._device.enter(node, kv)
        if place is not None:
            ticket.held.insert(0, (self.hierarchy.device, node, place))  # children before parents
        self._copy_to_host(node, kv)
        if not any(node.places):
            self.hierarchy.forget(node)
            return False
        return True

    def _raise_use(self, node: Node, price: float | None) -> None:
        """Counts a use of the node; `price` is the seconds that a token of it cost if it was a miss, else None."""
        self._uses += 1
        node.frequency += 1
        node.last_use = self._uses
        if price is not None:
            node.missed(price)
        for tier in self.hierarchy.lower:
            if node.places[tier.index] is not None:
                tier.hold(node)  # what is offered keeps the priority that it was offered with
                tier.policy.used(node)
                tier.release(node)

    def _copy_to_host(self, node: Node, kv: DeviceBlocks) -> None:
        """Copies a computed node to the host, if that has its parent and not the node."""
        host, parent = self.hierarchy.host, node.parent
        if host is None or node.places[HOST] is not None:
            return
        assert parent is not None
        above = parent.places[HOST]
        if not parent.is_root and above is None:
            return
        if above is not None:  # it must not make room for its own child
            host.hold(parent)
        self.hierarchy.copy_to_host(node, kv)
        if above is not None:
            host.release(parent)


def _times(balance: Balance, workers: int) -> Balance:
    return Balance(*(getattr(balance, field.name) * workers for field in dataclasses.fields(balance)))
