"""The connector's own checks at import, against the vLLM that is installed."""

import importlib
import sys

import pytest
from vllm.v1.core.block_pool import BlockPool

from ragcache.engine.vllm import connector, interface
from ragcache.errors import ConfigError, RagCacheError


def test_this_vllm_has_all_that_is_needed():
    assert connector.POOL_LACKS == []


def test_a_vllm_without_a_method_is_refused_at_import(monkeypatch):
    monkeypatch.setattr(interface, "CONNECTOR", {"move_kv": ("blocks",)})
    before = sys.modules.pop("ragcache.engine.vllm.connector")
    try:
        with pytest.raises(RagCacheError, match=r"lacks KVConnectorBase_V1\.move_kv\(blocks\)"):
            importlib.import_module("ragcache.engine.vllm.connector")
    finally:
        sys.modules["ragcache.engine.vllm.connector"] = before


def test_without_the_pools_hook_it_runs_with_lru_and_says_so(site, monkeypatch, caplog):
    monkeypatch.delattr(BlockPool, "unpin_blocks")
    monkeypatch.setattr(connector, "POOL_LACKS", interface.lacking(BlockPool, interface.POOL_ORDER))
    with caplog.at_level("WARNING", logger="vllm.ragcache"):
        ours = site(blocks=48)
    assert "its blocks are evicted by LRU" in caplog.text
    first = ours.ask([list(range(2000, 2200))])
    ours.forget_device()
    again = ours.ask([list(range(2000, 2200))])
    assert (again.ids, again.cached["host"]) == (first.ids, 256)


def test_a_failed_load_must_be_recomputed(site):
    with pytest.raises(Exception, match="kv_load_failure_policy") as caught:
        site(failure_policy="fail")
    assert isinstance(caught.value, ConfigError)
