"""VllmRequest: a job as vLLM is asked it, and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from ragcache.engine.protocol import Job
from ragcache.engine.vllm.wire.bulletin import NAME_PARAM
from ragcache.engine.vllm.wire.namespace import salt_of
from ragcache.engine.vllm.wire.passages import SEGMENTS_PARAM
from ragcache.engine.vllm.worker.draws import DRAW_PARAM
from ragcache.reuse.plan import prefix_and_rest

LOGPROBS = 2  # of the best candidates: the margin is their difference


@dataclass(frozen=True, slots=True)
class VllmRequest:
    """Arguments for `AsyncLLM.generate`.

    `prompt` are token ids, and KV of them is shared with requests of the same `salt` alone. Of requests that wait, the
    one with the lowest `priority` goes first.
    """

    prompt: list[int]
    salt: str | None
    sampling: SamplingParams
    priority: int

    @classmethod
    def of(cls, job: Job, number: int, name: str, *, passed_by: int, draws: bool) -> VllmRequest:
        """The request for the job of that `number`, in the order of submission.

        A guess lets `passed_by` later jobs pass. With `draws` vLLM runs the logits processor `Draws`, which draws
        in its place.
        """
        _, computed = prefix_and_rest(job.plan)
        prompt = [token for piece in computed for token in piece.tokens] + list(job.question)
        params: dict[str, Any] = {NAME_PARAM: name}
        if computed:
            params[SEGMENTS_PARAM] = [len(piece) for piece in computed]
        chosen = job.sampling
        drawing: dict[str, Any] = {"temperature": chosen.temperature, "top_p": chosen.top_p, "seed": chosen.seed}
        extra: dict[str, Any] = {"kv_transfer_params": params}
        if draws and chosen.temperature:
            drawing = {"temperature": 0.0}
            extra[DRAW_PARAM] = [chosen.temperature, chosen.seed, chosen.top_p, job.generated]
        sampling = SamplingParams(
            **drawing,
            max_tokens=job.max_tokens,
            logprobs=LOGPROBS,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=extra,
        )
        # even numbers are jobs in order; a guess comes right behind the last job that may pass it
        return cls(prompt, salt_of(job.namespace), sampling, 2 * number + (2 * passed_by + 1) * job.guess)


def margin_of(candidates: Mapping[int, Any]) -> float:
    """The best logit less the second of a token's candidates: a difference of log-probabilities is one of logits."""
    best = sorted((candidate.logprob for candidate in candidates.values()), reverse=True)[:LOGPROBS]
    return float(best[0] - best[1]) if len(best) == LOGPROBS else 0.0


def eos_tokens(model_config: Any) -> frozenset[int]:
    """Ids of the tokens that end an answer, by the configurations of the model and of its generation."""
    ids: set[int] = set()
    generation = model_config.try_get_generation_config()
    for eos in (getattr(model_config.hf_config, "eos_token_id", None), generation.get("eos_token_id")):
        ids.update([eos] if isinstance(eos, int) else eos or [])
    return frozenset(ids)
