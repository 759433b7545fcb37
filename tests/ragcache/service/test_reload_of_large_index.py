"""A reload swaps in an index that is checked to its last byte, however large: one that is damaged never takes over."""

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.engine.torch.engine import TorchEngine
from ragcache.policy import LRU
from ragcache.prompt.template import PromptTemplate
from ragcache.service.limits import Limits
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService
from retrieval.errors import SearchFailed
from retrieval.index_files import IndexCheck
from retrieval.retriever import Retriever
from tests.props.asking import OTTERS, ask, run
from tests.retrieval.damage import DATA, Damage, flipped, without_digests, zeroed


@pytest.fixture
def index(tiny_index: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_index, tmp_path / "index")


@pytest.fixture
def service(index: Path, tiny_checkpoint, tiny_model, monkeypatch: pytest.MonkeyPatch) -> Iterator[RagService]:
    """A service for which every file of the next index is a large one."""
    template = PromptTemplate.load(tiny_checkpoint, max_doc_tokens=64, max_question_tokens=64)
    finder = RetrieverFinder(Retriever.open(index, threads=1), template)
    size = tiny_model.layout.bytes_per_token
    cache = KnowledgeCache(2000 * size, size, LRU())
    service = RagService(finder, cache, TorchEngine(tiny_model, threads=1), Limits(top_k=2, max_tokens=4))
    monkeypatch.setattr(IndexCheck.__init__, "__defaults__", (0,))
    yield service
    service.close()


def replace_index(folder: Path, damage: Damage = lambda _: None) -> None:
    """Puts a copy in the folder's place, as an operator does. The one in use keeps its own files."""
    shutil.copytree(folder, folder.parent / "new")
    damage(folder.parent / "new")
    folder.rename(folder.parent / "before")
    (folder.parent / "new").rename(folder)


def old_and_damaged(folder: Path) -> None:
    """An index of the time before manifests had digests: its documents are read through instead."""
    without_digests(folder)
    zeroed(DATA, 3, 2)(folder)


@pytest.mark.parametrize("damage", [flipped("faiss.idx", 0.9), flipped(DATA, 1), zeroed(DATA, 3, 2), old_and_damaged])
def test_a_large_index_that_is_damaged_leaves_the_one_before(service, index, caplog, damage):
    async def scenario() -> None:
        before, finder = await ask(service, OTTERS), service.finder
        replace_index(index, damage)
        await service.reload()
        assert service.finder is finder
        assert (service.stats.reloads, service.stats.failed_reloads) == (0, 1)
        assert service.finder.index_state == ("ok", "")
        after = await ask(service, OTTERS)
        assert (after.token_ids, after.documents) == (before.token_ids, before.documents)
        assert service.health.state == "degraded"
        assert str(index) in service.health.conditions()["search"].message

    run(scenario())
    assert [line for line in caplog.messages if line.startswith("the index was not reloaded")]


def test_a_large_index_is_ready_and_whole_when_it_takes_over(service, index, caplog):
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        finder = service.finder
        replace_index(index)
        await service.reload()
        assert service.finder is not finder
        assert service.finder.index_state == ("ok", "")
        assert service.health.state == "ok"
        await ask(service, OTTERS)

    run(scenario())
    checked, reloaded = [line for line in caplog.messages if "of the index are" in line or "reloaded in" in line]
    assert "are what was built" in checked
    assert "reloaded in" in reloaded


def test_a_server_that_stops_does_not_wait_for_the_check(service, monkeypatch):
    monkeypatch.setattr(IndexCheck, "start", lambda _: None)  # it never ends
    monkeypatch.setattr(IndexCheck, "wait", lambda check, _: time.sleep(0.01) or not check.pending)
    closed = threading.Event()
    close = Retriever.close
    monkeypatch.setattr(Retriever, "close", lambda retriever: (close(retriever), closed.set()))

    async def scenario() -> None:
        reload = asyncio.create_task(service.reload())
        await asyncio.sleep(0.1)
        assert not reload.done()
        reload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reload

    run(scenario())
    assert closed.wait(60)
    with pytest.raises(SearchFailed, match="not opened anew"):
        service.finder.reopened(lambda: True)  # type: ignore[attr-defined]
