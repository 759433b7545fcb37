"""A server that ends or is killed leaves KV on disk: the next serves what is its own and whole, and nothing else."""

import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import lmdb
import pytest
import torch

from eval.props.uncached import Uncached, answer_uncached
from ragcache.cli.config import ServeConfig
from ragcache.storage.lmdb_file import BODY, CHUNKS, DATA, HEADERS, chunk_key
from ragcache.storage.record import Header
from tests.server.questions import LENGTHS, OPTIONS, QUESTIONS
from tests.server.tiered_site import ask, cache_of, settled, tier_of

OTTERS, GLACIER = QUESTIONS[:2]


@pytest.fixture
def answers(tiny_index: Path) -> Callable[[Path], dict[str, Uncached]]:
    """What a model answers without a cache."""

    def compute(model: Path) -> dict[str, Uncached]:
        config = ServeConfig(index=tiny_index, model=str(model), cache=False, threads=1, **LENGTHS)
        return answer_uncached(config, QUESTIONS[:3])

    return compute


@pytest.fixture
def kv(tmp_path: Path) -> Path:
    return tmp_path / "kv"


@pytest.fixture
def serve_kv(serve, kv):
    """Serves with a disk cache that outlives the server."""
    return lambda *options, **more: serve(*OPTIONS, "--disk-cache", f"{kv}:16MiB", *options, **more)


@pytest.fixture
def reopen_kv(reopen, kv):
    """As `serve_kv`, in this process."""
    return lambda *options, **more: reopen(*OPTIONS, "--disk-cache", f"{kv}:16MiB", *options, **more)


@pytest.fixture
def written(reopen_kv, uncached) -> int:
    """A server has answered OTTERS and ended; the tokens that a warm prompt computes."""
    serving = reopen_kv()
    with serving.ready() as client:
        ask(client, OTTERS, uncached)
        usage = ask(client, OTTERS, uncached)
    serving.end()
    return usage["computed_tokens"]


def test_what_was_written_is_served_when_reopened(reopen_kv, uncached, written):
    reopened = reopen_kv("--host-cache", "1MiB")
    with reopened.ready() as client:
        assert tier_of(client, "disk")["nodes"] == 3
        usage = ask(client, OTTERS, uncached)
        assert usage["computed_tokens"] == written
        assert usage["cached_tokens"] == {"device": 0, "host": 0, "disk": usage["prompt_tokens"] - written}
        assert ask(client, OTTERS, uncached)["cached_tokens"]["device"] == usage["cached_tokens"]["disk"]
        assert settled(client)["tiers"]["disk"]["failures"] == {}


@pytest.mark.full(proof="test_what_was_written_is_served_when_reopened")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_server_computes_only_the_question(serve_kv, uncached, number):
    """SIGTERM waits for what is to be written, kill -9 is sent when it is."""
    first = serve_kv("--host-cache", "1MiB")
    with first.ready() as client:
        cold = ask(client, OTTERS, uncached)
        assert cold["computed_tokens"] == cold["prompt_tokens"]
        warm = ask(client, OTTERS, uncached)
        if number == signal.SIGKILL:
            assert settled(client)["tiers"]["disk"]["nodes"] == 3
    assert first.end(number)[0] == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    second = serve_kv("--host-cache", "1MiB")
    with second.ready() as client:
        assert "with 3 segments" in second.errors
        cached = warm["cached_tokens"]["device"]
        assert ask(client, OTTERS, uncached) == warm | {"cached_tokens": {"device": 0, "host": 0, "disk": cached}}
        assert ask(client, OTTERS, uncached) == warm
        disk = settled(client)["tiers"]["disk"]
        assert (disk["hits"], disk["hit_tokens"], disk["failures"]) == (3, cached, {})
        other = ask(client, GLACIER, uncached)  # only the system prompt is known
        assert 0 < other["cached_tokens"]["device"] < cached
    assert second.end()[0] == 0
    assert "Traceback" not in first.errors + second.errors


