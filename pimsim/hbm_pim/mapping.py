"""Mapping: how K, V and weights lie over channels, bank groups and banks (AttAcc's), and what timing each level has.

A KV head of a request lives in one channel. Its tokens are spread over the bank groups of the channel (over pseudo
channels and stack IDs, too), so that each works on its own tokens. At the bank level the head's dimensions are spread
over the banks of a group; the other two levels read the banks in turn. Weights lie like K: outputs over stacks,
channels and bank groups, inputs over the banks.
"""

from __future__ import annotations

from dataclasses import dataclass

from pimsim.errors import WorkloadError
from pimsim.hbm_pim.device import Device
from pimsim.hbm_pim.state import Rules
from pimsim.hbm_pim.stream import BANK, BANK_GROUP, BUFFER, Shape

LEVELS = {"bank": BANK, "bg": BANK_GROUP, "buffer": BUFFER}
UNIT_OF = {"bank": "bank", "bg": "bank_group", "buffer": "buffer"}
WIDTHS = (1, 2, 4)  # bytes a number


@dataclass(frozen=True, slots=True)
class Spread:
    """How far one MAC command of a channel reaches."""

    token_groups: int  # parts of a channel that hold different tokens (or outputs)
    dimension_banks: int  # banks of that part that hold different dimensions (or inputs)
    slots: int
    banks_per_slot: int

    @classmethod
    def of(cls, device: Device, level: str) -> Spread:
        """The reach of a command at `level`, a key of LEVELS, on this device; WorkloadError for any other level."""
        organisation = device.standard.organisation
        groups = organisation.ranks * organisation.bank_groups
        if level == "bank":
            return cls(organisation.pseudo_channels * groups, organisation.banks, 1, device.banks_per_channel)
        if level == "bg":
            return cls(
                organisation.pseudo_channels * groups, 1, organisation.banks, organisation.pseudo_channels * groups
            )
        if level == "buffer":
            return cls(organisation.pseudo_channels, 1, groups * organisation.banks, organisation.pseudo_channels)
        raise WorkloadError(f"unknown level {level!r}: choose one of {', '.join(LEVELS)}")


def elements_per_column(device: Device, width: int) -> int:
    """Numbers of `width` bytes in a column; WorkloadError for an unknown width."""
    if width not in WIDTHS:
        raise WorkloadError(f"bytes must be one of {', '.join(map(str, WIDTHS))}, not {width}")
    return device.standard.organisation.burst_bytes // width


def shared_vectors(device: Device, level: str, head_dim: int, width: int, group: int) -> int:
    """How many of the `group` queries of a KV head share one read of it: the most that divide them and fit the buffers
    twice.

    Twice, as the next job's queries are loaded while these are used.
    """
    spread = Spread.of(device, level)
    unit = device.units[UNIT_OF[level]]
    share = _ceil(head_dim, spread.dimension_banks) * width * unit.banks
    fits = max(1, unit.buffer_bytes // (2 * share))
    return max(count for count in range(1, group + 1) if group % count == 0 and count <= fits)


def attention_shape(device: Device, level: str, length: int, head_dim: int, width: int, vectors: int) -> Shape:
    """Commands of one job: one KV head over `length` tokens, for `vectors` queries at a time."""
    organisation = device.standard.organisation
    spread = Spread.of(device, level)
    elements = elements_per_column(device, width)
    groups = organisation.ranks * organisation.bank_groups
    tokens = _ceil(length, spread.token_groups)
    columns = _ceil(head_dim, spread.dimension_banks * elements)
    moving = 1 if level == "buffer" else groups  # bank groups that results leave, and probabilities reach, one by one
    return Shape(
        level=LEVELS[level],
        banks=organisation.banks,
        bank_groups=organisation.bank_groups,
        stack_ids=organisation.ranks,
        columns=organisation.columns,
        score_outputs=tokens,
        score_macs=columns,
        context_outputs=columns,
        context_macs=tokens,
        outputs_per_move=elements,
        loads=spread.dimension_banks * columns,
        score_moves=moving,
        context_moves=1 if level == "buffer" else spread.dimension_banks * organisation.ranks,
        probability_moves=moving * _ceil(tokens, elements),
        vectors=vectors,
    )


def rules(device: Device, level: str, *, power_limit: bool, refresh: bool, vectors: int = 1) -> Rules:
    """Timing of a channel at that level, for MACs with `vectors` operand vectors."""
    organisation, timing = device.standard.organisation, device.standard.timing
    spread = Spread.of(device, level)
    per_bank = level == "buffer"  # the other two address banks together, whose only limit is the power limit
    limited = per_bank and device.timing.limits_activations
    computing = device.unit_cycles(UNIT_OF[level], vectors)
    if level == "bank":
        mac = device.timing.mac_bank_power_limit if power_limit else device.timing.mac_bank
    elif level == "bg":
        mac = device.timing.mac_bank_group_power_limit if power_limit else device.timing.mac_bank_group
    else:
        mac = timing.tBL
    return Rules(
        slots=spread.slots,
        slots_per_group=organisation.banks,
        groups_per_stack_id=organisation.bank_groups,
        stack_ids=organisation.ranks,
        activate=device.timing.activate_command,
        rcd=timing.tRCD,
        rp=timing.tRP,
        ras=timing.tRAS,
        rc=timing.tRC,
        rtp=device.timing.mac_to_precharge,
        write_to_precharge=timing.tCWL + timing.tBL + timing.tWR,
        mac=max(mac, computing),
        mac_stack_id=timing.tCCD_S if per_bank else 0,
        mac_group=timing.tCCD_L if per_bank else 0,
        rrd_stack_id=timing.tRRD_S if limited else 0,
        rrd_group=timing.tRRD_L if limited else 0,
        faw=timing.tFAW if limited else 0,
        move=timing.tBL,
        move_stack_id=timing.tCCD_S,
        move_group=timing.tCCD_L,
        rfc=timing.tRFC,
        refi=timing.tREFI if refresh else 0,
        window=device.window,
    )


def _ceil(amount: int, size: int) -> int:
    return -(-amount // size)
