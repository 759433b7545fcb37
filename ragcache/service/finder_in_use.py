"""FinderInUse: the finder of new requests, and those that it has replaced while requests still use them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from ragcache.service.finder import Finder


class FinderInUse:
    """Owns finders: each is closed after its last request, once another has taken its place."""

    def __init__(self, finder: Finder, close_aside: Callable[[Finder], object]) -> None:
        """`close_aside` closes a finder that was replaced, without making its caller wait for the search in it."""
        self.current = finder
        self._close_aside = close_aside
        self._users: Counter[int] = Counter()  # requests by the id of their finder

    @contextlib.contextmanager
    def using(self) -> Iterator[Finder]:
        """The finder for one request, from its beginning to the end of its answer, whose text its tokenizer makes."""
        finder = self.current
        self._users[id(finder)] += 1
        try:
            yield finder
        finally:
            self._users[id(finder)] -= 1
            self._close_if_unused(finder)

    def replace(self, finder: Finder) -> None:
        """Makes this the finder of the requests to come."""
        before, self.current = self.current, finder
        self._close_if_unused(before)

    def _close_if_unused(self, finder: Finder) -> None:
        if not self._users[id(finder)]:
            del self._users[id(finder)]
            if finder is not self.current:
                self._close_aside(finder)
