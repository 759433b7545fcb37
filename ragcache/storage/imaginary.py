"""Imaginary: a host store that holds no bytes, for simulation and virtual time."""

from __future__ import annotations

from typing import Any


class Imaginary:
    """A host store for simulation, where KV is but a mark that it was computed: copies are the mark itself."""

    def put(self, kv: Any) -> Any:
        """Returns `kv`."""
        return kv

    def load(self, copy: Any) -> Any:
        """Returns `copy`."""
        return copy