def other_model(folder: Path, llama, tokenizer) -> Path:
    """The same shape, other weights."""
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("what", ["model", "dtype"])
def test_kv_of_another_model_or_dtype_is_kept_and_never_served(
    reopen_kv, answers, uncached, llama, tiny_tokenizer, tiny_folder, tmp_path, what
):
    model = other_model(tmp_path / "other", llama, tiny_tokenizer) if what == "model" else tiny_folder
    options = ["--kv-store-dtype", "float16"] if what == "dtype" else []
    expected = answers(model)
    serving = reopen_kv(*options, model=model)
    with serving.ready() as client:
        disk = tier_of(client, "disk")
        assert (disk["nodes"], disk["bytes"]["cached"]) == (0, 0)
        others = client.get("/v1/cache").json()["others"]
        assert (others["records"], others["removed"]) == (3, 0)
        assert others["bytes"] > 0
        assert "3 segments" in serving.errors
        usage = ask(client, OTTERS, expected)
        assert usage["computed_tokens"] == usage["prompt_tokens"]
    serving.end()
    serving = reopen_kv()
    with serving.ready() as client:  # the first one finds all that it had
        assert ask(client, OTTERS, uncached)["cached_tokens"]["disk"] > 0
    serving.end()
    serving = reopen_kv("--disk-cache-replace", "true", *options, model=model)
    with serving.ready() as client:
        assert client.get("/v1/cache").json()["others"]["records"] == 0
        assert "are removed, as --disk-cache-replace says" in serving.errors
    serving.end()
    if what == "model":
        assert expected[OTTERS] != uncached[OTTERS]


