"""Draws: draws tokens as the torch engine does, as a logits processor for vLLM.

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
    """Sets all logits but the drawn token's to minus infinity, so that vLLM's greedy choice is the draw."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Callable[[Sequence[int], Tensor], Tensor] | None:
        draw_param = (params.extra_args or {}).get(DRAW_PARAM)
        if draw_param is None:
            return None
        temperature, seed, top_p, before = draw_param
        sampler = Sampler(Sampling(temperature, seed, top_p))

        def draw(generated: Sequence[int], logits: Tensor) -> Tensor:
            try:
                token, _ = sampler.choose(logits, before + len(generated))
            except ValueError:  # the logits are not finite: vLLM is to say what that means
                return logits
            alone = torch.full_like(logits, -torch.inf)
            alone[token] = 0.0
            return alone

        return draw
