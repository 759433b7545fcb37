"""Placement: on which rank and where in it each vertex lies; its vector there, and its neighbour lists."""

import numpy as np

from pimsim.dimm_pim.device import DimmDevice
from pimsim.dimm_pim.state import Work
from pimsim.dimm_pim.traversal import LOWEST, NO_LIST, Traversal
from pimsim.errors import WorkloadError

SEED = 1234  # of the shuffled placement


def placed(traversal: Traversal, device: DimmDevice) -> Work:
    """The traversal with its vertices in their places. WorkloadError if the shard does not fit into the device."""
    list_rows(device, traversal.shard)
    has_list = traversal.list_kind != NO_LIST
    neighbours = device.graph.neighbours
    ids = np.where(has_list, np.where(traversal.list_kind == LOWEST, 2 * neighbours, neighbours), 0)
    burst = device.standard.organisation.burst_bytes
    list_rank, list_slot = _places(np.maximum(traversal.list_vertex, 0), traversal.shard, device)
    rank, slot = _places(traversal.vertices, traversal.shard, device)
    return Work(
        first_hop=np.ascontiguousarray(traversal.first_hop, np.int64),
        list_rank=np.where(has_list, list_rank, -1),
        list_slot=list_slot,
        list_bursts=-(-ids * device.graph.id_bytes // burst),
        list_ids=ids.astype(np.int64),
        first_vector=np.ascontiguousarray(traversal.first_vector, np.int64),
        vertex=np.unique(traversal.vertices, return_inverse=True)[1].astype(np.int64),
        rank=rank,
        slot=slot,
    )


def _places(vertices: np.ndarray, shard: int, device: DimmDevice) -> tuple[np.ndarray, np.ndarray]:
    """Rank and slot of each of these vertices; the slots of a rank are 0, 1, … without a gap."""
    ranks = device.organisation.all_ranks
    if device.vectors.placement == "blocked":
        share = -(-shard // ranks)
        return vertices // share, vertices % share
    if device.vectors.placement == "shuffled":
        vertices = np.random.default_rng(SEED).permutation(shard)[vertices]
    return vertices % ranks, vertices // ranks


def pieces_per_row(device: DimmDevice) -> int:
    """Vectors that have a piece in one row: a piece lies in one row of one bank."""
    return device.standard.organisation.columns // -(-device.vector_bursts // device.stripes)


def lists_per_row(device: DimmDevice) -> int:
    """Vertices whose lists lie in one row: the lowest level's and one above it, together."""
    return device.standard.organisation.row_bytes // (3 * device.graph.neighbours * device.graph.id_bytes)


def list_rows(device: DimmDevice, shard: int) -> int:
    """The first row that holds lists, behind those with vectors. WorkloadError if all do not fit into a rank."""
    memory = device.standard.organisation
    slots = -(-shard // device.organisation.all_ranks)
    sets = memory.banks_per_rank // device.stripes
    vectors = -(-slots // (pieces_per_row(device) * sets))
    lists = -(-slots // (lists_per_row(device) * memory.banks_per_rank))
    if vectors + lists > memory.rows:
        raise WorkloadError(
            f"{shard} vertices of {device.vectors.bytes} bytes and their lists need {vectors + lists} rows a bank, "
            f"{device.standard.name} has {memory.rows}; spread them over more devices, or give this one more ranks"
        )
    return vectors
