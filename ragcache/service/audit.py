"""IdleAudit: recounts a cache's books while the service has nothing to do."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context

from ragcache.cache.contract import CacheContract
from ragcache.errors import IntegrityError
from ragcache.service.stats import ServiceStats

IDLE_SECONDS = 1.0  # without a request or a move, before the books are recounted
AUDIT_SECONDS = 60.0  # between two recounts, at least: over many nodes one takes seconds

log = logging.getLogger(__name__)


class IdleAudit:
    """Audits `cache` between requests, on the loop of the service, in steps that give way to whatever comes.

    Results go to `stats` and, if the books are wrong, to the log. Wrong books end nothing: they are reported.
    """

    def __init__(self, cache: CacheContract, stats: ServiceStats) -> None:
        self._cache = cache
        self._stats = stats
        self._task: asyncio.Task[None] | None = None
        self._earliest = 0.0  # time of the loop at which the next may end

    def wake(self) -> None:
        """Call when a request has ended: an audit follows once nothing has happened for a while."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if (wait := self._earliest - IDLE_SECONDS - loop.time()) > 0:
                    await asyncio.sleep(wait)
                activity = self._cache.activity
                await asyncio.sleep(IDLE_SECONDS)
                if activity == self._cache.activity and self._cache.idle and await self._complete(activity):
                    self._stats.audits += 1
                    self._earliest = loop.time() + AUDIT_SECONDS
                    return
        except IntegrityError as error:
            self._stats.failed_audits += 1
            log.critical("the cache's books do not balance, please report this: %s", error)
        finally:
            self._task = None

    async def _complete(self, activity: int) -> bool:
        """Audits while the cache's activity is this one. Returns whether that was so to the end."""
        for _ in self._cache.audit():
            await asyncio.sleep(0)
            if activity != self._cache.activity:
                return False
        return True
