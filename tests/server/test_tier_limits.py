"""Tiers that are full, too small or emptied: a server's process serves on, is right, and tells what it did."""

import resource
from pathlib import Path

import pytest

from eval.props.uncached import Uncached, answer_uncached
from ragcache.cli.config import ServeConfig
from tests.server.conftest import until
from tests.server.questions import LENGTHS, OPTIONS, QUESTIONS
from tests.server.tiered_site import ask, cache_of, metrics_of, settled, tier_of

MIB = 2**20


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory, llama, tiny_tokenizer) -> Path:
    """A model of 16 KiB of KV a token: 16 MiB, the least that a disk cache may have, hold some 20 documents."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    llama(hidden_size=512, num_hidden_layers=4, num_key_value_heads=4).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide_answers(tiny_index, wide_folder) -> dict[str, Uncached]:
    config = ServeConfig(index=tiny_index, model=str(wide_folder), top_k=3, cache=False, threads=1, **LENGTHS)
    return answer_uncached(config, QUESTIONS)


def balanced(body: dict) -> bool:
    return all(
        size["free"] + size["cached"] + size["held"] == size["total"] and min(size.values()) >= 0
        for size in (tier["bytes"] for tier in body["tiers"].values())
    )


def test_a_disk_that_is_full_makes_room_and_serves_on(reopen, wide_folder, wide_answers, tmp_path):
    options = [*OPTIONS, "--top-k", "3", "--device-cache", "8MiB", "--disk-cache", f"{tmp_path / 'kv'}:16MiB"]
    serving = reopen(*options, model=wide_folder)
    with serving.ready() as client:
        for question in QUESTIONS * 2:
            ask(client, question, wide_answers)
        body = settled(client)
        assert balanced(body)
        disk = body["tiers"]["disk"]
        assert disk["evictions"] > 5
        assert disk["nodes"] > 10
        assert disk["failures"] == {}
        assert body["moves"]["to_disk"]["moves"] == disk["insertions"]
    serving.end()
    assert (tmp_path / "kv" / "data.mdb").stat().st_size <= 16 * MIB
    with reopen(*options, model=wide_folder).ready() as client:
        assert tier_of(client, "disk")["nodes"] == disk["nodes"]
        assert sum(ask(client, question, wide_answers)["cached_tokens"]["disk"] for question in QUESTIONS[-3:]) > 0


@pytest.mark.full(proof="test_a_disk_that_runs_full_while_writing")
def test_a_device_without_space_left_for_the_disk_cache(serve, wide_folder, wide_answers, tmp_path):
    """The file may not grow beyond 6 MiB, as if there were no more blocks; later it may."""
    serving = serve(
        *OPTIONS,
        "--top-k",
        "3",
        "--device-cache",
        "8MiB",
        "--disk-cache",
        f"{tmp_path / 'kv'}:64MiB",
        model=wide_folder,
    )
    with serving.ready() as client:
        hard = resource.prlimit(serving.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(serving.process.pid, resource.RLIMIT_FSIZE, (6 * MIB, hard))
        for question in QUESTIONS:
            ask(client, question, wide_answers)
        body = settled(client)
        failed = body["tiers"]["disk"]["failures"]
        assert set(failed) == {"full"}
        assert metrics_of(client)["ragcache_cache_failures_total", "full", "disk"] == failed["full"]
        assert balanced(body)
        assert (tmp_path / "kv" / "data.mdb").stat().st_size <= 6 * MIB
        before = body["moves"]["to_disk"]["moves"]
        resource.prlimit(serving.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        for question in QUESTIONS * 4:
            ask(client, question, wide_answers)
        after = settled(client)
        assert after["moves"]["to_disk"]["moves"] > before + 8
        assert after["tiers"]["disk"]["failures"]["full"] <= failed["full"] + 1
        assert balanced(after)
    assert serving.end()[0] == 0
    assert "Traceback" not in serving.errors


@pytest.mark.parametrize(
    "size",
    ["1KiB", pytest.param("48KiB", marks=pytest.mark.full(proof="test_a_host_that_is_full_serves_on_and_says_so"))],
)
def test_a_host_that_is_full_serves_on_and_says_so(reopen, uncached, size):
    """One smaller than any document, and one that has room for one or two."""
    serving = reopen(*OPTIONS, "--device-cache", "150KiB", "--host-cache", size)
    with serving.ready() as client:
        for question in QUESTIONS * 2:
            ask(client, question, uncached)
        body = settled(client)
        assert balanced(body)
        host = body["tiers"]["host"]
        if size == "1KiB":
            assert host["nodes"] == host["insertions"] == 0
            assert host["failures"]["full"] > 5
        else:
            assert host["nodes"] > 0
            assert host["evictions"] > 5
        assert metrics_of(client).get(("ragcache_cache_failures_total", "full", "host"), 0) == host["failures"].get(
            "full", 0
        )
        until(lambda: cache_of(client)["integrity"]["audits"] > 0)
        assert cache_of(client)["integrity"]["failed"] == 0
    serving.end()


def test_emptied_on_all_tiers_and_for_the_next_server(reopen, uncached, tmp_path):
    options = [
        *OPTIONS,
        "--device-cache",
        "150KiB",
        "--host-cache",
        "150KiB",
        "--disk-cache",
        f"{tmp_path / 'kv'}:16MiB",
    ]
    serving = reopen(*options)
    with serving.ready() as client:
        for question in QUESTIONS:
            ask(client, question, uncached)
        before = settled(client)
        assert all(tier["nodes"] > 0 for tier in before["tiers"].values())
        cleared = client.delete("/v1/cache").json()
        assert cleared == {
            "dropped_nodes": before["nodes"],
            "dropped_bytes": sum(tier["bytes"]["cached"] for tier in before["tiers"].values()),
            "held_bytes": 0,
        }
        after = settled(client)
        assert after["nodes"] == 0
        for name, tier in after["tiers"].items():
            assert tier["nodes"] == 0
            assert tier["bytes"]["free"] == tier["bytes"]["total"]
            assert tier["cleared"] == before["tiers"][name]["nodes"]
        usage = ask(client, QUESTIONS[0], uncached)
        assert usage["computed_tokens"] == usage["prompt_tokens"]
        settled(client)
        client.delete("/v1/cache")
    serving.end()
    with reopen(*options).ready() as client:
        assert tier_of(client, "disk")["nodes"] == 0
        usage = ask(client, QUESTIONS[0], uncached)
        assert usage["computed_tokens"] == usage["prompt_tokens"]


def test_metrics_say_what_the_cache_says(reopen, uncached, tmp_path):
    options = [
        *OPTIONS,
        "--device-cache",
        "150KiB",
        "--host-cache",
        "150KiB",
        "--disk-cache",
        f"{tmp_path / 'kv'}:16MiB",
    ]
    serving = reopen(*options)
    tokens = {"computed": 0, "device": 0, "host": 0, "disk": 0}
    with serving.ready() as client:
        for question in QUESTIONS * 2 + QUESTIONS[:2] * 2:
            usage = ask(client, question, uncached)
            for source, count in {"computed": usage["computed_tokens"], **usage["cached_tokens"]}.items():
                tokens[source] += count
        settled(client)
        until(lambda: cache_of(client)["integrity"]["audits"] > 0)
        body, values = cache_of(client), metrics_of(client)
    for source, count in tokens.items():
        assert values["ragcache_prompt_tokens_total", source] == count
    assert min(tokens.values()) > 0
    for name, tier in body["tiers"].items():
        assert tier["hit_tokens"] == tokens[name]
        assert values["ragcache_cache_nodes", name] == tier["nodes"]
        for state, size in tier["bytes"].items():
            assert values["ragcache_cache_bytes", state, name] == size
        for count in ("hits", "misses", "insertions", "evictions", "losses", "rejections", "refusals"):
            assert values[f"ragcache_cache_{count}_total", name] == tier[count]
        for reason in ("evictions", "rejections", "mirrors", "orphans", "cleared"):
            assert values["ragcache_cache_dropped_total", reason, name] == tier[reason]
        counted = {
            key[1]: value for key, value in values.items() if key[::2] == ("ragcache_cache_failures_total", name)
        }
        assert counted == tier["failures"]
    for direction, moves in body["moves"].items():
        for metric, unit in (("moves", "moves"), ("move_bytes", "bytes"), ("move_seconds", "seconds")):
            assert values[f"ragcache_cache_{metric}_total", direction] == pytest.approx(moves[unit])
    assert body["moves"]["from_disk"]["moves"] + body["moves"]["host_to_device"]["moves"] > 0
    assert values["ragcache_cache_audits_total", "right"] == body["integrity"]["audits"]
    assert values["ragcache_cache_audits_total", "wrong"] == body["integrity"]["failed"] == 0
    assert (values["ragcache_cache_moving",], values["ragcache_cache_unwritten",]) == (0, 0)
