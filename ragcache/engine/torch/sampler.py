"""Sampler: which token comes next, given the logits."""

from __future__ import annotations

import math
import secrets

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ragcache.engine.protocol import Sampling


class Sampler:
    """Chooses tokens: the best one at temperature 0, else a draw from the nucleus of the softmax.

    A draw depends on the seed, the token's number in its answer and the logits, and on nothing that was drawn before:
    an answer that is interrupted and goes on elsewhere, with the same seed, goes on as if it had not been.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._seed = secrets.randbits(64) if sampling.seed is None else sampling.seed

    def choose(self, logits: Tensor, number: int) -> tuple[int, float]:
        """The id of the answer's token `number` (0 is the first), and the best logit less the second best.

        logits [vocab], float32. Raises ValueError if they are not numbers.
        """
        values, ids = logits.topk(2)
        best, second = values.tolist()
        margin = best - second
        if not math.isfinite(best):
            raise ValueError("the model's logits are not numbers")
        if self._temperature == 0.0:
            return int(ids[0]), margin
        # in float64 and below zero no temperature over 0, however small, makes an infinity or NaN
        with np.errstate(over="ignore"):
            weights = np.exp((logits.cpu().numpy().astype(np.float64) - best) / self._temperature)
        if self._top_p < 1.0:
            weights[~nucleus(weights, self._top_p)] = 0.0
        # over the ids, not over the ranks: logits that differ by float rounding move a bound of the intervals by as
        # little, while two ranks that change places would exchange their tokens
        bounds = np.cumsum(weights)
        # the first bound above the point, and so never a token of weight 0
        return int(np.searchsorted(bounds, uniform(self._seed, number) * bounds[-1], side="right")), margin


def uniform(seed: int, number: int) -> float:
    """A draw from [0, 1) that is a function of its arguments: block `number` of the Philox stream of this key.

    Philox (Salmon et al., SC 2011) is made to be entered anywhere; numpy keeps its streams from version to version.
    """
    block = np.random.Philox(key=seed % 2**128, counter=number).random_raw()
    return (int(block) >> 11) * 2.0**-53  # as many of its bits as a float64 in [0, 1) has


def nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """The fewest tokens that have `top_p` of the sum of `weights` [vocab], and at least the best one.

    Of equals at the edge the smaller ids are in. (Holtzman et al., arXiv 1904.09751, section 3.1)
    """
    falling = np.sort(weights)[::-1]
    sums = np.cumsum(falling)
    last = min(int(np.searchsorted(sums, top_p * sums[-1])), len(falling) - 1)
    edge = falling[last]
    kept = weights > edge
    equals = np.flatnonzero(weights == edge)
    kept[equals[: last + 1 - int(kept.sum())]] = True
    return kept
