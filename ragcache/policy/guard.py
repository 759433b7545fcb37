"""GuardedPolicy: a policy of the user's own, whose faults are told in one line that names it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ragcache.errors import PolicyError
from ragcache.policy.protocol import Policy
from ragcache.tree.tree import Node


class GuardedPolicy:
    """Passes every call of the Policy protocol on to `own`, and remembers what it was offered.

    An exception of a method, a victim that was not offered, and a LookupError of `victim` while nodes are offered are
    a PolicyError, which names the policy, the method, and the file and line of the fault.
    """

    def __init__(self, name: str, own: Policy) -> None:
        """`name` is what messages call the policy: `module:Class`."""
        self.name = name
        self.own = own
        self._offered: set[int] = set()  # ids of nodes

    def missed(self, path_key: int, size: int) -> None:
        try:
            self.own.missed(path_key, size)
        except Exception as error:  # here and below: whatever a user's method does
            self._fail(self.missed, error)

    def inserted(self, node: Node) -> None:
        try:
            self.own.inserted(node)
        except Exception as error:
            self._fail(self.inserted, error)

    def used(self, node: Node) -> None:
        try:
            self.own.used(node)
        except Exception as error:
            self._fail(self.used, error)

    def offer(self, node: Node) -> None:
        self._offered.add(node.id)
        try:
            self.own.offer(node)
        except Exception as error:
            self._fail(self.offer, error)

    def withdraw(self, node: Node) -> None:
        self._offered.discard(node.id)
        try:
            self.own.withdraw(node)
        except Exception as error:
            self._fail(self.withdraw, error)

    def is_offered(self, node: Node) -> bool:
        try:
            return self.own.is_offered(node)
        except Exception as error:
            self._fail(self.is_offered, error)

    def victim(self) -> Node:
        try:
            node = self.own.victim()
        except LookupError as error:
            if not self._offered:
                raise
            self._fail(self.victim, error)
        except Exception as error:
            self._fail(self.victim, error)
        if not isinstance(node, Node) or node.id not in self._offered:
            raise PolicyError(f"policy {self.name}: victim() returned {_in_words(node)}, not an offered node")
        return node

    def removed(self, node: Node, *, evicted: bool) -> None:
        self._offered.discard(node.id)
        try:
            self.own.removed(node, evicted=evicted)
        except Exception as error:
            self._fail(self.removed, error)

    def _fail(self, method: Callable[..., object], error: Exception) -> NoReturn:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        where = f"{method.__name__}() failed: {message} ({self._place_of(error)})"
        raise PolicyError(f"policy {self.name}: {where}") from error

    def _place_of(self, error: Exception) -> str:
        """File and line of the innermost call in the policy's own module, or else of the innermost of all."""
        file = getattr(sys.modules.get(type(self.own).__module__), "__file__", None)
        calls = traceback.extract_tb(error.__traceback__)
        call = next((call for call in reversed(calls) if call.filename == file), calls[-1])
        return f"{Path(call.filename).name}:{call.lineno}"


def _in_words(victim: object) -> str:
    if isinstance(victim, Node):
        return f"node {victim.id}"
    return " ".join(repr(victim).split())
