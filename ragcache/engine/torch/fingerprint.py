"""Fingerprint: a digest of the numbers that a model computes, equal in every process and for every copy of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import xxhash
from torch import Tensor
from transformers import PreTrainedModel

from ragcache.engine.torch.packed_linear import PackedLinear

# Entries of a configuration that describe a file and not the numbers. All others count, even irrelevant ones: a
# fingerprint that differs without need costs a prefill, one that agrees without right gives wrong answers
_OF_THE_FILE = frozenset(
    {
        "_name_or_path",
        "_model_name_or_path",  # from the metadata of a GGUF file
        "_commit_hash",
        "_attn_implementation",  # always the engine's own
        "attn_implementation",
        "transformers_version",
        "architectures",  # as saved; the class that was built counts instead
        "dtype",  # of the weights in the file; they count as they were loaded
        "torch_dtype",
    }
)


def fingerprint_of(module: PreTrainedModel) -> bytes:
    """Digest of 16 bytes over configuration, weights and dtype; equal means that KV can be exchanged.

    It guards against mistakes, not attacks: weights are digested with xxh3, at the speed of memory. Buffers that are
    not saved follow from the configuration. Raises ValueError once linear layers are packed: packed weights are not
    parameters.
    """
    if any(isinstance(child, PackedLinear) for child in module.modules()):
        raise ValueError("the fingerprint has to be taken before linear layers are packed")
    head = {
        "class": type(module).__name__,
        "config": numbers_of(module.config.to_dict()),
        "dtype": str(module.dtype),
    }
    state = module.state_dict()
    digests: dict[Any, bytes] = {}  # by where the bytes lie: tied weights are read once
    digest = hashlib.blake2b(json.dumps(head, sort_keys=True, default=str).encode(), digest_size=16)
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"\n{name} {list(tensor.shape)} {tensor.dtype} ".encode())
        place = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if place not in digests:
            digests[place] = _digest(tensor)
        digest.update(digests[place])
    return digest.digest()


def numbers_of(settings: Any) -> Any:
    """`settings` without entries that describe only the file, at every depth."""
    if isinstance(settings, dict):
        return {str(key): numbers_of(value) for key, value in settings.items() if key not in _OF_THE_FILE}
    if isinstance(settings, list | tuple):
        return [numbers_of(value) for value in settings]
    return settings


def _digest(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return xxhash.xxh3_128_digest(plain.numpy().data)
