"""Draws: tokens drawn as the torch engine draws them, as a logits processor of vLLM's.

For CPUs, where vLLM's core dies of a request with a seed whose prompt takes more than one step (its generators have no
offset to be set back there). A draw here is a function of seed, number and logits, so there is nothing to set back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from ragcache.engine.protocol import Sampling
from ragcache.engine.torch.sampler import Sampler

DRAWS = "ragcache.engine.vllm.worker.draws:Draws"  # for `logits_processors`
DRAW_PARAM = "ragcache_draw"  # of `extra_args`: temperature, seed, top_p, and how many tokens came before


class Draws(AdapterLogitsProcessor):
    """Leaves of the logits only the token that was drawn, which is then vLLM's greedy choice."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Callable[[Sequence[int], Tensor], Tensor] | None:
        wanted = (params.extra_args or {}).get(DRAW_PARAM)
        if wanted is None:
            return None
        temperature, seed, top_p, before = wanted
        sampler = Sampler(Sampling(temperature, seed, top_p))

        def draw(generated: Sequence[int], logits: Tensor) -> Tensor:
            try:
                token, _ = sampler.choose(logits, before + len(generated))
            except ValueError:  # no numbers: whatever vLLM makes of that
                return logits
            alone = torch.full_like(logits, -torch.inf)
            alone[token] = 0.0
            return alone

        return draw
