"""Policy: which KV of one tier is given up first."""

from __future__ import annotations

from typing import Protocol

from ragcache.tree.tree import Node


class Policy(Protocol):
    """Chooses victims among the nodes of one tier. Each tier has its own instance, and so its own clock and ghosts.

    The tier reports to it: `missed` before room is made for what is computed, `inserted` when a node enters the tier,
    `used` at each later use, after `frequency` and `last_use` of the node were raised, `removed` when it leaves. A node
    may be evicted only while it is offered: the tier offers a leaf that is not held, and withdraws it when it is held
    or gets a child. A node is not offered when it enters, nor when it is removed unless it is evicted. Sizes are in
    tokens.

    Pure: no I/O, no clock, no tensors. Equal calls give equal choices: ties go to the least recently used node, then
    to the smaller id. What is kept about nodes that left is bounded by the capacity or by the nodes that are there.
    """

    def missed(self, path_key: int, size: int) -> None:
        """A request asks for a path of `size` tokens that this tier lacks; its node may be inserted once computed."""

    def inserted(self, node: Node) -> None:
        """The node is in the tier from now on, used once."""

    def used(self, node: Node) -> None:
        """A node of this tier was asked for again."""

    def offer(self, node: Node) -> None:
        """The node may be evicted. The tier offers no node twice."""

    def withdraw(self, node: Node) -> None:
        """An offered node may no longer be evicted."""

    def is_offered(self, node: Node) -> bool:
        """Whether the node may be evicted. Changes nothing."""

    def victim(self) -> Node:
        """The offered node to evict next; it stays offered until `removed`. LookupError if none is offered."""

    def removed(self, node: Node, *, evicted: bool) -> None:
        """The node left the tier; `evicted` if that made room, which is what a policy learns from."""
