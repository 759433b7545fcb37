"""A policy of your own, beside those that come with the project: `python examples/own_policy.py`

The command line takes it, too: `ragcache simulate --policy own_policy:Patience,lru …` where this file lies.
"""

import random

from ragcache import Simulation, Trace
from ragcache.cost import PolynomialCost
from ragcache.policy import PriorityPolicy
from ragcache.tree.tree import Node


class Patience(PriorityPolicy):
    """Evicts the node that was used least often for the time that it has been there."""

    def __init__(self) -> None:
        super().__init__()
        self._entered: dict[int, int] = {}  # by id: the cache's clock at the first use

    def priority(self, node: Node) -> float:
        age = node.last_use - self._entered.setdefault(node.id, node.last_use)
        return node.frequency / (1 + age)

    def removed(self, node: Node, *, evicted: bool) -> None:
        super().removed(node, evicted=evicted)
        del self._entered[node.id]


def some_trace(requests: int = 2_000, documents: int = 300) -> Trace:
    """Requests for two documents each, of which some are far more popular than others."""
    rng = random.Random(1)
    sizes = [rng.randint(100, 1_000) for _ in range(documents)]
    weights = [1 / (1 + rank) for rank in range(documents)]
    trace = Trace()
    for _ in range(requests):
        chosen = rng.choices(range(documents), weights, k=2)
        trace.add([(str(document), sizes[document]) for document in chosen])
    return trace


def main() -> None:
    simulation = Simulation(some_trace(), PolynomialCost(a=50, b=0.01))
    for outcome in simulation.run_all([Patience, "lru", "pgdsf", "s3fifo", "belady"], [20_000]):
        name = outcome.policy.rpartition(":")[2]
        print(f"{name:<10}{outcome.hit_ratio:>8.1%} found{outcome.seconds_saved_ratio:>8.1%} of the time saved")


if __name__ == "__main__":
    main()
