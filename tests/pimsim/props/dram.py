"""Standards and traces that the DRAM tests share."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pimsim import Controller, Standard, Trace

QUIET = Controller(refresh="none")


def standard(name: str = "ddr4-3200-heterrag", organisation: dict[str, int] | None = None, **timing: int) -> Standard:
    """A shipped standard with some of it changed."""
    loaded = Standard.load(name)
    return dataclasses.replace(
        loaded,
        organisation=dataclasses.replace(loaded.organisation, **organisation or {}),
        timing=dataclasses.replace(loaded.timing, **timing),
    )


# small, so that requests meet; refreshes come often; and each timing is the one that holds somewhere
SMALL = standard(
    organisation={"bank_groups": 2, "banks": 2, "rows": 8, "columns": 8},
    tRCD=7, tRP=6, tRAS=18, tRC=26, tCL=8, tCWL=6, tBL=4, tCCD_S=5, tCCD_L=7, tRRD_S=5, tRRD_L=8, tFAW=31, tRTP=9,
    tWR=11, tWTR_S=3, tWTR_L=6, tRTRS=3, tRFC=60, tREFI=700, tRFCpb=30, tREFIpb=90,
)  # fmt: skip


def rich_trace(requests: int = 3000, seed: int = 0, where: Standard = SMALL, writes: float = 0.3) -> Trace:
    """Reads and writes at random places, in bursts and with pauses, with rows that several want."""
    rng = np.random.default_rng(seed)
    size = where.organisation
    return Trace.of(
        cycle=np.cumsum(rng.choice([0, 0, 1, 5, 40], requests)),
        write=(rng.random(requests) < writes).astype(np.uint8),
        rank=rng.integers(0, size.ranks, requests),
        bank_group=rng.integers(0, size.bank_groups, requests),
        bank=rng.integers(0, size.banks, requests),
        row=rng.integers(0, 3, requests),
        column=rng.integers(0, size.columns, requests),
    )


def reads(count: int, **parts: Any) -> Trace:
    """Reads that all come at once."""
    return Trace.of(cycle=np.zeros(count, np.int64), **parts)


@st.composite
def traces(draw: st.DrawFn, where: Standard = SMALL, most: int = 40) -> Trace:
    """Small traces for a standard."""
    size = where.organisation
    request = st.tuples(
        st.sampled_from([0, 0, 0, 1, 3, 20, 150]),
        st.sampled_from([0, 0, 1]),
        st.integers(0, size.ranks - 1),
        st.integers(0, size.bank_groups - 1),
        st.integers(0, size.banks - 1),
        st.integers(0, 2),
        st.integers(0, 3),
    )
    drawn = np.array(draw(st.lists(request, min_size=1, max_size=most)), np.int64)
    return Trace.of(
        cycle=np.cumsum(drawn[:, 0]),
        write=drawn[:, 1],
        rank=drawn[:, 2],
        bank_group=drawn[:, 3],
        bank=drawn[:, 4],
        row=drawn[:, 5],
        column=drawn[:, 6],
    )


controllers = st.builds(
    Controller,
    queue=st.integers(1, 8),
    row_hit_cap=st.integers(1, 4),
    page=st.sampled_from(["open", "closed"]),
    refresh=st.sampled_from(["none", "all-bank", "per-bank"]),
    high_water=st.sampled_from([0.5, 0.8]),
    low_water=st.sampled_from([0.0, 0.2, 0.5]),
)
