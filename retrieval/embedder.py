"""Embedder: texts to unit vectors with a sentence-transformers model, computed by transformers and torch."""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer

from retrieval.corpus import Document
from retrieval.errors import EmbedderError
from retrieval.model_folder import (
    Pooling,
    default_folder,
    downloaded_folder,
    fingerprint_of,
    max_tokens_of,
    pooling_of,
)
from retrieval.user_path import user_path

DEFAULT_NAME = "default"
# padded tokens in one forward. Larger batches gain nothing on a CPU: their matrices leave its caches, and memory of
# their size comes fresh from the system each time
BATCH_TOKENS = 1024
# more than any tokenizer packs into a token on average: a text is cut there before it is tokenised, so that a text of
# gigabytes costs no more than one of the longest kind
MAX_CHARACTERS_PER_TOKEN = 32
TOKENISED_CHARACTERS = 2 << 20  # at once: a tokenizer takes up to 115 bytes for each


class Embedder:
    """Unit vectors of texts, from one model; the same text gives the same vector, alone or in a batch (to 1e-5).

    `name` is what `load` was given (a folder as an absolute path), `dim` the length of a vector, `max_tokens` the
    number of tokens after which a text is cut, special tokens included. `fingerprint` differs between models whose
    vectors differ; `config` is transformers' own; `threads` is what `load` was given. Any thread may call `encode`.
    """

    def __init__(self, name: str, folder: Path, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise EmbedderError(f"threads must be 1 or more, got {threads}")
        self.name = name
        self.threads = threads
        self._tokenizing = threading.Lock()  # the tokenizer sets its truncation in place
        self._turn = threading.Lock()  # of calls with a single batch, which use all threads
        self._pooling: Pooling = pooling_of(folder)
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
        self.config: Any = self._model.config
        self.dim = int(self.config.hidden_size)
        self.max_tokens = max_tokens_of(folder, self._tokenizer, self.config)
        self.fingerprint = fingerprint_of(folder, self._pooling, self.max_tokens)

    @classmethod
    def load(cls, name: str = DEFAULT_NAME, threads: int | None = None) -> "Embedder":
        """Load "default", a local folder, or a Hugging Face id; EmbedderError if that is not possible.

        `threads` is the number of threads a call of `encode` computes with; None leaves it to torch.
        """
        if name == DEFAULT_NAME:
            return cls(name, default_folder(), threads)
        folder = user_path(name, "embedder", EmbedderError)
        if folder.is_dir():
            # absolute, because an index remembers the name and may be opened from elsewhere
            return cls(str(folder.resolve()), folder.resolve(), threads)
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise EmbedderError(f"embedding model folder {name} does not exist; check the path")
        return cls(name, downloaded_folder(name), threads)

    @staticmethod
    def passage(document: Document) -> str:
        """The text that is embedded for a document: "title. text", or the text alone if it opens with the title."""
        title, text = document.title.strip(), document.text.strip()
        after_title = text.removeprefix(title)
        if after_title != text and not after_title[:1].isalnum():  # "json" does not open "jsonlines"
            text = after_title.lstrip()
        return ". ".join(part for part in (title, text) if part)

    @property
    def tokenizer(self) -> Tokenizer:
        """A copy of the model's tokenizer that neither cuts nor pads."""
        copy = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Vectors of texts in their order, float32 [len(texts), dim], each of length 1.

        A text is cut after `longest_text` characters and `max_tokens` tokens. `progress` is called after each batch
        with its number of texts.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        if not texts:
            return vectors
        tokens = self._tokenized(texts)
        batches = list(_batches([len(ids) for ids in tokens["input_ids"]]))
        with contextlib.closing(self._computed(tokens, batches)) as parts:
            for rows, part in zip(batches, parts, strict=True):
                vectors[rows] = part
                if progress is not None:
                    progress(len(rows))
        return vectors

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens computed for each text: special tokens count, what is cut off does not."""
        if not texts:
            return []
        return [len(ids) for ids in self._tokenized(texts)["input_ids"]]

    @property
    def longest_text(self) -> int:
        """Characters of a text after which nothing is embedded any more."""
        return self.max_tokens * MAX_CHARACTERS_PER_TOKEN

    def _tokenized(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """What the model takes for each text, by the names of its inputs."""
        tokens: dict[str, list[list[int]]] = {}
        for part in _parts([text[: self.longest_text] for text in texts]):
            with self._tokenizing:
                encoded = self._tokenizer(part, truncation=True, max_length=self.max_tokens)
            for name, values in encoded.items():
                tokens.setdefault(name, []).extend(values)
        return tokens

    def _computed(self, tokens: Any, batches: Sequence[list[int]]) -> Generator[np.ndarray]:
        """The vectors of each batch, in order.

        Several batches are computed side by side, a thread each: a thread of its own needs no other for its next
        matrix product, where threads that share one wait for the slowest, many times a layer.
        """
        threads = self.threads or torch.get_num_threads()
        workers = min(threads, len(batches))
        if workers == 1:
            for rows in batches:
                with self._turn, _torch_threads(threads):
                    vectors = self._forward(tokens, rows)
                yield vectors
            return
        # torch keeps its number of threads for each thread, and the last one set for those to come
        with _torch_threads(1):
            pool = ThreadPoolExecutor(workers, "embedding", initializer=torch.set_num_threads, initargs=(1,))
            try:
                yield from pool.map(lambda rows: self._forward(tokens, rows), batches)
            finally:
                pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, only batches under way are finished

    def _forward(self, tokens: Any, rows: Sequence[int]) -> np.ndarray:
        """The unit vectors of the texts in these rows, float32 [len(rows), dim]."""
        with torch.inference_mode():
            batch = {name: self._padded(name, [values[row] for row in rows]) for name, values in tokens.items()}
            hidden = self._model(**batch).last_hidden_state  # [batch, tokens, dim]
            return _pooled(hidden, batch["attention_mask"], self._pooling).numpy()

    def _padded(self, name: str, rows: list[list[int]]) -> torch.Tensor:
        # the mask and token types pad with 0; what stands under the mask is never read, but must be a token
        filler = (self._tokenizer.pad_token_id or 0) if name == "input_ids" else 0
        padded = torch.full((len(rows), max(map(len, rows))), filler, dtype=torch.long)
        for line, values in zip(padded, rows, strict=True):
            line[: len(values)] = torch.tensor(values)
        return padded


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in parts of at most TOKENISED_CHARACTERS, unless one text alone is longer."""
    part: list[str] = []
    characters = 0
    for text in texts:
        if part and characters + len(text) > TOKENISED_CHARACTERS:
            yield part
            part, characters = [], 0
        part.append(text)
        characters += len(text)
    if part:
        yield part


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Unit vectors [batch, dim] of the tokens' vectors [batch, tokens, dim]; `mask` is 0 where there is no token."""
    if pooling == "cls":
        sentence = hidden[:, 0]
    else:
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        sentence = (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
    return torch.nn.functional.normalize(sentence, dim=-1)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of texts in batches of like length, at most BATCH_TOKENS with their padding unless one text alone is longer.

    The longest come first, so that memory peaks at once and the last batches, which some threads wait for, are short.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # the first of a batch is its longest, so it sets the padded width
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Run with `count` torch threads; OpenMP keeps the number per calling thread, so it is set where we compute."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Show no load bars and no notes on weights that a sentence model does not use."""
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
