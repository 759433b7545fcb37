"""Hugging Face: the sizes of a decoder out of its config.json; a model of another form is refused, with the reason.

The language model of a multi-modal one is taken alone, without its other towers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pimsim.errors import FieldError

NESTED = ("text_config", "llm_config", "language_config")  # where a multi-modal model keeps its language model
# by the name that some models give
RENAMED = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size",
}
NEEDED = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
UNGATED = {"gpt2", "gpt_bigcode", "gpt_neox", "gptj", "opt", "phi", "starcoder2"}  # two matrices, as GPT-2's
FOUR_TIMES = {"gpt2", "gpt_bigcode", "gptj"}  # times as wide between them, where the file does not say
TIED = {
    "gpt2",
    "gpt_bigcode",
    "opt",
    "starcoder2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "cohere",
}  # where the file does not say
ENCODERS = ("bert", "t5", "vit", "clip", "mpnet", "electra", "whisper")  # parts of their types' names
DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # how architectures' names end
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "attention"}
BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
INSTEAD = "give its shape as a YAML file, as models/llama2-7b.yaml"


def sizes(file: Path) -> dict[str, Any]:
    """The fields of a ModelShape, from a config.json. Numbers take 2 bytes where the file does not say.

    FieldError for a model that is not a decoder with attention and one feed-forward network a layer.
    """
    given = _language_model(_read(file))
    kind = str(given.get("model_type"))
    reason = _other_form(given, kind)
    if reason:
        raise FieldError(f"{file}: {reason}; {INSTEAD}")
    for name in NEEDED:
        _count(file, given, name)
    heads, hidden = given["num_attention_heads"], given["hidden_size"]
    if given.get("intermediate_size") is None and kind not in FOUR_TIMES:
        raise FieldError(f"{file}: intermediate_size is missing, and no default of {kind} models is known; {INSTEAD}")
    if given.get("head_dim") is None and hidden % heads:
        raise FieldError(f"{file}: hidden_size {hidden} is not a multiple of the {heads} heads; give head_dim")
    one = 1 if kind == "gpt_bigcode" and given.get("multi_query", True) else heads
    return {
        "name": _name(given, file),
        "layers": given["num_hidden_layers"],
        "heads": heads,
        "kv_heads": _count(file, given, "num_key_value_heads", one),
        "head_dim": _count(file, given, "head_dim", hidden // heads),
        "hidden": hidden,
        "intermediate": _count(file, given, "intermediate_size", 4 * hidden),
        "gated": kind not in UNGATED,
        "vocabulary": given["vocab_size"],
        "tied": _flag(file, given, "tie_word_embeddings", kind in TIED),
        "bytes": _bytes(file, given),
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise FieldError(f"cannot read {file}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise FieldError(f"{file} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise FieldError(f"{file}: a config.json is an object")
    return given


def _language_model(given: dict[str, Any]) -> dict[str, Any]:
    """The fields under the names that most models use; of a multi-modal model those of its language model."""
    for name in NESTED:
        inner = given.get(name)
        if isinstance(inner, dict):
            outer = ("torch_dtype", "dtype", "tie_word_embeddings", "_name_or_path", "architectures")
            given = {**{key: given[key] for key in (*outer, "quantization_config") if key in given}, **inner}
            break
    renamed = {name: value for name, value in given.items() if name not in RENAMED}
    for name, usual in RENAMED.items():
        if name in given and renamed.get(usual) is None:
            renamed[usual] = given[name]
    return renamed


def _other_form(given: Mapping[str, Any], kind: str) -> str:
    """Why a model's weights or KV are not those of a plain decoder; empty if they are."""
    architectures = given.get("architectures")
    named = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if given.get("is_encoder_decoder"):
        return f"{kind} has an encoder beside its decoder"
    if given.get("kv_lora_rank") is not None:
        return f"{kind} keeps compressed KV (multi-head latent attention, kv_lora_rank)"
    for name in EXPERTS:
        if isinstance(given.get(name), int) and given[name] > 1:
            return f"{kind} is a mixture of {given[name]} experts ({name})"
    encodes = any(name in kind for name in ENCODERS)
    if encodes or (named and kind not in UNGATED and not _decodes(named, kind)):
        return f"{kind} is not a decoder that makes text ({', '.join(named) or 'an encoder'})"
    layers = given.get("layer_types")
    others = set(map(str, layers)) - ATTENTION if isinstance(layers, list) else set()
    if others or any(name.startswith(("mamba_", "ssm_")) for name in given):
        return f"{kind} has layers without attention ({', '.join(sorted(others)) or 'state space'})"
    if given.get("quantization_config"):
        return f"{kind} is quantised, so that its weights have other bytes than its KV"
    return ""


def _decodes(named: list[str], kind: str) -> bool:
    """Whether an architecture makes text, or is the body of a decoder alone, as MistralModel."""
    body = kind.replace("_", "") + "model"
    return any(name.endswith(DECODERS) or name.lower() == body for name in named)


def _count(file: Path, given: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = given.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FieldError(f"{file}: {name} must be a whole number of at least 1, not {value!r}")
    return value


def _flag(file: Path, given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise FieldError(f"{file}: {name} must be true or false, not {value!r}")
    return value


def _bytes(file: Path, given: Mapping[str, Any]) -> int:
    kind = given.get("torch_dtype") or given.get("dtype") or "float16"
    name = str(kind).removeprefix("torch.")
    if name not in BYTES:
        raise FieldError(f"{file}: torch_dtype must be one of {', '.join(BYTES)}, not {kind!r}")
    return BYTES[name]


def _name(given: Mapping[str, Any], file: Path) -> str:
    path = str(given.get("_name_or_path") or "")
    if path.startswith(("/", ".")):
        path = Path(path).name
    return path or str(given.get("model_type") or file.absolute().parent.name)
