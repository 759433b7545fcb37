"""Fingerprint: which numbers a model computes, as a digest that every process and every copy of it agrees on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import xxhash
from torch import Tensor
from transformers import PreTrainedModel

from ragcache.engine.torch.packed_linear import PackedLinear

# What a configuration says of a file and not of the numbers. All else counts, the irrelevant with it: a fingerprint
# that differs without need costs a prefill, one that agrees without right gives wrong answers
_OF_THE_FILE = frozenset(
    {
        "_name_or_path",
        "_model_name_or_path",  # from a GGUF's metadata
        "_commit_hash",
        "_attn_implementation",  # the engine's own, whatever was asked for
        "attn_implementation",
        "transformers_version",
        "architectures",  # of whoever saved it; the class that was built counts instead
        "dtype",  # of the file's weights; the weights count as they were loaded
        "torch_dtype",
    }
)


def fingerprint_of(module: PreTrainedModel) -> bytes:
    """Digest of 16 bytes over configuration, weights and dtype; equal means that KV can be exchanged.

    It finds mistakes, not attacks: weights are digested with xxh3, at the speed of memory. Buffers that are not saved
    follow from the configuration. To be called before linear layers are packed, since packed weights are no parameters.
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
    """`settings` without what says nothing of the numbers, at every depth."""
    if isinstance(settings, dict):
        return {str(key): numbers_of(value) for key, value in settings.items() if key not in _OF_THE_FILE}
    if isinstance(settings, list | tuple):
        return [numbers_of(value) for value in settings]
    return settings


def _digest(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return xxhash.xxh3_128_digest(plain.numpy().data)
