"""A packed step over spans computes what plain `transformers` computes over each sequence alone."""

import copy
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ragcache.engine.torch.kv import KVSpan
from ragcache.engine.torch.model import StepInput, TorchModel, _context_length
from ragcache.errors import ModelError
from ragcache.model.checkpoint import Checkpoint
from tests.props.budget import examples

TOLERANCE = 1e-4
SMALL = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture(scope="module")
def plain(llama) -> LlamaForCausalLM:
    """The tiny model as `transformers` runs it."""
    return llama()


def logits_of(module: PreTrainedModel, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        return module(torch.tensor([tokens]), use_cache=False).logits[0, -1]


def random_tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(500), k=count)


def cut(tokens: list[int], sizes: list[int]) -> list[list[int]]:
    """`tokens` in pieces of at least one token, of about the relative `sizes`."""
    pieces, rest = [], list(tokens)
    for size in sizes:
        if len(rest) > size:
            pieces.append(rest[:size])
            rest = rest[size:]
    return [*pieces, rest] if rest else pieces


def spans_for(model: TorchModel, sizes: list[int]) -> list[KVSpan]:
    return [model.layout.allocate(size, model.device) for size in sizes]


def refuses(module: PreTrainedModel, folder: Path, message: str) -> str:
    module.save_pretrained(folder)
    with pytest.raises(ModelError, match=message) as caught:
        TorchModel.load(Checkpoint.resolve(str(folder)))
    return str(caught.value)


def test_one_prompt_at_once(tiny_model, plain):
    tokens = random_tokens(100, 1)
    spans = spans_for(tiny_model, [100])
    logits = tiny_model.forward([StepInput(tokens, 0, spans, spans)])
    assert logits.shape == (1, 500)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[0], logits_of(plain, tokens), rtol=0, atol=TOLERANCE)


def test_memory_holds_the_kv_that_transformers_would_cache(tiny_model, plain):
    tokens = random_tokens(40, 2)
    spans = spans_for(tiny_model, [13, 7, 25])
    for first, last in [(0, 9), (9, 10), (10, 33), (33, 40)]:
        tiny_model.forward([StepInput(tokens[first:last], first, spans, spans)])
    with torch.inference_mode():
        cache = plain(torch.tensor([tokens]), use_cache=True).past_key_values
    assert [span.length for span in spans] == [13, 7, 20]
    for layer in range(tiny_model.layout.layers):
        for which, expected in enumerate((cache.layers[layer].keys, cache.layers[layer].values)):
            ours = torch.cat([span.data[layer, which, :, : span.length] for span in spans], dim=1)
            torch.testing.assert_close(ours, expected[0], rtol=0, atol=TOLERANCE)


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_a_packed_step_is_each_sequence_alone(tiny_model, plain, data):
    """Prefill chunks and decodes side by side, over memory that is cut into spans anyhow."""
    steps, expected, cached = [], [], []
    for _ in range(data.draw(st.integers(1, 4))):
        length = data.draw(st.integers(2, 60))
        tokens = random_tokens(length, data.draw(st.integers(0, 10_000)))
        done = data.draw(st.integers(0, length - 1))
        new = 1 if done and data.draw(st.booleans()) else data.draw(st.integers(1, length - done))
        tokens = tokens[: done + new]
        past: list[KVSpan] = []
        start = 0
        for piece in cut(tokens[:done], data.draw(st.lists(st.integers(1, 20), max_size=4))):
            span = spans_for(tiny_model, [len(piece)])[0]
            tiny_model.forward([StepInput(piece, start, [*past, span], [span])])
            past.append(span)
            start += len(piece)
        targets = spans_for(tiny_model, list(map(len, cut(tokens[done:], data.draw(st.lists(st.integers(1, 20)))))))
        if past and data.draw(st.booleans()):  # the last span may have room still, as when decoding
            grown = spans_for(tiny_model, [past[-1].length + data.draw(st.integers(1, 5))])[0]
            grown.data[:, :, :, : past[-1].length] = past[-1].data
            grown.length = past[-1].length
            past[-1] = grown
            targets = [grown, *targets]
        own = past[:-1] if targets and past and targets[0] is past[-1] else past
        cached += [(span, span.data.clone()) for span in own]
        steps.append(StepInput(tokens[done:], done, [*own, *targets], targets))
        expected.append(logits_of(plain, tokens))
    logits = tiny_model.forward(steps)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=TOLERANCE)
    for span, before in cached:  # what is cached is read, never written
        assert torch.equal(span.data, before)
        assert span.length == span.capacity


