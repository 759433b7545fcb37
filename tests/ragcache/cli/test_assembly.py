"""A service is put together from its settings, or refused in a line and nothing stays open."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from ragcache.cli.assembly.torch import assemble
from ragcache.cli.config import ServeConfig
from ragcache.errors import ConfigError, ModelError
from retrieval.errors import RetrievalError
from tests.props.asking import ask, run


def assembled(tiny_index, tiny_folder, **settings: Any) -> ServeConfig:
    return ServeConfig(index=tiny_index / "faiss.idx", model=str(tiny_folder), **settings)


def test_a_service_is_put_together_from_settings(tiny_index, tiny_folder):
    service = assemble(assembled(tiny_index, tiny_folder, max_tokens=5, device_cache=1 << 20, threads=1))
    try:
        answer = run(ask(service))
        assert (service.model_name, service.corpus_size) == ("tiny-llama", 16)
        assert (answer.usage.completion_tokens, service.cache.capacity) == (5, 1 << 20)
    finally:
        service.close()
    service.cache.check_integrity()
    assert service.cache.balance().held == 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_tokens": 8192}, ConfigError, "max_tokens is 8192; the model's context is 8192 tokens: choose a number"),
        (
            {"device_cache": 1},
            ConfigError,
            r"device_cache is 1 byte, but a request .* tokens, which take \d+ bytes \(.* KiB\): give device_cache that "
            r"or more, or lower max_question_tokens \(now 512\) or max_tokens \(now 128\)",
        ),
        (
            {"max_question_tokens": 10**30},
            ConfigError,
            "max_question_tokens is 10*; the model's context is 8192 tokens",
        ),
        ({"disk_cache": "/dev/null:1GiB", "model": "/none"}, ConfigError, r"^/dev/null: .* \(it is not a folder\)"),
        ({"model": "/no/such/model"}, ModelError, "no model at /no/such/model"),
        ({"index": "/no/such/index/faiss.idx"}, RetrievalError, "/no/such/index"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_nothing_stays_open(tiny_index, tiny_folder, settings, error, message):
    before = set(threading.enumerate())
    with pytest.raises(error, match=message):
        assemble(dataclasses.replace(assembled(tiny_index, tiny_folder), **_paths(settings)))
    assert {thread for thread in threading.enumerate() if thread.name.startswith("torch-engine")} <= before


def test_a_top_k_above_the_corpus_warns_of_what_it_is_cut_to(tiny_index, tiny_folder, caplog):
    assemble(assembled(tiny_index, tiny_folder, top_k=10**30, threads=1)).close()
    [warning] = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warning.startswith("a question over 16 long documents may need 17")


def _paths(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: Path(value) if name == "index" else value for name, value in settings.items()}
