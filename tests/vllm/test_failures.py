"""What fails costs time and never an answer; each failure is counted by its reason."""

import resource

import pytest
from vllm import SamplingParams

from ragcache.errors import RecordError
from tests.vllm.site import BLOCK, SYSTEM, document

A, B = document(1, 200), document(2, 180)
WHOLE = (len(SYSTEM) + len(A) + len(B)) // BLOCK * BLOCK


def failures(site, tier):
    return dict(site.cache.counts()[tier].failures)


def test_damaged_host_bytes_are_recomputed(site):
    ours = site()
    wanted = ours.ask([A, B]).ids
    ours.forget_device()
    damaged = list(ours.store._copies.values())[1]
    damaged.host.buffer[12345] ^= 1
    assert ours.ask([A, B]).ids == wanted
    assert failures(ours, "host") == {"checksum": 1}
    # the copy is gone, another is made, and it is right
    ours.ask([A, B])
    ours.forget_device()
    again = ours.ask([A, B])
    assert again.ids == wanted
    assert again.cached["host"] > 350
    assert failures(ours, "host") == {"checksum": 1}


def test_a_host_without_memory_keeps_nothing(site, monkeypatch):
    ours = site()
    monkeypatch.setattr(ours.store._paged, "empty", _no_memory)
    wanted = ours.ask([A, B]).ids
    assert failures(ours, "host")["memory"] > 0
    ours.forget_device()
    again = ours.ask([A, B])
    assert (again.ids, again.cached) == (wanted, {"device": 0})


def test_a_store_that_breaks_in_the_middle_leaves_no_copy(site, monkeypatch):
    ours = site()
    gather = ours.store._paged.gather
    calls = iter(range(10**6))

    def sometimes(blocks):
        if next(calls) % 2:
            raise RuntimeError("killed in the middle")
        return gather(blocks)

    monkeypatch.setattr(ours.store._paged, "gather", sometimes)
    wanted = ours.ask([A, B]).ids
    assert failures(ours, "host") == {"RuntimeError": 1}
    for _ in range(4):
        ours.forget_device()
        assert ours.ask([A, B]).ids == wanted


def test_a_full_disk_is_counted_and_harmless(site, tmp_path):
    """The file may not grow beyond 1 MiB, as if there were no more blocks; later it may."""
    ours = site(disk_cache=f"{tmp_path}:64MiB", host_cache=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        wanted = ours.ask([A, B]).ids
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert set(failures(ours, "disk")) == {"full"}
    ours.forget_device()
    missed = ours.cache.counts()["disk"].missed_tokens
    again = ours.ask([A, B])
    assert again.ids == wanted
    assert not again.cached.get("disk")
    assert ours.cache.counts()["disk"].missed_tokens == missed + WHOLE
    ours.forget_device()
    assert ours.ask([A, B]).cached == {"device": 0, "disk": WHOLE}


def test_a_disk_too_small_for_all_takes_turns(site, tmp_path):
    ours = site(disk_cache=f"{tmp_path}:24MiB", host_cache="24MiB", blocks=40)
    documents = [document(seed, 150) for seed in range(5)]
    wanted = [ours.ask([d]).ids for d in documents]
    for _ in range(2):
        assert [ours.ask([d]).ids for d in documents] == wanted
    assert ours.cache.counts()["disk"].evictions > 0


def test_damage_on_disk_is_recomputed(site, tmp_path, monkeypatch):
    ours = site(disk_cache=f"{tmp_path}:64MiB", host_cache=0)
    wanted = ours.ask([A, B]).ids
    ours.forget_device()
    monkeypatch.setattr(ours.store._disk, "read_into", _damaged)
    again = ours.ask([A, B])
    assert again.ids == wanted
    assert failures(ours, "disk") == {"checksum": 1}


@pytest.mark.parametrize("where", ["host", "disk"])
def test_a_request_aborted_while_it_loads_gives_all_back(site, tmp_path, where):
    ours = site(disk_cache=f"{tmp_path}:64MiB", host_cache="1GiB" if where == "host" else 0)
    wanted = ours.ask([A, B]).ids
    ours.forget_device()
    engine = ours.llm.llm_engine
    prompt = {"prompt_token_ids": [*SYSTEM, *A, *B, *range(700, 720)]}
    extra = {"kv_transfer_params": {"segments": [len(SYSTEM), len(A), len(B)]}}
    engine.add_request("gone", prompt, SamplingParams(max_tokens=40, temperature=0.0, extra_args=extra))
    engine.step()
    engine.abort_request(["gone"], internal=False)
    while engine.has_unfinished_requests():
        engine.step()
    ours.settle()
    assert ours.cache.hierarchy.device.held_nodes == 0
    assert not ours.cache._tickets
    ours.forget_device()
    assert ours.ask([A, B]).ids == wanted


def _no_memory(blocks):
    raise MemoryError(f"no memory for {blocks} blocks")


def _damaged(key, buffer):
    raise RecordError(f"{key.hex()} of {buffer.nbytes} bytes is damaged", reason="checksum")
