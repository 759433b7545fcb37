"""Segment: token ids that are cached as one piece."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Token ids that are cached as one piece. Its tokens never depend on its neighbours.

    `tokens` are ids of the model's vocabulary, in order, as 32-bit integers (`array('i')`) if made by `of`. `key` is a
    digest of them (16 bytes), so a changed text is another segment; `label` is for people's eyes.
    `truncated` says that the text had more tokens. A simulation knows only the number of tokens: a `range` of that
    length stands for them.
    """

    label: str
    tokens: Sequence[int]
    key: bytes
    truncated: bool = False

    @classmethod
    def of(cls, label: str, tokens: Iterable[int], truncated: bool = False) -> Segment:
        """The segment of these token ids; ValueError if there are none."""
        ids = array("i", tokens)
        if not ids:
            raise ValueError(f"segment {label!r} has no tokens")
        return cls(label, ids, hashlib.blake2b(ids.tobytes(), digest_size=16).digest(), truncated)

    def __len__(self) -> int:
        return len(self.tokens)
