"""Preemption: which job gives way when a step runs out of device memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

Job = TypeVar("Job")

# messages of CPU allocators and CUDA's libraries that torch raises as a plain RuntimeError
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a forward raised this because there was too little memory for it, on the device or the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def chosen_to_give_way(running: Sequence[Job], stepped: Sequence[Job]) -> Job | None:
    """The job to preempt after a step that lacked memory; None if the one job of the step runs alone.

    It is the youngest of those that took part in the step. A job that did not takes no memory but its KV, so it gives
    way only where a single other one was in the step. `running` is ordered, oldest first; `stepped` are some of them.
    """
    taking_part = {id(job) for job in stepped}
    candidates = [job for job in running if len(taking_part) == 1 or id(job) in taking_part]
    return candidates[-1] if len(candidates) > 1 else None
