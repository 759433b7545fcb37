"""Crowd: the open connections of a server, of which there may be only as many as the process can open files."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Set
from typing import Protocol

import psutil

RESERVED_FILES = 64  # for the disk cache, the index that a reload opens, and whatever else the process opens
FEWEST_CONNECTIONS = 8
NOTICE_SECONDS = 60.0

log = logging.getLogger(__name__)


class Member(Protocol):
    """A connection that counts."""

    waiting_since: float | None  # the loop's time since which it waits for its client; None: its request is answered

    def shed(self) -> None:
        """Ends it at once."""


class Crowd:
    """Makes room for new connections, by closing those that have waited longest for their clients.

    It says so in one line a minute at most, however many there are.
    """

    def __init__(self, members: Set[Member], limit: int) -> None:
        """`members` is the server's set of open connections, `limit` how many there may be."""
        self.limit = limit
        self._members = members
        self._silent_until = 0.0

    def admits(self, newcomer: Member) -> bool:
        """Whether a connection, a member already, may stay. It may not where all others are being answered."""
        if len(self._members) <= self.limit:
            return True
        self._notice(f"{self.limit} connections are open, the limit (--max-connections)")
        return self._make_room(newcomer)

    def starved(self, error: OSError) -> bool:
        """Makes room for a connection that could not be accepted, for want of a file. Returns whether it did."""
        self._notice(f"cannot accept connections: {error.strerror}; {len(self._members)} are open")
        return self._make_room(None)

    def _make_room(self, newcomer: Member | None) -> bool:
        idle = [(each.waiting_since, id(each), each) for each in self._members if each is not newcomer]
        waiting = [entry for entry in idle if entry[0] is not None]
        if not waiting:
            return False
        min(waiting)[2].shed()
        return True

    def _notice(self, what: str) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + NOTICE_SECONDS
            log.warning("%s: those that wait longest for their clients are closed to make room", what)


def raise_file_limit() -> None:
    """Raises the soft limit of open files to the hard one, where the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:  # a system may have a lower limit of its own
            log.warning("open files are limited to %d, and the limit cannot be raised: %s", soft, error)


def most_connections() -> int:
    """How many connections this process can have, given the files that it has open and its limit of them."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 1 << 30
    return max(FEWEST_CONNECTIONS, limit - psutil.Process().num_fds() - min(RESERVED_FILES, limit // 4))
