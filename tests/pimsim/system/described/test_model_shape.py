"""Models: those that are shipped have their published sizes, and a config.json of Hugging Face says the same."""

import dataclasses
import json

import pytest

from pimsim.errors import FieldError
from pimsim.system.described.config import SystemConfig
from pimsim.system.described.model_shape import ModelShape

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
# as the models' own config.json have it, in the fields that count
CONFIGS = {
    "llama2-7b": LLAMA,
    "llama2-70b": LLAMA
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": 8,
    },
    "llama-3.1-8b": LLAMA
    | {"intermediate_size": 14336, "num_key_value_heads": 8, "torch_dtype": "bfloat16", "vocab_size": 128256},
    "mistral-7b": LLAMA
    | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "torch_dtype": "bfloat16",
    },
    "gpt2-xl": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 1600,
        "n_head": 25,
        "n_layer": 48,
        "n_positions": 1024,
        "vocab_size": 50257,
    },
}


def written(folder, given):
    file = folder / "config.json"
    file.write_text(given if isinstance(given, str) else json.dumps(given))
    return str(file)


def sizes(shape):
    return {name: value for name, value in dataclasses.asdict(shape).items() if name != "name"}


@pytest.mark.parametrize(
    ("name", "billions"),
    [("gpt2-xl", 1.56), ("llama2-7b", 6.74), ("llama2-70b", 68.98), ("llama-3.1-8b", 8.03), ("mistral-7b", 7.24)],
)
def test_models_have_their_weights(name, billions):
    assert ModelShape.load(name).weights == pytest.approx(billions * 1e9, rel=0.005)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_json_is_the_model_that_is_shipped(tmp_path, name):
    assert sizes(ModelShape.load(written(tmp_path, CONFIGS[name]))) == sizes(ModelShape.load(name))


def test_a_system_takes_one_by_its_path(tmp_path):
    system = SystemConfig.load(
        "heterrag", {"model": written(tmp_path, CONFIGS["gpt2-xl"] | {"_name_or_path": "/a/mine"})}
    )
    assert system.model.name == "mine"
    assert system.model.weights == ModelShape.load("gpt2-xl").weights


@pytest.mark.parametrize(
    ("kind", "size"),
    [("float32", 4), ("torch.float32", 4), ("bfloat16", 2), ("float16", 2), ("float8_e4m3fn", 1), (None, 2)],
)
@pytest.mark.parametrize("field", ["torch_dtype", "dtype"])
def test_bytes_are_those_of_the_numbers(tmp_path, field, kind, size):
    given = {name: value for name, value in LLAMA.items() if name != "torch_dtype"}
    assert ModelShape.load(written(tmp_path, given | {field: kind})).bytes == size


@pytest.mark.parametrize("inner", ["text_config", "llm_config"])
def test_the_language_model_of_a_multi_modal_one_is_taken(tmp_path, inner):
    text = {name: value for name, value in LLAMA.items() if name not in ("torch_dtype", "architectures")}
    whole = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "torch_dtype": "float32",
        inner: text,
        "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24},
    }
    shape = ModelShape.load(written(tmp_path, whole))
    assert sizes(shape) == sizes(ModelShape.load("llama2-7b")) | {"bytes": 4}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # heads wider than the hidden size over their number
        (
            {
                "model_type": "gemma",
                "architectures": ["GemmaForCausalLM"],
                "head_dim": 256,
                "tie_word_embeddings": None,
            },
            {"head_dim": 256, "tied": True, "gated": True},
        ),
        ({"num_key_value_heads": None, "head_dim": None}, {"kv_heads": 32, "head_dim": 128}),
        ({"architectures": ["MistralModel"], "model_type": "mistral"}, {"gated": True}),
        ({"architectures": ["PhiForCausalLM"], "model_type": "phi"}, {"gated": False}),
        ({"architectures": ["NewForCausalLM"], "model_type": "new"}, {"gated": True, "tied": False}),
        ({"num_local_experts": 1}, {"intermediate": 11008}),
        ({"layer_types": ["full_attention", "sliding_attention"]}, {"layers": 32}),
    ],
)
def test_other_decoders_have_their_own_shapes(tmp_path, given, expected):
    shape = sizes(ModelShape.load(written(tmp_path, LLAMA | given)))
    assert {name: shape[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "bert is not a decoder that makes text"),
        ({"model_type": "xlm-roberta", "architectures": None}, "xlm-roberta is not a decoder"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "vit is not a decoder"),
        ({"model_type": "mistral", "architectures": ["MistralForSequenceClassification"]}, "is not a decoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 has an encoder beside its decoder"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "a mixture of 8 experts .num_local_experts"),
        ({"model_type": "qwen3_moe", "num_experts": 128}, "a mixture of 128 experts"),
        ({"model_type": "deepseek_v2", "kv_lora_rank": 512}, "compressed KV .multi-head latent attention"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers without attention .linear_attention"),
        ({"mamba_d_state": 256}, "layers without attention .state space"),
        ({"quantization_config": {"bits": 4}}, "llama is quantised"),
        ({"model_type": "falcon", "intermediate_size": None}, "intermediate_size is missing, and no default of falcon"),
        ({"hidden_size": "wide"}, "hidden_size must be a whole number of at least 1, not 'wide'"),
        ({"hidden_size": 4097}, "not a multiple of the 32 heads"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number"),
        ({"vocab_size": None}, "vocab_size must be a whole number of at least 1, not None"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be a whole number of at least 1, not 0"),
        ({"num_key_value_heads": 5}, "kv_heads must divide the 32 heads"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
        ({"torch_dtype": "int3"}, "torch_dtype must be one of float32"),
    ],
)
def test_what_has_another_shape_is_refused_and_why(tmp_path, given, says):
    with pytest.raises(FieldError, match=says) as raised:
        ModelShape.load(written(tmp_path, LLAMA | given))
    assert "config.json" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON"), ("[]", "is an object"), ("{}", "num_hidden_layers must be"), ("", "is not JSON")],
)
def test_a_file_that_is_none_is_one_clear_error(tmp_path, text, says):
    with pytest.raises(FieldError, match=says):
        ModelShape.load(written(tmp_path, text))
    with pytest.raises(FieldError, match="cannot read"):
        ModelShape.load(str(tmp_path / "none.json"))
