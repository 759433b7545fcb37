"""Simulation: a system's run over its workload, event by event.

Without `p` a batch goes through retrieval, prefill and decoding together, and retrieves again together. With `p` each
of its requests goes on as soon as it can: the host looks at running searches at fixed intervals and hands on what is
sure, which is prefilled while the search goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pimsim.result import Provenance
from pimsim.system.described.config import SystemConfig
from pimsim.system.generation.engine import generator
from pimsim.system.generation.protocol import Cost
from pimsim.system.report.bill import area_mm2, cost_usd
from pimsim.system.report.result import UNITS, SystemResult
from pimsim.system.retrieval.confidence import HandedOn, Rule, looks_that_see
from pimsim.system.retrieval.drawn_searches import Met
from pimsim.system.retrieval.engine import retriever, search
from pimsim.system.run.batch import DECODING, DONE, PREFILLING, SEARCHING, Batch, Place, Steps
from pimsim.system.run.books import Books
from pimsim.system.run.drafts import Drafts
from pimsim.system.run.event_loop import ARRIVE, END, LOOK, PS, TICK, EventLoop, Server, picoseconds
from pimsim.system.run.prefix_tree import PrefixTree
from pimsim.system.run.room import in_hand
from pimsim.system.workload.documents_found import Draws, Retrievals
from pimsim.system.workload.requests import Documents, Request, earlier_documents, requests

TOKEN_BYTES = 4  # of an id on a link


@dataclass(frozen=True, slots=True)
class News:
    """What the host hands on at one look: rows `first` to `last`, of the searches for these places."""

    places: np.ndarray
    handed_on: HandedOn
    first: int
    last: int
    documents: int  # that the generation devices do not have
    complete: list[Place]  # whose results are among it


def run(config: SystemConfig, *, timeline: bool = False) -> SystemResult:
    """Simulate the workload on the system; with `timeline` the result says what each unit did when.

    PimsimError for what cannot be simulated.
    """
    return _Run(config, timeline).result()


class _Run:
    """One run, with all that changes in it."""

    def __init__(self, config: SystemConfig, timeline: bool) -> None:
        self.config = config
        self.requests = requests(config)
        self.generator = generator(config)
        self.rng = np.random.default_rng([config.workload.seed, 5])
        self.loop = EventLoop()
        self.spans: list[tuple[str, str, int, int]] | None = [] if timeline else None
        self.host, self.to_search, self.search, self.to_generation, self.generation = (
            Server(self.loop, unit, self.spans) for unit in UNITS
        )
        self.room, cache = in_hand(config, self.requests, self.generator.memory_bytes)
        self.retriever = retriever(config, self.room)
        self.draws = Draws(config.workload, Documents(config.workload), self.requests)
        self.retrieved: Retrievals  # of the batch in hand
        self.tree = self._warm_tree(cache) if config.optimisations.g else None
        self.evicted_before = self.tree.evicted if self.tree is not None else 0
        self.rule = Rule(config.retrieval.tail_from, config.retrieval.newest_share)
        self.met = Met(config, self.draws.most)
        self.strange = np.random.default_rng([config.workload.seed, 7])
        tokens = config.workload.document_tokens
        important = max(1, round(tokens * config.generation.important_tokens))
        drafts = Drafts(self.room, self.draws.most, self.met.vertices, tokens, important, self.tree)
        self.batch = Batch(config, self.generator, drafts)
        self.arrived: deque[Request] = deque()
        self.to_be_searched: deque[Place] = deque()
        self.generating = False
        self.work_is_due = False  # whether it will, at this time
        self.ends: list[int] = []  # of the searches that run
        self.searched_until = 0
        self.steps: Steps | None = None
        self.retrievals: list[float] = []
        self.books = Books()
        self.latency = picoseconds(config.link.latency_ns * 1e-9)

    def _warm_tree(self, capacity: float) -> PrefixTree:
        """A prefix tree that holds the documents of earlier requests."""
        config, numbers = self.config, self.draws.numbers
        dense = config.workload.document_tokens * config.model.kv_token_bytes
        tree = PrefixTree(capacity, dense, dense * config.generation.important_tokens, len(numbers))
        for documents in earlier_documents(config):
            tree.keep([numbers[document] for document in documents])
        return tree

    def result(self) -> SystemResult:
        """Run all events; returns the result."""
        config = self.config
        for request in self.requests:
            self.loop.call_at(request.arrival, ARRIVE, partial(self._arrives, request))
        self.loop.run()
        begin = 0 if not config.workload.rate_rps else self.requests[0].arrival
        makespan = (max(request.done for request in self.requests) - begin) / PS
        servers = (self.host, self.to_search, self.search, self.to_generation, self.generation)
        busy = {server.name: server.busy / PS for server in servers}
        idle_w = {"retrieval": self.retriever.idle_w, "generation": self.generator.idle_w}
        self.books.close(config, makespan, busy, idle_w)
        counts = {**self.books.counts, **self.retriever.counts, "batch_in_hand": self.room, "events": self.loop.events}
        if self.tree is not None:
            counts["evicted_entries"] = self.tree.evicted - self.evicted_before
        return SystemResult(
            config=config,
            latencies=np.array([(one.done - one.begun) / PS for one in self.requests]),
            first_tokens=np.array([(one.first_token - one.begun) / PS for one in self.requests]),
            retrievals=np.array(self.retrievals),
            makespan=makespan,
            tokens=sum(request.output for request in self.requests),
            busy=busy,
            energy=self.books.energy,
            counts=counts,
            area_mm2=area_mm2(config),
            cost_usd=cost_usd(config),
            provenance=self._provenance(),
            spans=tuple((unit, what, begin / PS, end / PS) for unit, what, begin, end in self.spans or ()),
        )

    def _provenance(self) -> Provenance:
        config = self.config
        clocks = {"DIMM": 1e3 / config.dimm.standard.tck_ns, "RPM": config.dimm.rpm.clock_mhz}
        if config.generation.engine == "accelhbm":
            clocks["generation memory"] = 1e3 / config.hbm.standard.tck_ns
            clocks["BPM"] = config.hbm.units["bank"].clock_mhz
        warnings = []
        if self.room < config.workload.batch:
            warnings.append(f"memory holds {self.room} requests' KV, not a batch of {config.workload.batch}")
        short = sum(1 for request in self.requests if request.short)
        if short:
            warnings.append(f"{short} prompts of the trace are shorter than their documents: those are their prompts")
        if config.generation.engine == "accelhbm":
            warnings.append("no energy of control logic is known: it is not in the sums")
        if config.retrieval.engine == "upmem":
            warnings.append("no price of DIMMs with DPUs is known: they count as ordinary ones")
        return Provenance.of(
            config.configuration,
            clocks_mhz=clocks,
            sourced=config.sourced,
            bounds=[*self.generator.bounds, *self.retriever.bounds],
            warnings=warnings,
        )

    def _arrives(self, request: Request) -> None:
        request.begun = self.loop.now
        self.arrived.append(request)
        self._look_soon()

    # retrieval

    def _retrieve(self, places: list[Place]) -> None:
        """Send the queries of these to all devices; each request's documents are settled now."""
        config, retrievals = self.config, self.retrieved
        rows = []
        for place in places:
            request = place.request
            row = retrievals.first[place.number] + request.retrievals
            request.retrievals += 1
            place.state, place.queried_at, place.retrieval = SEARCHING, self.loop.now, row
            place.changed = retrievals.changed[row]
            rows.append(row)
        numbers = np.array([place.number for place in places])
        self.batch.drafts.begin(numbers, retrievals.documents[rows], retrievals.counts[rows], retrievals.there[rows])
        self.books.counts["retrievals"] += len(places)
        query = config.dimm.vectors.bytes
        time = picoseconds(len(places) * config.host.query_us * 1e-6)
        self.host.do(time, "queries", lambda: self._over_link(len(places) * query, partial(self._found_by, places)))

    def _over_link(self, size: int, then: Callable[[], None]) -> None:
        """Send `size` bytes to or from each retrieval device."""
        self.books.counts["bytes_retrieval_link"] += size * self.config.retrieval.devices
        self.to_search.do(picoseconds(size / (self.config.link.gbps * 1e9)), "queries", then, later=self.latency)

    def _found_by(self, places: list[Place]) -> None:
        self.to_be_searched.extend(places)
        self._search()

    def _search(self) -> None:
        """Search all queries that wait at once; without `p` when no other search runs, as the host sends batch after
        batch.
        """
        begin = self.loop.now
        self.ends = [end for end in self.ends if end > begin]
        if not self.to_be_searched or (self.ends and not self.config.optimisations.p):
            return
        places = list(self.to_be_searched)
        self.to_be_searched.clear()
        again = all(place.request.retrievals > 1 for place in places)
        effort = self.config.search.effort
        searches = search(self.retriever, effort, len(places), len(self.ends), again, self.rng)
        for part, nj in searches.energy.items():
            self.books.spend(f"retrieval_{part}", nj * searches.times)
        ends = [begin + picoseconds(time) for time in searches.done.tolist()]
        last = max(ends)
        if last > self.searched_until:  # searches beside each other keep the devices busy once
            self.search.took("search", max(begin, self.searched_until), last)
            self.searched_until = last
        self.ends += ends
        if self.config.optimisations.p:
            interval = max(1, picoseconds(searches.hop * self.config.retrieval.interval_hops))
            for look_number, news in self._looks(places, np.array(ends) - begin, interval):
                self.loop.call_at(begin + look_number * interval, TICK, partial(self._hand_on, news))
        else:
            for _, news in self._looks(places):
                self.loop.call_at(last, END, partial(self._hand_on, news))
            self.loop.call_at(last, LOOK, self._search)

    def _looks(
        self, places: list[Place], durations: np.ndarray | None = None, interval: int = 1
    ) -> Iterator[tuple[int, News]]:
        """What the host hands on of searches, and at which of its looks; it looks every `interval` ps,
        and the searches take `durations` ps. Without them everything is handed on at the first look."""
        numbers = np.array([place.number for place in places])
        counts, there = self.batch.drafts.of(numbers)
        if durations is None:
            seen, lasts = np.ones((len(places), self.met.vertices), np.int64), np.ones(len(places), np.int64)
        else:
            shares = self.met.drawn(len(places), self.rng)
            if self.config.optimisations.r:  # the search begins with the last result; its others are not new
                shares[:, : there.shape[1]][there] = 0.0
            seen, lasts = looks_that_see(shares, durations, interval)
        handed_on = self.rule.handed_on(seen, lasts, counts, there, self.config.dimm.graph.k)
        if len(handed_on.strangers):
            searched, vertices = handed_on.strangers.T
            rows = np.array([place.retrieval for place in places])[searched]
            self.batch.drafts.name(numbers[searched], vertices, self.retrieved.strangers(rows, self.strange))
        self.books.counts["wasted_documents"] += len(handed_on.strangers)
        searches, first = handed_on.search.tolist(), handed_on.first.tolist()
        documents_sent, results_sent = handed_on.documents.tolist(), handed_on.results.tolist()
        looks = zip(handed_on.looks.tolist(), first, first[1:], documents_sent, results_sent, strict=False)
        for look_number, begin, end, documents, results in looks:
            complete = [places[one] for one in searches[end - results : end]]
            yield look_number, News(numbers, handed_on, begin, end, documents, complete)

    def _hand_on(self, news: News) -> None:
        """Send results to the host, merge them there, and send the documents' tokens to the generation devices."""
        config = self.config
        dimm = config.dimm
        complete = len(news.complete)
        questions = sum(place.request.question for place in news.complete if place.request.retrievals == 1)
        results = complete * dimm.graph.k * dimm.dpm.result_bytes
        merging = picoseconds(complete * config.retrieval.devices * dimm.graph.k * config.host.merge_ns * 1e-9)
        tokens = news.documents * config.workload.document_tokens + questions
        self._over_link(
            results, lambda: self.host.do(merging, "merge", lambda: self._tokens(tokens, partial(self._known, news)))
        )

    def _tokens(self, tokens: int, then: Callable[[], None]) -> None:
        """Send this many tokens between the host and the generation devices."""
        size = tokens * TOKEN_BYTES
        self.books.counts["bytes_generation_link"] += size
        self.to_generation.do(picoseconds(size / (self.config.link.gbps * 1e9)), "tokens", then, later=self.latency)

    def _known(self, news: News) -> None:
        self.batch.drafts.know(news.places, news.handed_on, news.first, news.last)
        for place in news.complete:
            place.state = PREFILLING
            self.retrievals.append((self.loop.now - place.queried_at) / PS)
        if self.steps is not None and self.batch.waits() and self.steps.cut(self.loop.now):
            steps = self.steps
            self.loop.call_at(steps.begin + steps.ends(steps.count), END, partial(self._steps_end, steps, steps.count))
        self._look_soon()

    # generation

    def _look_soon(self) -> None:
        """Look for what can begin when all that ends or arrives at this time has; while something is generated its end
        will.
        """
        if not self.generating and not self.work_is_due:
            self.work_is_due = True
            self.loop.call_at(self.loop.now, LOOK, self._begin_work)

    def _begin_work(self) -> None:
        """Begin what can be begun: a prefill before tokens, and a new batch when the last one has ended."""
        self.work_is_due = False
        if self.generating:
            return
        if self.batch.finished:
            if self.arrived:
                count = min(self.room, len(self.arrived))
                taken = [self.arrived.popleft() for _ in range(count)]
                if not self.config.workload.rate_rps:
                    for request in taken:
                        request.begun = self.loop.now
                self.retrieved = self.draws.of(taken)
                self._retrieve(self.batch.take(taken))
            return
        if not self.config.optimisations.p and self.batch.searching:
            return
        if self.batch.waits():
            prefill = self.batch.prefill()
            self.books.counts["prefills"] += 1
            self.books.counts["prefilled_tokens"] += prefill.tokens
            self.books.counts["loaded_tokens"] += prefill.loaded
            self.books.counts["wasted_tokens"] += prefill.wasted
            self._generate(prefill.cost, "prefill", partial(self._prefilled, prefill.ready))
            return
        steps = self.batch.steps()
        if steps is not None:
            self.steps, self.generating = steps, True
            steps.begin = self.loop.now
            self.loop.call_at(steps.begin + steps.ends(steps.count), END, partial(self._steps_end, steps, steps.count))

    def _generate(self, cost: Cost, what: str, then: Callable[[], None]) -> None:
        self.generating = True
        self._pay(cost)
        self.generation.do(picoseconds(cost.seconds), what, then)

    def _pay(self, cost: Cost) -> None:
        self.books.pay(cost)
        if cost.link_bytes:  # each device's, while it generates
            self.books.counts["bytes_generation_link"] += cost.link_bytes * self.config.generation.devices
            self.to_generation.busy += picoseconds(cost.link_bytes / (self.config.link.gbps * 1e9))

    def _prefilled(self, ready: list[Place]) -> None:
        self.generating = False
        for place in ready:
            request = place.request
            place.state = DECODING
            if request.retrievals == 1:
                request.first_token = self.loop.now
                request.generated = 1
                request.context = len(request.documents) * self.config.workload.document_tokens + request.question
        self._turn(ready, decoded=False)

    def _steps_end(self, steps: Steps, count: int) -> None:
        if steps is not self.steps or count != steps.count:
            return  # cut since
        self.steps, self.generating = None, False
        self.generation.took("decode", steps.begin, self.loop.now)
        self._pay(steps.cost())
        self.books.counts["decode_steps"] += steps.count
        for place in steps.places:
            place.request.generated += steps.count
            place.request.context += steps.count
        self._turn(steps.places, decoded=True)

    def _turn(self, places: list[Place], *, decoded: bool) -> None:
        """Send on those of these requests that are done or retrieve next; `decoded`: each has a new token."""
        every = self.config.workload.retrieve_every
        retrieving = []
        for place in places:
            request = place.request
            if request.generated >= request.output:
                place.state = DONE
                self._tokens(request.output, partial(self._answered, request))
            elif decoded and every and request.generated % every == 0:
                retrieving.append(place)
        if retrieving:
            self._retrieve(retrieving)
        self._look_soon()

    def _answered(self, request: Request) -> None:
        request.done = self.loop.now
