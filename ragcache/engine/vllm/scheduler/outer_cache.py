"""OuterCache: the knowledge cache around vLLM's own: what it should load, keep and give up. The scheduler's half.

The device is vLLM's: it allocates blocks, finds what it has itself, and takes free blocks back when it likes. So the
device tier only follows what is there, a node is copied to the host as soon as it is computed (once its blocks are
free there is no moment left for it), and host and disk fill the blocks that vLLM gave a request. Tree, tiers, policies,
records and the writing behind are those of KnowledgeCache. Nothing here waits or knows vLLM's classes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ragcache.cache.hierarchy import Held, Hierarchy
from ragcache.cache.interface import DiskTier, HostTier
from ragcache.cache.report import CacheReport
from ragcache.cache.tier import Balance, Tier, TierCounts
from ragcache.cache.write_behind import WriteBehind
from ragcache.cost import PrefillCost
from ragcache.engine.vllm.scheduler.device_blocks import DeviceBlocks
from ragcache.engine.vllm.scheduler.dispatch import Dispatch
from ragcache.engine.vllm.scheduler.pool_order import Pool, PoolOrder
from ragcache.engine.vllm.scheduler.remote_stores import RemoteHost, RemoteRecords
from ragcache.engine.vllm.scheduler.step_mover import StepMover
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.orders import NOT_TRIED, Load, Outcome, Piece
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.errors import RecordError
from ragcache.policy import POLICIES
from ragcache.tree.segment import Segment
from ragcache.tree.tree import DEVICE, DISK, HOST, Node, Place, path_key

LEARNED_AT_ONCE = 256  # nodes
NULL_BLOCKS = 1  # that vLLM takes for itself


@dataclass(slots=True, eq=False)
class Ticket:
    """One request: its path, where its KV came from when it was first scheduled, and what it holds.

    `committed` segments of the path are known to be computed; `local` tokens vLLM had itself when last asked. `name` is
    what a service in front calls it, if there is one; `reached` of the `prompt_tokens` have been in a step.
    """

    request: str
    path: list[Segment]
    namespace: str
    local: int = 0
    committed: int = 0
    cached_tokens: int = 0  # when first scheduled
    sources: dict[str, int] = field(default_factory=dict)  # tokens of the prompt that were not computed then, by tier
    found_by_tier: dict[str, int] = field(default_factory=dict)
    price: float = 0.0  # seconds a token that it has to compute
    used: int = 0  # segments of the path that were counted as used
    counted: bool = False
    held: Held = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    name: str = ""
    prompt_tokens: int = 0
    reached: int = 0


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a node's KV, which is that of the prompt's tokens [start, end), is taken from."""

    tier: Tier
    node: Node
    place: Place
    start: int
    end: int


