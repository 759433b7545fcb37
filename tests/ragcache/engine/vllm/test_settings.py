"""Settings of the connector, and releases of vLLM: errors name what is wrong."""

import pytest

from ragcache.cost import PolynomialCost
from ragcache.engine.vllm.interface import is_tested, lacking, require
from ragcache.engine.vllm.scheduler.outer_cache import OuterCache
from ragcache.engine.vllm.wire.inventory import Inventory
from ragcache.engine.vllm.wire.settings import ConnectorSettings
from ragcache.errors import ConfigError, RagCacheError
from tests.props.paged_engine import FakePool


def test_settings_are_read():
    settings = ConnectorSettings.of({"host_cache": "2GiB", "disk_cache": "/cache:1GiB", "policy": "arc"})
    assert (settings.host_cache, settings.policy) == (2 << 30, "arc")
    assert settings.disk is not None
    assert settings.disk.size == 1 << 30


def test_a_policy_of_ones_own_is_taken_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "own_order.py").write_text(
        "from ragcache.policy import LRU\n\n\nclass Own(LRU): ...\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = ConnectorSettings.of({"host_cache": "1MiB", "policy": "own_order:Own"})
    cache = OuterCache(settings, FakePool(8), 8, [Inventory(16)], PolynomialCost(50, 0.01), follows_device=True)
    assert [type(tier.policy.own).__name__ for tier in cache.hierarchy.tiers()] == ["Own", "Own"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"host_cahce": "1GiB"}, "unknown setting 'host_cahce'"),
        ({"host_cache": "much"}, "'much' is not a size"),
        ({"policy": "best"}, "there is no policy 'best'; known are lru"),
        ({"policy": "nowhere:Best"}, "policy nowhere:Best: there is no module 'nowhere'"),
        ({"policy": "collections:Counter"}, "Counter is not a policy, it lacks"),
        ({"policy": 3}, "must be of type str"),
        ({"device_policy": "yes"}, "must be of type bool"),
        ({"chunk_tokens": 0}, "chunk_tokens 1 or more"),
        ({"disk_cache": "/cache"}, "PATH:SIZE"),
        ({"admission": "never"}, "admission is one of"),
        ({"host_cache": 0, "device_policy": False}, "has nothing to do"),
    ],
)
def test_wrong_settings_are_named(extra, words):
    with pytest.raises(ConfigError, match=words):
        ConnectorSettings.of(extra)


class Whole:
    def load(self, request, blocks):
        return request, blocks


WANTED = {"load": ("request", "blocks")}


def test_an_interface_that_is_there_passes():
    assert lacking(Whole, WANTED) == []
    require(Whole, WANTED, "0.32.0")


def test_what_an_interface_lacks_is_told():
    assert lacking(Whole, {"load": ("request", "when"), "store": ()}) == ["Whole.load(request, when)", "Whole.store()"]
    with pytest.raises(RagCacheError, match=r"vLLM 9\.9 lacks Whole\.store\(\); this connector works with 0\.32"):
        require(Whole, {"store": ()}, "9.9")


def test_other_releases_are_not_tested():
    assert is_tested("0.32.0")
    assert is_tested("0.32.1")
    assert not is_tested("0.33.0")
