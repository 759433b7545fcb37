"""Products: weights times vectors in the memory, matrix products outside of it, and the append of a token's K and V."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pimsim.errors import WorkloadError
from pimsim.hbm_pim.accounting import energy_nj
from pimsim.hbm_pim.closed_form import product_counts
from pimsim.hbm_pim.device import Device
from pimsim.hbm_pim.kernel import run
from pimsim.hbm_pim.mapping import LEVELS, UNIT_OF, Spread, elements_per_column, rules
from pimsim.hbm_pim.stream import Shape, product_stream, writes_stream


@dataclass(frozen=True)
class Work:
    """What a product or an append took: cycles of the memory's clock (of the matrix unit's for `gemm`), microseconds,
    bytes of memory read or written over all stacks, nJ by part, and which limit held."""

    cycles: int
    time_us: float
    bytes: int
    energy_nj: dict[str, float]
    bound: str


def gemv(
    device: Device,
    outputs: int,
    inputs: int,
    *,
    width: int = 2,
    level: str = "bank",
    power_limit: bool = True,
    refresh: bool = True,
    fidelity: str = "event",
) -> Work:
    """Simulate a matrix of `outputs` x `inputs` weights, spread over all stacks, times one vector.

    The input comes in chunks that fill half of the units' buffers, so that the next loads while one is used.
    WorkloadError for sizes below 1 or more weights than the stacks hold.
    """
    _positive(outputs=outputs, inputs=inputs)
    organisation = device.standard.organisation
    spread = Spread.of(device, level)
    elements = elements_per_column(device, width)
    unit = device.units[UNIT_OF[level]]
    shares = organisation.channels * device.stacks * spread.token_groups
    chunk = max(1, unit.buffer_bytes // (2 * width * unit.banks)) * spread.dimension_banks  # inputs a chunk
    chunks = -(-inputs // chunk)
    columns = -(-min(inputs, chunk) // (spread.dimension_banks * elements))
    groups = organisation.ranks * organisation.bank_groups
    shape = Shape(
        level=LEVELS[level],
        banks=organisation.banks,
        bank_groups=organisation.bank_groups,
        stack_ids=organisation.ranks,
        columns=organisation.columns,
        score_outputs=-(-outputs // shares),
        score_macs=columns,
        context_outputs=0,
        context_macs=0,
        outputs_per_move=elements,
        loads=spread.dimension_banks * columns,
        score_moves=1 if level == "buffer" else groups,
        context_moves=0,
        probability_moves=1,
        vectors=1,
    )
    if outputs * inputs * width > organisation.bytes * device.stacks:
        raise WorkloadError(f"{outputs} x {inputs} weights of {width} bytes do not fit the stacks of {device.name}")
    timing = rules(device, level, power_limit=power_limit, refresh=refresh)
    counts = (
        product_counts(shape, timing, chunks) if fidelity == "closed" else run(product_stream(shape, chunks), timing)
    )
    channels = organisation.channels * device.stacks
    macs = channels * chunks * shape.score_outputs * columns
    moves = channels * chunks * -(-shape.score_outputs // elements) * shape.score_moves
    limits = {"mac": macs // channels * timing.mac, "moves": (moves // channels + chunks * shape.loads) * timing.move}
    return Work(
        cycles=counts.cycles,
        time_us=device.standard.ns(counts.cycles) * 1e-3,
        bytes=macs * spread.banks_per_slot * organisation.burst_bytes,
        energy_nj=energy_nj(
            device,
            level,
            macs=macs,
            vectors=1,
            activates=counts.activates * channels,
            loads=channels * chunks * shape.loads,
            moves=moves,
        ),
        bound=max(limits, key=lambda name: limits[name]),
    )


def weights_floor_us(device: Device, weight_bytes: float, *, power_limit: bool = False) -> float:
    """Microseconds that the banks of all stacks take to deliver this many bytes once: a lower bound of reading them."""
    timing = device.timing
    slowdown = timing.mac_bank_power_limit / timing.mac_bank if power_limit else 1.0
    return weight_bytes / (device.internal_tbps * 1e6) * slowdown


def gemm(device: Device, rows: int, columns: int, inner: int, *, width: int = 2) -> Work:
    """A product of `rows` x `inner` and `inner` x `columns` on the systolic arrays, by a roofline; weights come from
    memory.

    The weights (`inner` x `columns`) stand in the arrays a tile at a time while the rows flow through; a product that
    uses all of the memory's outside bandwidth is bound by `memory`, otherwise by `arrays`. Energy is the memory's.
    WorkloadError for sizes below 1 or a device without a matrix unit.
    """
    _positive(rows=rows, columns=columns, inner=inner)
    elements_per_column(device, width)
    tpm = device.tpm
    if tpm is None:
        raise WorkloadError(f"{device.name} has no systolic arrays: its file has no tpm")
    tiles = -(-inner // tpm.array_rows) * -(-columns // tpm.array_columns)
    # a tile's rows, and the way through the array; the next weights are loaded meanwhile
    tile_cycles = max(rows, tpm.array_rows) * max(1, width // 2)
    computing = -(-tiles // tpm.arrays) * tile_cycles + tpm.array_rows + tpm.array_columns
    moved = (inner * columns + rows * inner + rows * columns) * width
    reading = moved / (device.external_tbps * 1e6)  # µs
    compute_us = computing / tpm.clock_mhz
    time_us = max(compute_us, reading)
    bits = moved * 8
    outside = bits * sum(device.table[name].nj(1) for name in device.paths.outside)
    activate = device.table[device.paths.activate]
    row_bits = device.standard.organisation.row_bytes * 8
    opening = activate.nj(bits) if activate.unit == "pJ/bit" else activate.nj(bits / row_bits)
    return Work(
        cycles=math.ceil(time_us * tpm.clock_mhz),
        time_us=time_us,
        bytes=moved,
        energy_nj={"read": outside, "activate": opening, "total": outside + opening},
        bound="arrays" if compute_us >= reading else "memory",
    )


def kv_append(device: Device, position: int, kv_heads: int, head_dim: int, *, width: int = 2, batch: int = 1) -> Work:
    """Simulate the writing of K and V of the token at `position` of every request, where `mapping` lays them (bank
    level).

    Each head's vector goes to the banks of one bank group: a column of K after the other, the columns of V as far apart
    as the tokens that they are laid out for. WorkloadError for sizes below 1.
    """
    _positive(kv_heads=kv_heads, head_dim=head_dim, batch=batch)
    if position < 0:
        raise WorkloadError(f"position must not be negative: {position}")
    organisation, timing = device.standard.organisation, device.standard.timing
    spread = Spread.of(device, "bank")
    elements = elements_per_column(device, width)
    columns = -(-head_dim // (spread.dimension_banks * elements))
    if head_dim * width > organisation.row_bytes:
        raise WorkloadError(f"a head of {head_dim} numbers of {width} bytes is wider than a row of {device.name}")
    turn = position // spread.token_groups  # of the tokens of this bank group
    group = position % (organisation.ranks * organisation.bank_groups)
    jobs = kv_heads * batch
    of_stack = -(-jobs // device.stacks)
    of_channel = -(-of_stack // organisation.channels)
    tokens = turn + 1
    operand_rows = -(-tokens * columns // organisation.columns)
    slots, rows, places = [], [], []
    for job in range(of_channel):
        for operand in range(2):
            first_row = (2 * job + operand) * operand_rows
            for bank in range(organisation.banks):
                for column in range(columns):
                    index = turn * columns + column if operand == 0 else column * tokens + turn
                    slots.append(group * organisation.banks + bank)
                    rows.append(first_row + index // organisation.columns)
                    places.append(index % organisation.columns)
    stream = writes_stream(np.array(slots, np.int16), np.array(rows, np.int32), np.array(places, np.int16))
    counts = run(stream, rules(device, "buffer", power_limit=False, refresh=False))
    cycles = counts.cycles + timing.tCWL + timing.tBL
    written = jobs * 2 * organisation.banks * columns * organisation.burst_bytes
    bits = written * 8
    table, paths = device.table, device.paths
    activate = table[paths.activate]
    row_bits = organisation.row_bytes * 8
    opened = counts.activates * jobs / of_channel
    parts = {
        "activate": opened * activate.nj(row_bits if activate.unit == "pJ/bit" else 1),
        "write": bits * sum(table[name].nj(1) for name in paths.outside),
    }
    return Work(
        cycles=cycles,
        time_us=device.standard.ns(cycles) * 1e-3,
        bytes=written,
        energy_nj={**parts, "total": sum(parts.values())},
        bound="rows" if counts.activates * timing.tRC > len(slots) * timing.tCCD_L * organisation.banks else "columns",
    )


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise WorkloadError(f"{name} must be 1 at least, not {size}")