def test_writes_land_in_their_spans_and_nowhere_else(tiny_model):
    spans = spans_for(tiny_model, [5, 3, 10])
    for span in spans:
        span.data.fill_(7.5)
    bystander = spans_for(tiny_model, [4])[0]
    bystander.data.fill_(7.5)
    tiny_model.forward([StepInput(random_tokens(11, 3), 0, spans, spans)])
    assert [span.length for span in spans] == [5, 3, 3]
    assert not (spans[0].data == 7.5).any()
    assert not (spans[1].data == 7.5).any()
    assert not (spans[2].data[:, :, :, :3] == 7.5).any()
    assert (spans[2].data[:, :, :, 3:] == 7.5).all()
    assert (bystander.data == 7.5).all()


def test_sequences_share_cached_spans_without_meeting(tiny_model, plain):
    prefix, ends = random_tokens(30, 4), [random_tokens(n, 50 + n) for n in (1, 8, 3)]
    shared = spans_for(tiny_model, [30])
    tiny_model.forward([StepInput(prefix, 0, shared, shared)])
    before = shared[0].data.clone()
    own = [spans_for(tiny_model, [len(end)]) for end in ends]
    logits = tiny_model.forward(
        [StepInput(end, 30, [*shared, *spans], spans) for end, spans in zip(ends, own, strict=True)]
    )
    for end, row in zip(ends, logits, strict=True):
        torch.testing.assert_close(row, logits_of(plain, prefix + end), rtol=0, atol=TOLERANCE)
    assert torch.equal(shared[0].data, before)


def test_tokens_without_room_are_refused_before_anything_is_written(tiny_model):
    spans = spans_for(tiny_model, [3, 2])
    with pytest.raises(ValueError, match="1 of 6 tokens have no room"):
        tiny_model.forward([StepInput(random_tokens(6, 5), 0, spans, spans)])
    assert [span.length for span in spans] == [0, 0]


def test_the_layout_says_what_a_token_takes(tiny_model):
    assert tiny_model.layout.bytes_per_token == 2 * 2 * 2 * 16 * 4  # layers, K and V, KV heads, dimension, float32
    span = spans_for(tiny_model, [10])[0]
    assert span.data.nbytes == 10 * tiny_model.layout.bytes_per_token
    assert (span.length, span.capacity, span.room) == (0, 10, 10)


MODELS = {
    "llama with 3 query heads a KV head": lambda: LlamaForCausalLM(
        LlamaForCausalLM.config_class(**SMALL | {"num_attention_heads": 6})
    ),
    "qwen2, which has biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "gpt2, which learns its positions": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3)
    ),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=128)),
}


@pytest.mark.parametrize("name", MODELS)
def test_other_decoders_run_exactly(name, tmp_path):
    torch.manual_seed(2)
    module = MODELS[name]().eval()
    module.save_pretrained(tmp_path)
    model = TorchModel.load(Checkpoint.resolve(str(tmp_path)), "cpu")
    tokens = [token % 300 for token in random_tokens(60, 6)]
    spans = spans_for(model, [20, 40])
    model.forward([StepInput(tokens[:33], 0, spans, spans)])
    model.forward([StepInput(tokens[33:59], 33, spans, spans)])
    logits = model.forward([StepInput(tokens[59:], 59, spans, spans)])
    torch.testing.assert_close(logits[0], logits_of(module, tokens), rtol=0, atol=TOLERANCE)


def test_a_sliding_window_bounds_the_context(tmp_path):
    MistralForCausalLM(MistralConfig(**SMALL, sliding_window=128)).save_pretrained(tmp_path / "window")
    MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)).save_pretrained(tmp_path / "none")
    Qwen2ForCausalLM(Qwen2Config(**SMALL, sliding_window=128, use_sliding_window=False)).save_pretrained(
        tmp_path / "unused"
    )
    lengths = [
        TorchModel.load(Checkpoint.resolve(str(tmp_path / name))).context_length
        for name in ("window", "none", "unused")
    ]
    assert lengths == [128, 512, 512]


def test_within_its_window_a_model_is_exact_to_the_last_token(tmp_path):
    torch.manual_seed(2)
    module = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=32)).eval()
    module.save_pretrained(tmp_path)
    model = TorchModel.load(Checkpoint.resolve(str(tmp_path)), "cpu")
    tokens = [token % 300 for token in random_tokens(model.context_length, 7)]
    spans = spans_for(model, [32])
    model.forward([StepInput(tokens[:31], 0, spans, spans)])
    logits = model.forward([StepInput(tokens[31:], 31, spans, spans)])
    torch.testing.assert_close(logits[0], logits_of(module, tokens), rtol=0, atol=TOLERANCE)


