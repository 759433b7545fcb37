"""Fixtures of retrieval: a small corpus, a tiny embedding model on disk, and the real default embedder."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from retrieval.corpus import Document, write_corpus
from retrieval.embedder import Embedder
from retrieval.model_folder import default_folder

WORDS = ["river", "stone", "lantern", "copper", "violin", "harbour", "meadow", "engine", "pepper", "glacier", "compass"]


def documents(count: int) -> list[Document]:
    return [
        Document(f"doc-{n}", f"Title {n}", f"{WORDS[n % 11]} {WORDS[n * n % 11]} number {n} " * (1 + n % 7))
        for n in range(count)
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus file of 60 documents."""
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, documents(60))
    return path


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with the real tokenizer and one random layer, quick to load and to compute."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(default_folder() / name, folder / name)
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 48}')
    return folder


@pytest.fixture(scope="session")
def tiny(embedder_folder: Path) -> Embedder:
    return Embedder.load(str(embedder_folder), threads=1)


@pytest.fixture(scope="session")
def default_embedder() -> Embedder:
    return Embedder.load(threads=1)
