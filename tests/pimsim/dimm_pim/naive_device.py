"""The AccelDIMM in plain Python: objects that call each other at times, as the docstring of `events` tells it."""

import heapq
from collections import OrderedDict, defaultdict, deque
from itertools import count


class Clock:
    """Calls in order of time, and of when they were asked for."""

    def __init__(self):
        self.now, self._calls, self._order = 0, [], count()

    def call_at(self, time, call, *arguments):
        heapq.heappush(self._calls, (time, next(self._order), call, arguments))

    def run(self):
        while self._calls:
            self.now, _, call, arguments = heapq.heappop(self._calls)
            call(*arguments)


class Cache:
    """Two OrderedDicts, the oldest first."""

    def __init__(self, local, shared):
        self.sizes, self.local, self.shared = (local, shared), OrderedDict(), OrderedDict()

    def look_up(self, vertex, query):
        if vertex in self.local:
            self.local.move_to_end(vertex)
            return 1
        if vertex in self.shared:
            self.shared.move_to_end(vertex)
            return 2
        if self.sizes[0]:
            if len(self.local) == self.sizes[0]:
                self.local.popitem(last=False)
            self.local[vertex] = query
        return 0

    def merge(self, query):
        for vertex in [vertex for vertex, owner in self.local.items() if owner == query]:
            del self.local[vertex]
            if self.sizes[1]:
                if len(self.shared) == self.sizes[1]:
                    self.shared.popitem(last=False)
                self.shared[vertex] = query


class Dram:
    """One rank's banks, in cycles; each new command is held against the last of every kind on every bank."""

    def __init__(self, p, rank):
        self.p, self.last, self.open, self.due = p, defaultdict(dict), {}, p.tREFI * (rank + 1) // p.ranks
        self.acts = []

    def after(self, least, *rules):
        """The first cycle from `least` on that keeps the distances: rules are (command, on which banks, cycles)."""
        for name, same, cycles in rules:
            source = [cycle for bank, cycle in self.last[name].items() if same(bank)]
            if source:
                least = max(least, max(source) + cycles)
        return least

    def add(self, cycle, name, bank):
        self.last[name][bank] = cycle
        return cycle

    def precharge(self, start, bank):
        p, same = self.p, lambda other: other == bank
        self.open.pop(bank)
        return self.add(self.after(start, ("ACT", same, p.tRAS), ("RD", same, p.tRTP)), "PRE", bank)

    def activate(self, start, bank, row):
        p = self.p
        if self.open.get(bank) == row:
            return
        if bank in self.open:
            self.precharge(start, bank)
        any_bank, same = (lambda _: True), (lambda other: other == bank)
        near = lambda other: other % p.bank_groups == bank % p.bank_groups  # noqa: E731
        cycle = self.after(
            start, ("PRE", same, p.tRP), ("ACT", same, p.tRC), ("ACT", near, p.tRRD_L), ("ACT", any_bank, p.tRRD_S),
            ("REF", any_bank, p.tRFC),
        )  # fmt: skip
        if len(self.acts) >= 4:
            cycle = max(cycle, self.acts[-4] + p.tFAW)
        self.open[bank] = row
        self.acts.append(self.add(cycle, "ACT", bank))

    def read(self, start, bank):
        p = self.p
        near = lambda other: other % p.bank_groups == bank % p.bank_groups  # noqa: E731
        return self.add(
            self.after(
                start, ("ACT", lambda other: other == bank, p.tRCD), ("RD", near, p.tCCD_L),
                ("RD", lambda _: True, p.tCCD_S),
            ),
            "RD", bank,
        )  # fmt: skip

    def reads(self, start, banks, row, bursts):
        """First and last READ of `bursts` bursts, in turn from the banks."""
        p = self.p
        while p.tREFI and self.due <= self.after(start, ("RD", lambda _: True, p.tCCD_S)):
            # all banks together: the latest that may be precharged
            closing = [
                self.after(self.due, ("ACT", lambda other, b=bank: other == b, p.tRAS),
                           ("RD", lambda other, b=bank: other == b, p.tRTP))
                for bank in self.open
            ]  # fmt: skip
            for bank in list(self.open):
                self.open.pop(bank)
                self.add(max(closing), "PRE", bank)
            any_bank = lambda _: True  # noqa: E731
            begin = self.after(self.due, ("PRE", any_bank, p.tRP), ("ACT", any_bank, p.tRC), ("REF", any_bank, p.tRFC))
            self.add(begin, "REF", -1)
            self.due += p.tREFI
        for bank in banks:
            self.activate(start, bank, row)
        cycles = [self.read(start, banks[burst % len(banks)]) for burst in range(bursts)]
        if p.closed_page:
            for bank in banks:
                self.precharge(start, bank)
        return cycles[0], cycles[-1]


