"""`ragcache.replay`: a workload replayed in virtual time by one call, with settings by name."""

import pytest

import ragcache
from ragcache.errors import ConfigError, TraceError
from ragcache.policy import LRU
from ragcache.replay.report import ReplayReport
from ragcache.replay.run import simulate
from ragcache.replay.service import SimulatedSettings
from tests.props.small_replays import PREFILL, workload

REQUESTS = workload((0.0, "ab"), (1.0, "ab"), (2.0, "ba"), output=3)


def test_it_is_what_simulate_does_with_those_settings(tmp_path):
    settings = {"host_cache": 1 << 30, "policy": "lru", "max_batch": 2, "speculate": True}
    report = ragcache.replay(REQUESTS, **settings)
    assert isinstance(report, ReplayReport)
    assert report.as_json() == simulate(REQUESTS, SimulatedSettings(**settings), system_tokens=50).as_json()
    REQUESTS.write(tmp_path / "w.jsonl")
    assert ragcache.replay(tmp_path / "w.jsonl", **{**settings, "host_cache": "1GiB"}).as_json() == report.as_json()


def test_the_other_arguments_are_those_of_simulate():
    report = ragcache.replay(REQUESTS, system_tokens=10, prefill=PREFILL, timeout_ms=1)
    assert report.as_dict()["outcomes"] == {"expired": 3}
    assert report.as_dict()["config"]["system_tokens"] == 10


def test_a_policy_may_be_a_class():
    by_class, by_name = (
        ragcache.replay(REQUESTS, policy=LRU).as_dict(),
        ragcache.replay(REQUESTS, policy="lru").as_dict(),
    )
    assert by_class.pop("config") == by_name.pop("config") | {"policy": "ragcache.policy.lru:LRU"}
    assert by_class == by_name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hardwear": "a10g"}, "unknown setting 'hardwear'; known are hardware, model, device_cache"),
        ({"policy": "best"}, "there is no policy 'best'; known are lru"),
        ({"policy": "best"}, "wtinylfu, none, and module:Class for your own"),
        ({"host_cache": "much"}, "'much' is not a size"),
        ({"max_batch": 0}, "max_batch must be at least 1, not 0"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, message):
    with pytest.raises(ConfigError) as caught:
        ragcache.replay(REQUESTS, **settings)
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"cannot read .*none"):
        ragcache.replay(str(tmp_path / "none"))
