"""Live parts, as fixtures: the demo's index and model, and a tiny index and model for the rest, on the CPU.

A plugin of pytest, loaded by the conftests of the folders that use it, for it imports torch. The tiny model has random
weights, large enough that attention matters, and no end-of-text token, so that an answer is exactly as long as asked.
Its index is small but made by the real embedder.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.demo_corpus import demo_index as build_demo_index
from ragcache.engine.torch.engine import TorchEngine
from ragcache.engine.torch.model import TorchModel
from ragcache.model.checkpoint import Checkpoint
from ragcache.policy import POLICIES
from ragcache.prompt.template import PromptTemplate
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from ragcache.service.settings import ServiceSettings
from ragcache.service.wire import KvParts, Parts, wire
from retrieval.embedder import Embedder
from retrieval.index import build_index
from retrieval.index_files import IndexCheck
from retrieval.retriever import Retriever, SearchStage

TOPICS = {
    "otter": "Otters hold hands while they sleep, so that the river does not carry them apart.",
    "glacier": "A glacier is a river of ice that flows downhill under its own weight, metres in a year.",
    "violin": "A violin has four strings tuned in fifths; its body amplifies the vibration of the bridge.",
    "volcano": "Volcanoes erupt when gas dissolved in magma comes out of solution and drives it upward.",
    "bread": "Bread rises because yeast turns sugar into carbon dioxide, which the gluten holds as bubbles.",
    "moon": "The moon keeps one face to the earth: its rotation takes as long as its orbit, 27 days.",
    "bee": "A honey bee tells the others where flowers are by dancing at an angle to the sun.",
    "tide": "Tides are highest when sun, moon and earth stand in a line, at new and at full moon.",
    "piano": "A piano's hammer leaves the string at once, so that the string can go on sounding.",
    "desert": "Deserts are cold at night because dry air holds little heat once the sun has set.",
    "coral": "Coral reefs are built by animals that live with algae, which feed them with sugar.",
    "rust": "Iron rusts in the presence of water and oxygen; salt makes the reaction faster.",
    "kite": "A kite flies because its tilted surface deflects the wind downward.",
    "owl": "Owls fly silently: a comb on the edge of their feathers breaks up the turbulence.",
    "cheese": "Cheese ages as bacteria and moulds break its proteins and fats into aromas.",
    "compass": "A compass needle lines up with the magnetic field of the earth, not with its axis.",
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def demo_index() -> Path:
    """Folder of the index over this machine's Python documentation."""
    return build_demo_index()


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """The default model, converted."""
    return Checkpoint.resolve("default")


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> TorchModel:
    """The default model with its real weights."""
    return TorchModel.load(checkpoint, "cpu")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with ChatML as its chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TOPICS.values(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHATML)


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """Random weights, the same at every call; `changes` to the configuration."""
    settings: dict[str, Any] = {
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()


@pytest.fixture(scope="session")
def llama() -> Callable[..., LlamaForCausalLM]:
    return tiny_llama


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """The tiny model as a folder in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_folder: Path) -> Checkpoint:
    return Checkpoint.resolve(str(tiny_folder))


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Checkpoint) -> TorchModel:
    return TorchModel.load(tiny_checkpoint, "cpu")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "docs.jsonl"
    rows = [{"id": name, "title": name.capitalize(), "text": text} for name, text in TOPICS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """Index folder of 16 short documents, one a topic, by the default embedder."""
    folder = tmp_path_factory.mktemp("index") / "tiny"
    build_index(tiny_corpus, folder, "flat", Embedder.load(threads=1), progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_retriever(tiny_index: Path) -> Iterator[Retriever]:
    """Shared by the services of the run, which therefore get a view that does not close it."""
    with Retriever.open(tiny_index, threads=1) as retriever:
        yield retriever


class SlowModel:
    """A model whose forward takes at least `seconds`, so that a test can act while an answer is written."""

    def __init__(self, model: TorchModel, seconds: float) -> None:
        self._model = model
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward(self, steps: Any) -> torch.Tensor:
        time.sleep(self._seconds)
        return self._model.forward(steps)


class _BorrowedRetriever:
    """A retriever that outlives the service which closes it."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    def __len__(self) -> int:
        return len(self._retriever)

    @property
    def check(self) -> IndexCheck:
        return self._retriever.check

    def search_stages(
        self, question: str, k: int, shares: Sequence[float] | None = None, characters: int | None = None
    ) -> Iterator[SearchStage]:
        return self._retriever.search_stages(question, k, shares, characters)

    def close(self) -> None:
        pass


ServiceFactory = Callable[..., RagService]


@pytest.fixture
def make_service(
    tiny_model: TorchModel, tiny_checkpoint: Checkpoint, tiny_retriever: Retriever
) -> Iterator[ServiceFactory]:
    """Makes services over the tiny model. After the test, each has its memory back and its books in order."""
    services: list[RagService] = []

    def make(
        *,
        cache_tokens: int = 20_000,
        keep: bool = True,
        step_seconds: float = 0.0,
        model: Any = None,
        prefill_chunk: int = 512,
        max_doc_tokens: int = 256,
        max_question_tokens: int = 64,
        **limits: int,
    ) -> RagService:
        template = PromptTemplate.load(
            tiny_checkpoint, max_doc_tokens=max_doc_tokens, max_question_tokens=max_question_tokens
        )
        chosen = model or (SlowModel(tiny_model, step_seconds) if step_seconds else tiny_model)
        size = tiny_model.layout.bytes_per_token
        settings = ServiceSettings(
            device_cache=cache_tokens * size,
            policy=POLICIES["lru"],
            keeps=keep,
            prefill_chunk=prefill_chunk,
            **{"top_k": 2, "max_tokens": 16} | limits,  # type: ignore[arg-type]
        )
        parts = Parts(
            finder=RetrieverFinder(_BorrowedRetriever(tiny_retriever), template),  # type: ignore[arg-type]
            engine=TorchEngine(chosen, prefill_chunk=prefill_chunk, threads=1),
            kv=KvParts(bytes_per_token=size),
            model_name="tiny",
        )
        service = wire(settings, parts)
        services.append(service)
        return service

    yield make
    for service in services:
        service.close()
        service.cache.check_integrity()
        assert service.cache.balance().held == 0, "a request ended and its memory did not come back"
