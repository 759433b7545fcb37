"""VllmKV: the name of KV that lies in vLLM, as the service hands it about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class VllmKV:
    """KV of `tokens` tokens, which vLLM keeps where it likes.

    `sources` is None until the prompt is computed: then the tokens of the whole prompt that were found on device, host
    and disk.
    """

    tokens: int
    sources: tuple[int, int, int] | None = None