def flip_payload(kv: Path, number: int) -> None:
    """Flips a bit in the KV of record `number`, in the order of writing."""
    with lmdb.open(str(kv), max_dbs=4, readonly=True, lock=False) as env, env.begin() as txn:
        with txn.cursor(env.open_db(HEADERS, txn)) as cursor:
            sizes = {header.number: header.size for header in (Header.unpack(key, value) for key, value in cursor)}
        payload = txn.get(chunk_key(number, BODY), db=env.open_db(CHUNKS, txn))
    assert sizes[number] >= len(payload) > 100
    data = bytearray((kv / DATA).read_bytes())
    places = [offset for offset in range(0, len(data), 16) if data[offset : offset + len(payload)] == payload]
    assert places
    for offset in places:  # it may stand in a page that is no longer in use, too
        data[offset + len(payload) // 2] ^= 1
    (kv / DATA).write_bytes(data)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_flipped_kv_is_found_computed_anew_and_gone(reopen_kv, kv, written, uncached, number):
    """Record `number` is damaged (system prompt, first or second document): only what stands before it is served."""
    flip_payload(kv, number)
    serving = reopen_kv()
    with serving.ready() as client:
        assert tier_of(client, "disk")["nodes"] == 3
        usage = ask(client, OTTERS, uncached)
        # what came from the disk before the damage was found is on the device when the request asks anew
        assert (sum(usage["cached_tokens"].values()) > 0) == (number > 1)
        assert usage["computed_tokens"] > written
        disk = settled(client)["tiers"]["disk"]
        assert disk["failures"] == {"checksum": 1}
        assert disk["nodes"] == 3  # written anew
    serving.end()
    with reopen_kv().ready() as client:
        assert ask(client, OTTERS, uncached)["computed_tokens"] == written
        assert tier_of(client, "disk")["failures"] == {}


@pytest.mark.parametrize("left", [0.5, 0.0])
def test_a_truncated_file_is_given_up_with_a_warning(reopen_kv, kv, written, uncached, left):
    size = (kv / DATA).stat().st_size
    with (kv / DATA).open("r+b") as file:
        file.truncate(int(size * left))
    serving = reopen_kv()
    with serving.ready() as client:
        assert "the cached KV is discarded and the file made anew" in serving.errors
        usage = ask(client, OTTERS, uncached)
        assert usage["computed_tokens"] == usage["prompt_tokens"] > written
        assert ask(client, OTTERS, uncached)["computed_tokens"] == written
        assert settled(client)["tiers"]["disk"]["nodes"] == 3
    serving.end()
    assert "Traceback" not in serving.errors
    with reopen_kv().ready() as client:
        assert ask(client, OTTERS, uncached)["computed_tokens"] == written


@pytest.mark.full(proof="test_a_second_opening_is_refused_in_this_process_and_in_another")
def test_a_second_server_on_one_disk_cache_is_refused_in_a_line(serve_kv, kv, uncached):
    first = serve_kv()
    with first.ready() as client:
        second = serve_kv()
        assert second.process.wait(60) == 1
        second._reader.join()
        assert second.lines[-1] == (
            f"ragcache serve: {kv}: another process (pid {first.process.pid}) has this disk tier open; stop it or name "
            "another folder\n"
        )
        assert "Traceback" not in second.errors
        ask(client, OTTERS, uncached)
        assert settled(client)["tiers"]["disk"]["nodes"] == 3


def test_float16_from_end_to_end(reopen_kv, uncached):
    """Half the bytes on host and disk, and the same answers: no two logits of theirs are near each other."""
    serving = reopen_kv("--host-cache", "1MiB")
    with serving.ready() as client:
        ask(client, OTTERS, uncached)
        exact = settled(client)["tiers"]["disk"]["bytes"]["cached"]
        tokens = tier_of(client, "device")["bytes"]["cached"]
        client.delete("/v1/cache")
    serving.end()
    half = ["--kv-store-dtype", "float16", "--device-cache", "150KiB", "--host-cache", "1MiB"]
    serving = reopen_kv(*half)
    with serving.ready() as client:
        for question in QUESTIONS[:3]:  # the device has room for one prompt: the others go to the host
            ask(client, question, uncached)
        usage = ask(client, OTTERS, uncached)
        assert usage["cached_tokens"]["host"] > 0
        body = settled(client)
        records = body["moves"]["to_disk"]
        assert records["moves"] == 7
        assert records["bytes"] / 7 < 0.75 * exact / 3  # a few pages a record are not KV
        moved = body["moves"]["device_to_host"]
        assert moved["bytes"] > 0
        assert body["tiers"]["host"]["bytes"]["cached"] < tokens * 7 / 3
    serving.end()
    with reopen_kv(*half).ready() as client:
        assert ask(client, OTTERS, uncached)["cached_tokens"]["disk"] > 0


@pytest.mark.full(proof="test_what_was_written_is_served_when_reopened")
@pytest.mark.real
def test_the_default_model_starts_warm(serve, tmp_path, demo_index):
    options = ["--disk-cache", f"{tmp_path / 'kv'}:256MiB", "--max-doc-tokens", "200", "--max-tokens", "8"]
    question = "How do I sort a list of dictionaries by one of their keys?"

    def answered(client: httpx.Client) -> tuple[str, dict[str, int]]:
        body = client.post("/v1/query", json={"question": question}).json()
        usage = body["usage"]
        assert usage["computed_tokens"] + sum(usage["cached_tokens"].values()) == usage["prompt_tokens"]
        return body["answer"], {"computed": usage["computed_tokens"], **usage["cached_tokens"]}

    first = serve(*options, model="default", index=demo_index)
    with first.ready() as client:
        answer, cold = answered(client)
        again, warm = answered(client)
        assert again == answer
        assert cold["computed"] > 5 * warm["computed"]
        assert settled(client)["tiers"]["disk"]["nodes"] == 3
    first.end(signal.SIGKILL)
    with serve(*options, model="default", index=demo_index).ready() as client:
        assert cache_of(client)["tiers"]["disk"]["nodes"] == 3
        expected = {"computed": warm["computed"], "device": 0, "host": 0, "disk": warm["device"]}
        assert answered(client) == (answer, expected)
