"""A fingerprint is the same wherever the same numbers are computed, and differs with any one of them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ragcache.engine.torch.fingerprint import fingerprint_of
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.packed_linear import pack_linears
from ragcache.model.checkpoint import Checkpoint


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model's folder, elsewhere and under another name."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "elsewhere" / "renamed"))


def loaded(folder: Path) -> bytes:
    return TorchModel.load(Checkpoint.resolve(str(folder)), "cpu").fingerprint


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_two_loads_a_copy_and_a_model_made_directly_agree(tiny_model, tiny_folder, copied, llama):
    assert len(tiny_model.fingerprint) == 16
    assert loaded(tiny_folder) == loaded(copied) == tiny_model.fingerprint
    assert TorchModel(llama(), "any name").fingerprint == tiny_model.fingerprint


@pytest.mark.full(proof="test_two_loads_a_copy_and_a_model_made_directly_agree")
def test_processes_agree(tiny_model, copied):
    code = (
        "import sys\n"
        "from ragcache.model.checkpoint import Checkpoint\n"
        "from ragcache.engine.torch.model import TorchModel\n"
        "print(TorchModel.load(Checkpoint.resolve(sys.argv[1]), 'cpu').fingerprint.hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(copied)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        # another seed of str's hash than this process has: nothing may depend on the order of a set
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "1234"},
    )
    assert done.stdout.strip() == tiny_model.fingerprint.hex()


def test_what_a_file_says_of_itself_does_not_count(tiny_model, copied):
    def change(config: dict[str, Any]) -> None:
        config |= {"_name_or_path": "other", "_model_name_or_path": "x", "transformers_version": "4.0.0"}
        config |= {"architectures": None, "_commit_hash": "abc"}

    edit_config(copied, change)
    assert loaded(copied) == tiny_model.fingerprint


def test_any_weight_counts_by_every_bit(tiny_model, copied):
    path = copied / "model.safetensors"
    weights = load_file(path)
    seen = {tiny_model.fingerprint}
    for name in ("model.layers.1.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"):
        changed = weights | {name: weights[name].clone()}
        last = changed[name].view(-1).view(torch.int32)[-1:]
        last ^= 1
        save_file(changed, path, {"format": "pt"})
        seen.add(loaded(copied))
    assert len(seen) == 4


def test_weights_that_changed_places_count(llama):
    module = llama()
    before = fingerprint_of(module)
    first, second = (layer.mlp for layer in module.model.layers)
    first.up_proj.weight, second.up_proj.weight = second.up_proj.weight, first.up_proj.weight
    assert fingerprint_of(module) != before


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rope_parameters", {"rope_type": "default", "rope_theta": 20000.0}),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
        ("rms_norm_eps", 1e-5),
        ("hidden_act", "gelu"),
    ],
)
def test_settings_that_change_numbers_count(tiny_model, copied, setting, value):
    edit_config(copied, lambda config: config.update({setting: value}))
    assert loaded(copied) != tiny_model.fingerprint


def test_the_dtype_counts(tiny_model, llama):
    prints = {fingerprint_of(llama().to(dtype)) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    assert len(prints) == 3
    assert tiny_model.fingerprint in prints


def test_tied_weights_are_read_once_and_agree_with_themselves(llama):
    module = llama(tie_word_embeddings=True)
    assert module.lm_head.weight.data_ptr() == module.model.embed_tokens.weight.data_ptr()
    assert fingerprint_of(module) == fingerprint_of(llama(tie_word_embeddings=True)) != fingerprint_of(llama())


def test_the_order_of_a_weight_in_memory_does_not_count(llama):
    module = llama()
    before = fingerprint_of(module)
    weight = module.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    assert fingerprint_of(module) == before


def test_packed_weights_would_not_count_and_are_refused(llama):
    module = llama()
    with torch.inference_mode():
        assert pack_linears(module)
    with pytest.raises(ValueError, match="before linear layers are packed"):
        TorchModel(module, "packed")


@pytest.mark.timing
@pytest.mark.real
def test_the_default_models_start_does_not_wait_for_it(model, checkpoint):
    module = AutoModelForCausalLM.from_pretrained(checkpoint.location, dtype=torch.float32)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        assert fingerprint_of(module) == model.fingerprint
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.5