class OuterCache:
    """What is outside, who is asked for what, and what the orders of the next step are.

    A request is matched (which changes nothing), begun once vLLM has given it blocks, told to be computed so far, and
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
        self._pool = pool
        self._cost = cost
        self._uses = 0
        self._tickets: dict[str, Ticket] = {}
        self._unlearned: dict[int, Node] = {}
        self._late: list[Node] = []  # to be written once their host copies are there
        token = max(found.bytes_per_token for found in inventories)
        make = POLICIES[settings.policy]
        tiers: dict[str, Any] = {}
        if settings.host_cache:
            capacity = settings.host_cache // len(inventories)
            tiers["host"] = HostTier(capacity, token, make(max(1, capacity // token)), RemoteHost(self.dispatch))
        if settings.disk is not None:
            usable = min(found.usable for found in inventories)
            self._records = RemoteRecords(self.dispatch, inventories)
            tiers["disk"] = DiskTier(usable, make(max(1, usable // token)), self._records)
        pool_tokens = pool.num_gpu_blocks * block_tokens
        self.hierarchy = Hierarchy(
            pool_tokens * token,
            token,
            make(pool_tokens),
            contested=settings.admission == "competes",
            inclusive=True,
            copies=StepMover(self.dispatch),
            writes=StepMover(self.dispatch),
            **tiers,
        )
        self.tree = self.hierarchy.tree
        self._device = self.hierarchy.device
        self._host = self.hierarchy.host
        self._disk = self.hierarchy.disk
        self._behind = WriteBehind(self.hierarchy, self._disk) if self._disk is not None else None
        self._order = PoolOrder(pool, self._left_device) if follows_device else None
        if self._disk is not None:
            self._uses = self.hierarchy.restore()[1]
            self.hierarchy.on_room = self._write_late

    @property
    def busy(self) -> bool:
        """Whether another step is needed, even if no request is there."""
        return self.dispatch.busy

    def counts(self) -> dict[str, TierCounts]:
        """Of each tier, by name."""
        return {tier.name: tier.counts for tier in self.hierarchy.tiers()}

    def ticket(self, request: str) -> Ticket | None:
        """Of a request that is neither finished nor unknown."""
        return self._tickets.get(request)

    def requests(self) -> list[str]:
        """Those that are neither finished nor unknown."""
        return list(self._tickets)

    def tickets(self) -> Iterable[Ticket]:
        """Theirs."""
        return self._tickets.values()

    @property
    def quiet(self) -> bool:
        """Whether no request is there, and nothing under way."""
        return not self._tickets and not self.busy

    def report(self) -> CacheReport:
        """Of all workers together. Of the device, blocks in use are held, whatever they are used for."""
        unwritten = 0 if self._behind is None else len(self._behind) + len(self._late)
        here = CacheReport.of(self.hierarchy, unwritten)
        device, *lower = here.tiers
        total = device.balance.total
        block = total // self._pool.num_gpu_blocks
        held = max(0, self._pool.num_gpu_blocks - NULL_BLOCKS - self._pool.get_num_free_blocks()) * block
        # a request that waits for its load has blocks of nodes that it does not hold yet
        cached = min(device.balance.cached, total - held)
        tiers = [dataclasses.replace(device, balance=Balance(total, total - held - cached, cached, held)), *lower]
        if self._workers == 1:
            return dataclasses.replace(here, tiers=tiers)
        times = self._workers
        moves = {name: dataclasses.replace(each, bytes=each.bytes * times) for name, each in here.moves.items()}
        tiers = [dataclasses.replace(tier, balance=_times(tier.balance, times)) for tier in tiers]
        return dataclasses.replace(here, tiers=tiers, moves=moves)

    # -- a request's life

    def open(self, request: str, path: Sequence[Segment], namespace: str) -> Ticket:
        """A request is there."""
        ticket = self._tickets[request] = Ticket(request, list(path), namespace)
        return ticket

    def match(self, ticket: Ticket, local: int, limit: int) -> tuple[int, bool]:
        """Tokens that can be loaded behind the `local` ones that vLLM has, of at most `limit` in all, and whether some
        lie on disk. Both are whole blocks. Changes nothing but what the ticket knows of `local`."""
        ticket.local = local
        sources = self._sources(ticket, local, limit)
        if not sources:
            return 0, False
        return min(limit, sources[-1].end) - local, any(source.tier is self._disk for source in sources)

    def make_room(self, tokens: int) -> None:
        """vLLM is about to take blocks for so many tokens: those that the policy would give up come first."""
        if self._order is not None:
            self._order.arrange(-(-tokens // self._block), self._device.eviction_order)

    def begin(self, ticket: Ticket, blocks: Sequence[int], tokens: int) -> None:
        """The request has its blocks; `tokens` behind those that vLLM had at the last match are to be loaded."""
        self.hierarchy.release(ticket.held)
        ticket.held, ticket.nodes, ticket.committed, local = [], [], 0, ticket.local
        sources = self._sources(ticket, local, local + tokens) if tokens else []
        ticket.found_by_tier = {}
        pieces: list[tuple[int, Piece]] = []
        done: dict[int, Callable[[Outcome], None]] = {}
        at = local
        for source in sources:
            end = min(source.end, local + tokens)
            copy, name = source.place.copy, source.tier.name
            number = self.dispatch.number()
            ids = tuple(blocks[at // self._block : end // self._block])
            where = copy if source.tier is self._disk else copy.number
            pieces.append((number, Piece(where, source.node.size, (at - source.start) // self._block, ids)))
            ticket.found_by_tier[name] = ticket.found_by_tier.get(name, 0) + end - at
            source.tier.hold(source.node)
            counted = None if ticket.counted else ticket
            done[number] = functools.partial(self._loaded, source, copy, counted, end - at)
            at = end
        if at < local + tokens:  # lost since it was promised: a load that fails, so that it is computed
            number = self.dispatch.number()
            ids = tuple(blocks[at // self._block : (local + tokens) // self._block])
            pieces.append((number, Piece(-1, local + tokens - at, 0, ids)))
            done[number] = _ignored
        if pieces:
            waits = any(source.tier is self._disk for source in sources)
            self.dispatch.give(Load(ticket.request, tuple(pieces), waits), done)
        if not ticket.counted:
            self._count(ticket, local, tokens)

    def computed(self, ticket: Ticket, tokens: int, blocks: Sequence[Any]) -> None:
        """After this step the first `tokens` of the prompt are in the request's `blocks`."""
        parent = ticket.nodes[-1] if ticket.nodes else self.tree.root(ticket.namespace)
        start = sum(len(segment) for segment in ticket.path[: ticket.committed])
        while ticket.committed < len(ticket.path):
            segment = ticket.path[ticket.committed]
            end = start + len(segment)
            if end > tokens:
                return
            if not parent.is_root and not any(parent.places):  # given up meanwhile: nothing can stand on it
                del ticket.path[ticket.committed :]
                return
            node = parent.children.get(segment.key)
            if node is None:
                node = self.tree.insert(parent, segment)
            elif node.tokens != segment.tokens:  # a digest collision: the rest stays the request's own
                del ticket.path[ticket.committed :]
                return
            kv = DeviceBlocks.of(blocks[start // self._block : end // self._block])
            if not self._keep(ticket, node, kv, start):
                del ticket.path[ticket.committed :]
                return
            ticket.nodes.append(node)
            ticket.committed += 1
            parent, start = node, end

    def finish(self, ticket: Ticket) -> None:
        """The request has ended, however; vLLM frees its blocks next."""
        del self._tickets[ticket.request]
        self.hierarchy.release(ticket.held)
        ticket.held = []
        if self._order is not None:
            self._order.changed()
        if self._behind is not None:
            alive = [node for node in ticket.nodes if any(node.places)]
            self._unlearned.update((node.id, node) for node in alive if node.places[DISK] is not None)
            self._late.extend(node for node in alive if node.places[DISK] is None)
            self._write_late()
            if not self._tickets or len(self._unlearned) >= LEARNED_AT_ONCE:
                self._learn()

    def lost(self, blocks: set[int], tables: Iterable[Sequence[int]]) -> None:
        """Loads into these blocks have failed. `tables` are the blocks of all requests that run, in order.

        Nobody is to find the blocks, nor what a forward has made of them behind, before they are computed again: and
        that may never be, if their request is given up first.
        """
        if blocks:
            self.dispatch.era += 1
            wrong = set(blocks)
            for table in tables:
                first = next((at for at, block in enumerate(table) if block in blocks), len(table))
                wrong.update(table[first:])
            self._pool.evict_blocks(wrong)

    def clear(self) -> None:
        """Gives up all that nothing holds, on all tiers; vLLM itself forgets nothing while a request runs."""
        left: set[int] = set()
        for node in reversed(list(self.tree.nodes())):  # children before parents
            kv: DeviceBlocks | None = node.kv
            self.hierarchy.drop(node)
            if kv is not None and node.places[DEVICE] is None and kv.valid:
                left.update(block.block_id for block in kv.blocks)
        self._pool.evict_blocks(left)

    # -- within

    def _write_late(self) -> None:
        """Nodes whose copies have arrived are written when it is their turn, in the order of their paths."""
        assert self._behind is not None
        late, self._late = self._late, []
        for node in late:
            place = node.places[HOST] if self._host is not None else None
            if place is not None and place.copy is None:
                self._late.append(node)
            elif any(node.places):
                self._behind.add([node])

    def _matched(self, ticket: Ticket) -> list[Node]:
        return self.tree.match(self.tree.root(ticket.namespace), ticket.path)

    def _sources(self, ticket: Ticket, local: int, limit: int) -> list[_Source]:
        """Where to load what follows the `local` tokens from, node by node, as far as it is complete there."""
        sources: list[_Source] = []
        end = 0
        for node in self._matched(ticket):
            start, end = end, end + node.size
            if end <= local:
                continue
            if start >= limit:
                break
            tier = self._nearest(node)
            if tier is None:
                break
            place = node.places[tier.index]
            assert place is not None
            sources.append(_Source(tier, node, place, start, end))
        return sources

    def _nearest(self, node: Node) -> Tier | None:
        """The fastest tier outside that has the node complete."""
        for tier in self.hierarchy.lower:
            place = node.places[tier.index]
            if place is not None and place.copy is not None:
                return tier
        return None

    def _keep(self, ticket: Ticket, node: Node, kv: DeviceBlocks, start: int) -> bool:
        """A node of a path is computed: it is kept where there is room. False if it is nowhere, and out of the tree."""
        if ticket.committed >= ticket.used:  # or it was computed before, and the request preempted
            ticket.used = ticket.committed + 1
            self._uses += 1
            node.frequency += 1
            node.last_use = self._uses
            if start >= ticket.cached_tokens:
                node.missed(ticket.price)
            for tier in self.hierarchy.lower:
                if node.places[tier.index] is not None:
                    tier.hold(node)  # what is offered keeps the priority that it was offered with
                    tier.policy.used(node)
                    tier.release(node)
        device = node.places[DEVICE]
        if self._order is not None:
            self._order.own(node, kv)
            if device is None:
                device = self._device.enter(node, kv)
            else:
                device.copy = kv  # these are in use, and so sure to be there
                self._device.hold(node)
                self._device.policy.used(node)
            ticket.held.insert(0, (self._device, node, device))  # children before parents
        host = self._host
        if host is not None and node.places[HOST] is None:
            parent = node.parent
            assert parent is not None
            above = parent.places[HOST]
            if parent.is_root or above is not None:
                if above is not None:  # it must not make room for its own child
                    host.hold(parent)
                self.hierarchy.copy_to_host(node, kv)
                if above is not None:
                    host.release(parent)
        if not any(node.places):
            self.hierarchy.forget(node)
            return False
        return True

    def _loaded(self, source: _Source, copy: Any, ticket: Ticket | None, tokens: int, outcome: Outcome) -> None:
        """A piece of `tokens` has been loaded from there, or has not. `copy` was kept until now; `ticket` is that of a
        request whose hits it was counted among."""
        del copy
        tier, node, counts = source.tier, source.node, source.tier.counts
        what = "from_disk" if tier is self._disk else "host_to_device"
        error = None if outcome.reason is None else RecordError("KV was not loaded", reason=outcome.reason)
        self.hierarchy.on_moved(what, tier, error)
        if outcome.reason is None:
            moves = self.hierarchy.moves[what]
            moves.moves += 1
            moves.bytes += tier.footprint(node)
            moves.seconds += outcome.seconds
        elif ticket is not None:  # a failed load is a miss
            ticket.sources[tier.name] -= tokens
            counts.hits -= 1
            counts.hit_tokens -= tokens
            counts.misses += 1
            counts.missed_tokens += tokens
        broken = outcome.reason is not None and outcome.reason != NOT_TRIED
        if broken:
            counts.failures[str(outcome.reason)] += 1
        if node.places[tier.index] is not source.place:
            return
        tier.release(node)
        if broken:  # a copy that cannot be read is none
            tier.leave(node, evicted=False)
            if tier is self._disk:
                self.hierarchy.remove_records([source.place.copy])
            if not any(node.places):
                self.hierarchy.forget(node)

    def _left_device(self, node: Node) -> None:
        """vLLM has taken a block of the node: it is on the device no longer, nor is what stands on it."""
        below = [node]
        for at in below:
            below.extend(child for child in at.children.values() if child.places[DEVICE] is not None)
        for at in reversed(below):
            self._device.leave(at, evicted=True)
            self._device.counts.evictions += 1
            if not any(at.places):
                self._device.counts.losses += 1
                self.hierarchy.forget(at)

    def _count(self, ticket: Ticket, local: int, tokens: int) -> None:
        """Hits and misses of a request that is scheduled for the first time, and what it will cost."""
        ticket.counted = True
        total = sum(map(len, ticket.path))
        ticket.cached_tokens = local + tokens
        ticket.sources = {"device": local, **ticket.found_by_tier}
        missed = total - ticket.cached_tokens
        if missed > 0:
            ticket.price = self._cost(ticket.cached_tokens, missed) / missed
        matched = self._matched(ticket)
        tiers = self.hierarchy.tiers()
        hits = dict.fromkeys((tier.name for tier in tiers), 0)
        key, end = self.tree.root(ticket.namespace).path_key, 0
        for number, segment in enumerate(ticket.path):
            key, end = path_key(key, segment.key), end + len(segment)
            node = matched[number] if number < len(matched) else None
            nearest = None if node is None else self._nearest(node)
            if end <= local:
                nearest = self._device
            elif end - len(segment) < ticket.cached_tokens and nearest is not None:
                hits[nearest.name] += 1
            hits[self._device.name] += nearest is self._device
            for tier in tiers:  # those that lack it, but for what a faster one has
                if tier is nearest:
                    break
                tier.policy.missed(key, len(segment))
        left, left_tokens = len(ticket.path), total
        for tier in tiers:
            found = min(total, ticket.sources.get(tier.name, 0))
            left, left_tokens = left - hits[tier.name], left_tokens - found
            tier.counts.hits += hits[tier.name]
            tier.counts.hit_tokens += found
            tier.counts.misses += left
            tier.counts.missed_tokens += left_tokens

    def _learn(self) -> None:
        learned = {}
        for node in self._unlearned.values():
            place = node.places[DISK]
            if place is not None and place.copy is not None:
                learned[place.copy] = node.frequency, node.last_use, node.misses, node.seconds_per_token
        self._unlearned.clear()
        if learned:
            self._records.learn(learned)


def _times(balance: Balance, workers: int) -> Balance:
    return Balance(*(getattr(balance, field.name) * workers for field in dataclasses.fields(balance)))


def _ignored(outcome: Outcome) -> None:
    del outcome