class Bus:
    """Serves transfers in order; each says its source, its cycles when it starts, and what follows."""

    def __init__(self, model):
        self.model, self.waiting, self.busy, self.last, self.moved = model, deque(), False, None, []

    def submit(self, kind, source, cycles, then):
        self.waiting.append((kind, source, cycles, then))
        if not self.busy:
            self.start()

    def start(self):
        p, clock = self.model.p, self.model.clock
        kind, source, cycles, then = self.waiting.popleft()
        begin = -(-clock.now // p.tck_ps) + (p.tRTRS if self.last not in (None, source) else 0)
        self.busy, self.last = True, source
        self.moved.append(kind)
        clock.call_at((begin + cycles(begin)) * p.tck_ps, self.end, then)

    def end(self, then):
        self.busy = False
        then()
        if self.waiting and not self.busy:
            self.start()


class Dimm:
    """Distances that wait for a burst."""

    def __init__(self, model, number):
        self.model, self.number, self.waiting, self.asked = model, number, deque(), False

    def add(self, vector):
        self.waiting.append(vector)
        if not self.asked:
            self.ask()

    def ask(self):
        self.asked, burst = True, []

        def starts(_):
            burst.extend(self.waiting.popleft() for _ in range(min(len(self.waiting), self.model.p.results_per_burst)))
            return self.model.p.tBL

        def arrives():
            for vector in burst:
                self.model.sort_in(vector)
            self.asked = False
            if self.waiting:
                self.ask()

        self.model.buses[self.number % self.model.p.channels].submit("results", self.number, starts, arrives)


class Rank:
    """Lists first, then vectors in order; the next is begun while the last one is computed."""

    def __init__(self, model, number):
        p = model.p
        self.model, self.number, self.dram = model, number, Dram(p, number)
        self.cache = Cache(p.local_vectors, p.global_vectors)
        self.lists, self.vectors, self.planned = deque(), deque(), None
        self.may_decide, self.unit_free, self.ends = 0, 0, deque([0] * p.fetch_ahead, p.fetch_ahead)

    def wake(self, time):
        time = max(time, self.may_decide)
        if self.planned is None or time < self.planned:
            self.planned = time
            self.model.clock.call_at(time, self.decide, time)

    def decide(self, time):
        if time != self.planned:
            return
        self.planned, p, clock = None, self.model.p, self.model.clock
        now = following = clock.now
        latency = p.tCL + p.tBL
        cycle = -(-now // p.tck_ps)
        if self.lists:
            query, slot, bursts = self.lists.popleft()
            place = slot // p.lists_per_row
            _, last = self.dram.reads(cycle, [place % p.banks], p.list_rows + place // p.banks, bursts)
            end = (last + latency) * p.tck_ps
            clock.call_at(end - bursts * p.tBL * p.tck_ps, self.model.send_list, query, self.number, bursts)
            following = end - p.lead_ps
        elif self.vectors and self.vectors[0][0] <= now:
            _, vector = self.vectors.popleft()
            query, vertex, slot = self.model.vector(vector)
            self.model.source[vector] = self.cache.look_up(vertex, query)
            begin, least = now + p.lookup_ps, 0
            following = begin
            if not self.model.source[vector]:
                place, sets = slot // p.pieces_per_row, p.bank_groups // p.stripes
                first_bank = place % sets * p.stripes + place // sets % (p.banks // p.bank_groups) * p.bank_groups
                banks = list(range(first_bank, first_bank + p.stripes))
                first, last = self.dram.reads(
                    -(-begin // p.tck_ps), banks, place // (p.banks // p.stripes), p.vector_bursts
                )
                begin, least = (first + latency) * p.tck_ps, (last + latency) * p.tck_ps
                following = least - p.lead_ps
            end = self.unit_free = max(max(begin, self.unit_free) + p.compute_ps, least)
            self.ends.append(end)
            following = max(following, self.ends[0] - p.lead_ps)
            clock.call_at(end + p.pipeline_ps, self.model.dimms[self.number % p.dimms].add, vector)
        self.may_decide = max(now, following)
        if self.lists:
            self.wake(now)
        elif self.vectors:
            self.wake(self.vectors[0][0])


class Model:
    """The host, the TPM, and what hangs on it. `done`, `sent` and `found` are as the kernel's."""

    def __init__(self, p, work):
        self.p, self.work, self.clock = p, work, Clock()
        self.buses = [Bus(self) for _ in range(2 * p.channels)]
        self.dimms = [Dimm(self, number) for number in range(p.dimms)]
        self.ranks = [Rank(self, number) for number in range(p.ranks)]
        self.queries = len(work.first_hop) - 1
        self.sent, self.done, self.source = [], {}, {}
        self.hop, self.missing, self.lanes = {}, {}, [0] * p.lanes
        self.link = self.uplink = self.searching = 0
        self.waiting = deque()
        hop_of = [hop for hop in range(len(work.list_rank)) for _ in self.rows(hop)]
        query_of_hop = [q for q in range(self.queries) for _ in range(work.first_hop[q], work.first_hop[q + 1])]
        self.query_of = [query_of_hop[hop] for hop in hop_of]
        self.send(p.batch)
        self.clock.run()

    def rows(self, hop):
        return range(self.work.first_vector[hop], self.work.first_vector[hop + 1])

    def vector(self, vector):
        return self.query_of[vector], int(self.work.vertex[vector]), int(self.work.slot[vector])

    def send(self, most):
        for query in range(len(self.sent), min(len(self.sent) + most, self.queries)):
            self.sent.append(self.clock.now)
            self.link = max(self.link, self.clock.now) + self.p.query_link_ps
            self.clock.call_at(self.link + self.p.latency_ps, self.arrive, query)

    def arrive(self, query):
        if self.searching == self.p.in_flight:
            self.waiting.append(query)
        else:
            self.begin(query)

    def begin(self, query):
        self.searching += 1
        self.hop[query] = self.work.first_hop[query]
        for bus in self.buses[: self.p.channels]:
            bus.submit("query", "TPM", lambda _: self.p.query_cycles, lambda: None)
        self.begin_hop(query)

    def begin_hop(self, query):
        hop = self.hop[query]
        if hop == self.work.first_hop[query + 1]:
            self.finish(query)
        elif self.work.list_rank[hop] < 0:
            self.instruct(query)
        else:
            rank = self.ranks[self.work.list_rank[hop]]
            rank.lists.append((query, int(self.work.list_slot[hop]), int(self.work.list_bursts[hop])))
            rank.wake(self.clock.now)

    def send_list(self, query, rank, bursts):
        bus = self.buses[rank % self.p.channels]
        bus.submit("list", rank % self.p.dimms, lambda _: bursts * self.p.tBL, lambda: self.filter(query))

    def lane(self, query, duration):
        lane = query % self.p.lanes
        self.lanes[lane] = max(self.lanes[lane], self.clock.now) + duration
        return self.lanes[lane]

    def filter(self, query):
        cycles = -(-self.work.list_ids[self.hop[query]] // self.p.lookups_per_cycle)
        self.clock.call_at(self.lane(query, cycles * self.p.tpm_ps), self.instruct, query)

    def instruct(self, query):
        p, rows = self.p, self.rows(self.hop[query])
        self.missing[query] = len(rows)
        if not rows:
            self.clock.call_at(self.lane(query, p.tpm_ps), self.next_hop, query)
        for channel in range(p.channels):
            mine = [vector for vector in rows if self.work.rank[vector] % p.channels == channel]
            if mine:
                bus = self.buses[channel if p.instructions_on_data else p.channels + channel]
                bus.submit("instructions", "TPM", lambda begin, mine=mine: self.deliver(begin, mine), lambda: None)

    def deliver(self, begin, rows):
        p = self.p
        for place, vector in enumerate(rows, start=1):
            arrival = (begin + place * p.instruction_cycles) * p.tck_ps + p.dispatch_ps
            rank = self.ranks[self.work.rank[vector]]
            rank.vectors.append((arrival, vector))
            rank.wake(arrival)
        return len(rows) * p.instruction_cycles

    def sort_in(self, vector):
        query = self.query_of[vector]
        self.missing[query] -= 1
        last = not self.missing[query]
        end = self.lane(query, self.p.insert_ps + last * self.p.tpm_ps)
        if last:
            self.clock.call_at(end, self.next_hop, query)

    def next_hop(self, query):
        self.hop[query] += 1
        self.begin_hop(query)

    def finish(self, query):
        for rank in self.ranks:
            rank.cache.merge(query)
        self.uplink = max(self.uplink, self.clock.now) + self.p.result_link_ps
        self.clock.call_at(self.uplink + self.p.latency_ps, self.end, query)
        self.searching -= 1
        if self.waiting:
            self.begin(self.waiting.popleft())

    def end(self, query):
        self.done[query] = self.clock.now
        if self.p.continuous:
            self.send(1)
        elif len(self.done) == len(self.sent):
            self.send(self.p.batch)
