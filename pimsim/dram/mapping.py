"""Address mapping: where a linear address lies in the organisation, as data (`mappings/*.yaml`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pimsim import fields
from pimsim.errors import FieldError
from pimsim.standard import Organisation

FOLDER = "mappings"
PARTS = ("channel", "rank", "bank_group", "bank", "row", "column")


@dataclass(frozen=True, slots=True)
class AddressMapping:
    """How linear addresses are laid out: `order` names the parts of an address from the most significant to the least.

    The lowest bits, below all parts, count the bytes of a burst. A part may be cut: `column:4` are its lowest four
    values, and `column` without a number, more significant, the others. `permuted` parts are XORed with the lowest bits
    of the row. `channel` counts pseudo channels.
    """

    name: str
    order: tuple[str, ...]
    permuted: tuple[str, ...] = ()

    @classmethod
    def load(cls, name: str) -> AddressMapping:
        """The mapping of that name, or of a YAML file; FieldError says which field is wrong."""
        values = fields.load(FOLDER, name)
        permuted = tuple(values.names("permuted")) if "permuted" in values else ()
        mapping = cls(values.text("name"), tuple(values.names("order")), permuted)
        values.end()
        whole = [part for part in mapping.order if ":" not in part]
        if sorted(whole) != sorted(PARTS):
            raise FieldError(f"{values.where}: order must name each of {', '.join(PARTS)} once, not {', '.join(whole)}")
        for part in mapping.order:
            base, _, size = part.partition(":")
            if base not in PARTS or (":" in part and not (size.isdigit() and int(size) > 0)):
                raise FieldError(
                    f"{values.where}: order has {part!r}; a part is a name, or a name, a colon and a number"
                )
        if not set(permuted) <= {"bank", "bank_group"}:
            raise FieldError(f"{values.where}: permuted may name bank and bank_group, not {', '.join(permuted)}")
        return mapping

    def locate(self, address: NDArray[np.int64], organisation: Organisation) -> dict[str, NDArray[np.int64]]:
        """The number of each part, by name, for `address` in bytes (int64); none may be `organisation.bytes` or
        more.
        """
        bits_left = address // organisation.burst_bytes
        places = {part: np.zeros_like(bits_left) for part in PARTS}
        scale = dict.fromkeys(PARTS, 1)
        for part, size in reversed(self._sizes(organisation)):
            places[part] += bits_left % size * scale[part]
            scale[part] *= size
            bits_left = bits_left // size
        return self._permute(places, organisation)

    def address(self, parts: dict[str, NDArray[np.int64]], organisation: Organisation) -> NDArray[np.int64]:
        """The address of each burst's first byte, int64, for `parts` by name: the inverse of `locate`."""
        parts = self._permute(dict(parts), organisation)
        sizes = self._sizes(organisation)
        scale = {part: math.prod(size for other, size in sizes if other == part) for part in PARTS}
        addresses = np.zeros_like(np.asarray(parts["row"], np.int64))
        for part, size in sizes:
            scale[part] //= size
            addresses = addresses * size + np.asarray(parts[part]) // scale[part] % size
        return addresses * organisation.burst_bytes

    def _permute(self, parts: dict[str, NDArray[np.int64]], organisation: Organisation) -> dict[str, NDArray[np.int64]]:
        # XOR with a part that stays is its own inverse
        used = 1
        for part in self.permuted:
            size = organisation.banks if part == "bank" else organisation.bank_groups
            parts[part] = parts[part] ^ (parts["row"] // used % size)
            used *= size
        return parts

    def _sizes(self, organisation: Organisation) -> list[tuple[str, int]]:
        """The parts, each with the number of values that it has here, the most significant first."""
        whole = {
            "channel": organisation.channels * organisation.pseudo_channels,
            "rank": organisation.ranks,
            "bank_group": organisation.bank_groups,
            "bank": organisation.banks,
            "row": organisation.rows,
            "column": organisation.columns,
        }
        cut = dict.fromkeys(PARTS, 1)
        for part in self.order:
            base, _, size = part.partition(":")
            cut[base] *= int(size or 1)
        for part, pieces in cut.items():
            if whole[part] % pieces:
                raise FieldError(f"mapping {self.name}: {whole[part]} {part}s cannot be cut into {pieces}")
        named = [part.partition(":") for part in self.order]
        return [(part, int(size) if size else whole[part] // cut[part]) for part, _, size in named]
