"""OtherSettings: records that belong to other weights, another dtype or layout, and which of them go first.

Their keys spell settings that this process does not have, so it never reads them. They stay while there is room, for
a start with the old settings finds them again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ragcache.sizes import in_words
from ragcache.storage.interface import OtherRecords


@dataclass(frozen=True, slots=True)
class OtherRecord:
    """A complete record of other settings: `settings` is their short fingerprint, `footprint` the bytes it is booked
    with, `number` that of its chunks, which counts records in the order of writing. `last_use` is 0 if unknown."""

    key: bytes
    parent: bytes
    settings: bytes
    number: int
    footprint: int
    last_use: int


def in_order_of_removal(records: Iterable[OtherRecord]) -> list[OtherRecord]:
    """The records as they make room: children before parents, for a record is of no use without its ancestors.

    The settings that were written longest ago go first. Of one setting, what was used longest ago goes first, where a
    record counts as used when anything below it was.
    """
    groups: dict[bytes, list[OtherRecord]] = defaultdict(list)
    for record in records:
        groups[record.settings].append(record)
    order: list[OtherRecord] = []
    for group in sorted(groups.values(), key=lambda group: max(record.number for record in group)):
        order += _of_one_setting(group)
    return order


def _of_one_setting(group: Sequence[OtherRecord]) -> list[OtherRecord]:
    by_key = {record.key: record for record in group}
    children: dict[bytes, list[OtherRecord]] = defaultdict(list)
    for record in group:
        children[record.parent].append(record)
    top_down = [record for record in group if record.parent not in by_key]
    depth = {record.key: 0 for record in top_down}
    for record in top_down:  # grows meanwhile
        for child in children[record.key]:
            depth[child.key] = depth[record.key] + 1
            top_down.append(child)
    used = {record.key: record.last_use for record in group}
    for record in reversed(top_down):
        if record.parent in used:
            used[record.parent] = max(used[record.parent], used[record.key])
    return sorted(top_down, key=lambda record: (used[record.key], -depth[record.key], record.number))


def total(records: Iterable[OtherRecord], removed: int = 0) -> OtherRecords:
    """Number and bytes of these records; `removed` have made room since the start."""
    footprints = [record.footprint for record in records]
    return OtherRecords(len(footprints), sum(footprints), removed)


def announcement(records: Sequence[OtherRecord], names: Mapping[bytes, str], *, replaced: bool) -> str:
    """A line for the operator: how much there is, of which settings, and what becomes of it.

    `names` describe settings by their short fingerprints, as far as they are known.
    """
    counts = Counter(names.get(record.settings, "") for record in records)
    known = [f"{count} of {name}" for name, count in counts.most_common() if name]
    described = f" ({', '.join(known)})" if known else ""
    size = in_words(sum(record.footprint for record in records))
    what = f"{len(records)} segments ({size}) belong to other weights, another dtype or layout{described}"
    if replaced:
        return f"{what} and are removed, as --disk-cache-replace says"
    return f"{what}; they stay until their room is needed (--disk-cache-replace removes them at once)"