def test_capped_attention_scores_are_refused(tmp_path):
    torch.manual_seed(3)
    settings = SMALL | {"pad_token_id": 0, "sliding_window": 256, "attn_logit_softcapping": 50.0}
    refuses(Gemma2ForCausalLM(Gemma2Config(**settings, query_pre_attn_scalar=16)).eval(), tmp_path, "attention")


def test_a_variant_is_refused_by_its_name_even_where_the_numbers_hardly_differ(tmp_path):
    torch.manual_seed(3)
    settings = SMALL | {"pad_token_id": 0, "sliding_window": 256, "attn_logit_softcapping": 50.0}
    config = Gemma2Config(**settings, query_pre_attn_scalar=16)
    config.initializer_range = 0.001
    refuses(Gemma2ForCausalLM(config).eval(), tmp_path, "softcap")


def test_an_encoder_is_refused_even_where_the_numbers_hardly_differ(tmp_path):
    config = BertConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    config.initializer_range = 0.001
    refuses(BertLMHeadModel(config).eval(), tmp_path, "encoder")


def test_weights_that_are_not_there_are_not_made_up(tmp_path, llama):
    module = llama()
    state = {name: tensor for name, tensor in module.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    module.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, model\.layers\.1\.mlp\.up_proj"):
        TorchModel.load(Checkpoint.resolve(str(tmp_path)))


def test_chunked_attention_and_longrope_bound_the_context():
    chunked = SimpleNamespace(max_position_embeddings=4096, attention_chunk_size=256)
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 1024}
    scaled = {"rope_type": "llama3", "original_max_position_embeddings": 1024}
    assert _context_length(chunked) == 256
    assert _context_length(SimpleNamespace(max_position_embeddings=4096, rope_parameters=longrope)) == 1024
    assert _context_length(SimpleNamespace(max_position_embeddings=4096, rope_parameters=scaled)) == 4096


def test_attention_sinks_are_refused(tmp_path):
    torch.manual_seed(3)
    settings = SMALL | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 256}
    module = GptOssForCausalLM(GptOssConfig(**settings, rope_scaling=None)).eval()
    refuses(module, tmp_path, "attention")


def test_an_encoder_is_refused(tmp_path):
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    config.initializer_range = 0.3
    refuses(BertLMHeadModel(config).eval(), tmp_path, "BertLMHeadModel.*attention")


def test_an_encoder_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=300, d_model=48, num_layers=1, num_heads=4, d_ff=64, d_kv=12)
    refuses(T5ForConditionalGeneration(config), tmp_path, "decoder-only")


def test_a_model_without_attention_is_refused(tmp_path):
    config = MambaConfig(vocab_size=300, hidden_size=48, num_hidden_layers=2, state_size=4)
    refuses(MambaForCausalLM(config), tmp_path, "Mamba")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nMore"), RuntimeError("No CUDA GPUs")])
def test_a_device_that_does_not_take_the_weights_is_a_model_error(error, tiny_checkpoint, monkeypatch):
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "to", refuse)
    with pytest.raises(ModelError) as refused:
        TorchModel.load(tiny_checkpoint, "cpu")
    assert str(refused.value) == f"cannot load 'tiny-llama' onto cpu: {str(error).splitlines()[0]}"


def test_a_device_without_memory_for_a_first_step_is_no_fault_of_the_models_attention(llama, monkeypatch):
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore")

    monkeypatch.setattr(TorchModel, "forward", refuse)
    with pytest.raises(ModelError, match=r"^no memory to run 'tiny' on cpu: CUDA out of memory\.$"):
        TorchModel(llama(), "tiny")


def test_end_tokens_are_those_of_the_generation_config(tmp_path, llama, tiny_model):
    assert tiny_model.eos_tokens == frozenset()
    module = copy.deepcopy(llama())
    module.generation_config.eos_token_id = [7, 9]
    module.config.eos_token_id = 3
    module.save_pretrained(tmp_path)
    assert TorchModel.load(Checkpoint.resolve(str(tmp_path))).eos_tokens == {7, 9}


def test_the_end_token_of_the_config_serves_where_generation_names_none(tmp_path, llama):
    module = llama(eos_token_id=3)
    module.generation_config.eos_token_id = None
    module.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert TorchModel.load(Checkpoint.resolve(str(tmp_path))).eos_tokens == {3}
