"""Reporter: puts together the bulletins on an OuterCache and on vLLM's steps, for the service in front."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

from pydantic import TypeAdapter

from ragcache.cache.integrity import recount
from ragcache.cache.report import CacheReport
from ragcache.engine.vllm.scheduler.outer_cache import OuterCache
from ragcache.engine.vllm.scheduler.ticket import Ticket
from ragcache.engine.vllm.wire.bulletin import Bulletin, Ended, Work
from ragcache.engine.vllm.wire.orders import NOT_TRIED, SPOILED
from ragcache.errors import IntegrityError, reason_of
from ragcache.tree.tree import Node

AUDIT_SECONDS = 60.0  # between two recounts of the books, at least
NO_TROUBLE = (NOT_TRIED, SPOILED, "missing")  # reasons of failures that are not the tier's

log = logging.getLogger("vllm.ragcache")
_REPORT = TypeAdapter(CacheReport)


class Reporter:
    """Watches a cache from its beginning on. For each step call `scheduled`, then `stepped`, then `take`.

    While no request is there, the cache's books are recounted, a part in each step without a forward. `clock` returns
    seconds.
    """

    def __init__(self, cache: OuterCache, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._clock = clock
        self._next = Bulletin(paths=[(node.path_key, node.size, True) for node in cache.tree.nodes()])
        self._sent_report: object = None
        self._sent_work: Work | None = None
        self._sent_sources: dict[str, dict[str, int]] = {}
        self._troubles: set[tuple[str, str]] = set()  # direction and tier of moves of which the last one failed
        self._steps: deque[bool] = deque()  # under way: whether each is a forward pass
        self._since = 0.0  # when the time of the pass under way was last counted
        self._work = Work()
        self._audit: Iterator[None] | None = None
        self._unaudited = False
        self._next_audit = 0.0
        self._audits = 0
        self._failed_audits = 0
        self._clears = 0
        self._sent_clears = 0
        cache.tree.follow(self._changed)
        cache.hierarchy.moves.on_moved(self._moved)

    @property
    def pending(self) -> bool:
        """Whether a step is wanted though no request is there: to bring a bulletin, or to recount the books."""
        news = self._next
        return bool(
            news.paths
            or news.ended
            or news.moved
            or self._clears != self._sent_clears
            or self._audit is not None
            or self._audit_is_due()
            or self._report() != self._sent_report
        )

    def scheduled(self, prefill: int, decode: int, preempted: int) -> None:
        """A step begins with `prefill` tokens of prompts and `decode` others; `preempted` requests made room for it."""
        forward = prefill + decode > 0
        if forward:
            self._unaudited = True
            self._audit = None
            if not any(self._steps):
                self._since = self._clock()
        else:
            self._recount()
        self._steps.append(forward)
        work = self._work
        self._work = dataclasses.replace(
            work,
            steps=work.steps + forward,
            prefill_tokens=work.prefill_tokens + prefill,
            decode_tokens=work.decode_tokens + decode,
            preemptions=work.preemptions + preempted,
        )

    def stepped(self) -> None:
        """The oldest step under way has ended."""
        if self._steps and self._steps.popleft():
            now = self._clock()
            self._work = dataclasses.replace(self._work, seconds=self._work.seconds + now - self._since)
            self._since = now

    def ended(self, name: str, ticket: Ticket | None) -> None:
        """A request of that name has ended; without a ticket the cache never knew it."""
        self._sent_sources.pop(name, None)
        if ticket is None:
            self._next.ended[name] = Ended(0, 0, {})
            return
        computed = max(0, ticket.reached - ticket.cached_tokens)
        kept = sum(node.size for node in ticket.nodes if any(node.places)) - ticket.cached_tokens
        self._next.ended[name] = Ended(computed, min(computed, max(0, kept)), dict(ticket.sources))

    def cleared(self) -> None:
        """The cache has given up all that no request holds, by request."""
        self._clears += 1

    def take(self) -> Bulletin | None:
        """The news since the last call; None if there is none."""
        news, self._next = self._next, Bulletin()
        for ticket in self._cache.tickets():
            name = ticket.name
            if name and ticket.counted and self._sent_sources.get(name) != ticket.sources:
                news.sources[name] = self._sent_sources[name] = dict(ticket.sources)
        report = self._report()
        if report != self._sent_report:
            self._sent_report = report
            news.cache = _REPORT.validate_python(report)
        if self._work != self._sent_work:
            self._sent_work = news.work = self._work
        empty = not (news.paths or news.sources or news.ended or news.moved or news.cache or news.work)
        if empty and self._clears == self._sent_clears:
            return None
        news.clears = self._sent_clears = self._clears
        return news

    # -- within

    def _report(self) -> object:
        """The cache's report as plain values, for its own counts go on counting."""
        report = self._cache.report()
        return _REPORT.dump_python(dataclasses.replace(report, audits=self._audits, failed_audits=self._failed_audits))

    def _changed(self, node: Node, entered: bool) -> None:
        self._next.paths.append((node.path_key, node.size, entered))

    def _moved(self, direction: str, tier: str, error: Exception | None) -> None:
        move = (direction, tier)
        if error is None:
            if move not in self._troubles:
                return
            self._troubles.remove(move)
            self._next.moved.append((*move, None))
        elif (reason := reason_of(error)) not in NO_TROUBLE:
            self._troubles.add(move)
            self._next.moved.append((*move, reason))

    def _audit_is_due(self) -> bool:
        return self._unaudited and self._cache.quiet and self._clock() >= self._next_audit

    def _recount(self) -> None:
        """Goes on with a recount, or begins one that is due."""
        if not self._cache.quiet:
            self._audit = None
            return
        if self._audit is None:
            if not self._audit_is_due():
                return
            self._audit = recount(self._cache.hierarchy, {})
        try:
            next(self._audit)
            return
        except StopIteration:
            self._audits += 1
        except IntegrityError as error:
            self._failed_audits += 1
            log.critical("the cache's books do not balance, please report this: %s", error)
        self._audit = None
        self._unaudited = False
        self._next_audit = self._clock() + AUDIT_SECONDS
