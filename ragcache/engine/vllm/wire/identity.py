"""Identity: which model and layout KV belongs to, and about what it costs to compute, from vLLM's configuration."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import vllm
import xxhash
from transformers.utils.hub import cached_file
from vllm.platforms import current_platform

from ragcache.cost import AnalyticCost, PrefillCost, PrefillProfile
from ragcache.engine.torch.fingerprint import numbers_of
from ragcache.errors import ConfigError, ModelError
from retrieval.user_path import user_path

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_READ_AT_ONCE = 16 << 20


def blocks_fingerprint(config: Any, block_tokens: int, layout: str) -> bytes:
    """Digest of 16 bytes, the same for all workers of an engine, and for another engine if its blocks serve this one.

    It covers the model's configuration and weights, the types of numbers, the parallel shape, the layout, and the
    release and platform of vLLM, whose kernels decide what a block's bytes mean. The files of weights are digested with
    xxh3, at the speed of the disk. `layout` describes this worker's tensors.
    """
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    text = {
        "vllm": vllm.__version__,
        "platform": [current_platform.device_type, str(current_platform.get_cpu_architecture())],
        "device": current_platform.get_device_name(),
        "config": numbers_of(model.hf_config.to_dict()),
        "dtype": str(model.dtype),
        "quantization": str(model.quantization),
        "kv dtype": str(cache.cache_dtype),
        "block": block_tokens,
        "parallel": [parallel.tensor_parallel_size, parallel.pipeline_parallel_size],
        "layout": layout if parallel.pipeline_parallel_size == 1 else "by stage",
    }
    digest = hashlib.blake2b(json.dumps(text, sort_keys=True, default=str).encode(), digest_size=16)
    for file in weight_files(model.model, model.revision):
        digest.update(f"\n{file.name} ".encode())
        digest.update(_digest(file))
    return digest.digest()


def weight_files(model: str, revision: str | None) -> list[Path]:
    """The files that hold a model's weights, sorted by name. ModelError if there are none."""
    folder = Path(model)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        config = cached_file(model, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        folder = Path(config).parent if config is not None else folder
    for pattern in _WEIGHTS:
        if files := sorted(folder.glob(pattern)):
            return files
    raise ModelError(f"{model}: no weights in {folder} ({', '.join(_WEIGHTS)}); a disk cache is bound to them")


def estimated_cost(config: Any, profile: str) -> PrefillCost:
    """Seconds that a prefill takes: as measured in the file `profile`, or estimated from the model's shape if empty."""
    if profile:
        return PrefillProfile.load(user_path(profile, "profile", ConfigError))
    text = config.model_config.hf_text_config
    hidden, layers = text.hidden_size, text.num_hidden_layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    heads = text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or hidden // heads)
    kv_share = (getattr(text, "num_key_value_heads", None) or heads) / heads
    weights = layers * round(hidden * width * (2 + 2 * kv_share) + 3 * hidden * inner)
    return AnalyticCost(weights, layers, width)


def _digest(file: Path) -> bytes:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while part := stream.read(_READ_AT_ONCE):
            digest.update(part)
    return digest.digest()
