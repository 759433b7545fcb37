"""Site: vLLM with the connector over the default model, driven step by step."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm import LLM, SamplingParams

from ragcache.cache.integrity import recount
from ragcache.engine.vllm.scheduler.outer_cache import OuterCache
from ragcache.engine.vllm.worker.block_store import BlockStore
from ragcache.model.checkpoint import Checkpoint

BLOCK = 32
SYSTEM = list(range(500, 560))


def document(seed: int, tokens: int) -> list[int]:
    """Ids of a made-up document of this number of tokens, the same for the same seed."""
    source = random.Random(seed)
    return [source.randrange(1000, 40000) for _ in range(tokens)]


@dataclass
class Answered:
    """Generated ids, and the number of the prompt's tokens that each tier had."""

    ids: list[int]
    cached: dict[str, int]


class Site:
    """One vLLM engine. `blocks` of 32 tokens are its device; further settings are the connector's."""

    def __init__(
        self,
        *,
        plain: bool = False,
        blocks: int = 64,
        dtype: str = "float32",
        failure_policy: str = "recompute",
        **settings: Any,
    ) -> None:
        transfer = {
            "kv_connector": "RagCacheConnector",
            "kv_connector_module_path": "ragcache.engine.vllm.connector",
            "kv_role": "kv_both",
            "kv_load_failure_policy": failure_policy,
            "kv_connector_extra_config": {"host_cache": "1GiB"} | settings,
        }
        self.llm: Any = LLM(
            model=Checkpoint.resolve("default").location,
            dtype=dtype,
            block_size=BLOCK,
            max_model_len=1024,
            max_num_batched_tokens=1024,
            enforce_eager=True,
            num_gpu_blocks_override=blocks,
            kv_cache_memory_bytes=1 << 30,
            enable_prefix_caching=not plain,
            **({} if plain else {"kv_transfer_config": transfer}),
        )
        self.core: Any = self.llm.llm_engine.engine_core.engine_core

    @property
    def cache(self) -> OuterCache:
        return self.core.scheduler.connector.cache

    @property
    def store(self) -> BlockStore:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group().worker.store

    def ask(
        self,
        documents: Sequence[Sequence[int]],
        question: Sequence[int] = range(700, 720),
        *,
        tokens: int = 6,
        marked: bool = True,
        segments: Any = None,
        **more: Any,
    ) -> Answered:
        """One greedy answer. On return, all copies and writes that it caused have ended.

        The request says where its documents end, or `segments` instead, or nothing if it is not `marked`. `more` is
        added to the prompt.
        """
        prompt = [*SYSTEM, *(token for tokens_ in documents for token in tokens_), *question]
        params = {"segments": segments or [len(SYSTEM), *map(len, documents)]}
        extra = {"kv_transfer_params": params} if marked else {}
        request = {"prompt_token_ids": prompt, **more}
        wanted = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, extra_args=extra)
        (output,) = self.llm.generate(request, wanted, use_tqdm=False)
        self.settle()
        returned = output.kv_transfer_params or {}
        return Answered(list(output.outputs[0].token_ids), dict(returned.get("cached_tokens", {})))

    def settle(self) -> None:
        """Steps until nothing is under way, then recounts the books."""
        while self.core.scheduler.has_requests():
            self.core.step_fn()
        if self.core.scheduler.connector is not None:
            for _ in recount(self.cache.hierarchy, {}):
                pass

    def forget_device(self) -> None:
        """Empties vLLM's own prefix cache."""
        assert self.llm.reset_prefix_cache()

    def close(self) -> None:
        """Ends vLLM. Harmless when called again."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = self.core = None
            gc.collect()
