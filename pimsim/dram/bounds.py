"""Bounds: the least time that a trace's bursts and the activations sent for them need, whatever their order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimsim.dram import state
from pimsim.dram.trace import Trace
from pimsim.result import Bound
from pimsim.standard import Standard


def bounds(trace: Trace, activated: NDArray[np.int64], standard: Standard, counts: Any) -> list[Bound]:
    """Cycles that each resource needs at least, from 0 to the end of the last burst; the one that holds comes first.

    `activated` [pseudo channels, banks] counts activations, `counts` are those of `state`. Where a waiting write
    answered a read, no read is certain to reach the DRAM, and writes alone count.
    """
    timing, organisation = standard.timing, standard.organisation
    sent = trace if not counts[state.FORWARDED] else trace.where(trace.write == 1)
    channel = sent.channel.astype(np.int64)
    group = (channel * organisation.ranks + sent.rank) * organisation.bank_groups + sent.bank_group
    latency = timing.tBL + (min(timing.tCL, timing.tCWL) if counts[state.WRITES] else timing.tCL)
    per_rank = activated.reshape(len(activated), organisation.ranks, -1).sum(axis=2)
    rank_most, bank_most = int(per_rank.max()), int(activated.max())
    limits = {
        "arrival of the last request": int(sent.cycle[-1]) + latency,
        "data bus, tBL": (_most(channel) - 1) * timing.tBL + latency,
        "columns of a bank group, tCCD_L": (_most(group) - 1) * timing.tCCD_L + latency,
        # n activations begin in n - 1 gaps, and each five span tFAW at least
        "activations of a rank, tFAW": (rank_most - 1) // 4 * timing.tFAW + timing.tRCD + latency,
        "activations of a rank, tRRD_S": (rank_most - 1) * timing.tRRD_S + timing.tRCD + latency,
        "rows of a bank, tRC": (bank_most - 1) * timing.tRC + timing.tRCD + latency,
    }
    finish = float(counts[state.LAST_DATA])
    held = [Bound(name, float(cycles), finish, "cycles", lower_is_better=True) for name, cycles in limits.items()]
    return sorted(held, key=lambda bound: -bound.limit)


def _most(values: NDArray[np.int64]) -> int:
    """How often the most frequent value occurs."""
    return int(np.bincount(values).max())
