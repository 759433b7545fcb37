"""Small traversals and devices for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pimsim.dimm_pim.device import DimmDevice
from pimsim.dimm_pim.placement import placed
from pimsim.dimm_pim.search import parameters, run
from pimsim.dimm_pim.state import Parameters, State, Work
from pimsim.dimm_pim.traversal import LOWEST, NO_LIST, Traversal

Hop = tuple[int | None, Sequence[int]]  # the vertex whose list is read, and the vertices compared


def traversal(queries: Sequence[Sequence[Hop]], shard: int) -> Traversal:
    hops = [hop for query in queries for hop in query]
    return Traversal(
        queries=np.arange(len(queries)),
        first_hop=np.cumsum([0, *map(len, queries)]),
        list_vertex=np.array([-1 if vertex is None else vertex for vertex, _ in hops], np.int64),
        list_kind=np.array([NO_LIST if vertex is None else LOWEST for vertex, _ in hops], np.int64),
        first_vector=np.cumsum([0, *(len(compared) for _, compared in hops)]),
        vertices=np.array([vertex for _, compared in hops for vertex in compared], np.int64),
        shard=shard,
    )


def drawn(seed: int, queries: int = 12, hops: int = 6, shard: int = 400, most: int = 20) -> Traversal:
    """Queries that read few popular vertices and many others."""
    random = np.random.default_rng(seed)
    searches = []
    for _ in range(queries):
        path: list[Hop] = [(None, [int(random.integers(shard))])]
        for _ in range(int(random.integers(1, hops + 1))):
            compared = (random.random(int(random.integers(0, most))) ** 3 * shard).astype(int)
            path.append((int(random.integers(shard)), compared.tolist()))
        searches.append(path)
    return traversal(searches, shard)


def device(**changes: Any) -> DimmDevice:
    """AccelDIMM with fields changed, `rpm__cache_bytes=0` for `rpm.cache_bytes`."""
    return DimmDevice.load(changes={name.replace("__", "."): value for name, value in changes.items()})


def ran(path: Traversal, on: DimmDevice, log: int = 0) -> tuple[Parameters, Work, State]:
    work, numbers = placed(path, on), parameters(on, path.shard)
    return numbers, work, run(numbers, work, log)
