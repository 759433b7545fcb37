"""A disk cache outlives vLLM, and serves no other model, dtype or layout."""

from ragcache.storage.lmdb_store import DiskStore
from tests.vllm.site import BLOCK, SYSTEM, document

A, B = document(1, 200), document(2, 180)
WHOLE = (len(SYSTEM) + len(A) + len(B)) // BLOCK * BLOCK


def test_the_next_vllm_answers_from_disk(site, tmp_path):
    first = site(disk_cache=f"{tmp_path}:64MiB")
    wanted = first.ask([A, B]).ids
    assert first.cache.counts()["disk"].insertions == 3
    second = site(disk_cache=f"{tmp_path}:64MiB")
    answered = second.ask([A, B])
    assert (answered.ids, answered.cached) == (wanted, {"device": 0, "disk": WHOLE})
    # from there it went to the host as well
    second.forget_device()
    assert second.ask([A, B]).cached == {"device": 0, "host": WHOLE}
    node = next(iter(second.cache.tree.nodes()))
    assert node.frequency == 3  # of the first process: 1


def test_another_dtype_finds_nothing(site, tmp_path):
    first = site(disk_cache=f"{tmp_path}:64MiB")
    wanted = first.ask([A, B]).ids
    other = site(disk_cache=f"{tmp_path}:64MiB", dtype="float16")
    assert other.ask([A, B]).cached == {"device": 0}
    back = site(disk_cache=f"{tmp_path}:64MiB")
    answered = back.ask([A, B])
    assert (answered.ids, answered.cached) == (wanted, {"device": 0, "disk": WHOLE})  # the other engine kept it


def test_the_torch_engine_refuses_it(site, tmp_path):
    ours = site(disk_cache=f"{tmp_path}:64MiB")
    ours.ask([A, B])
    (folder,) = tmp_path.iterdir()
    ours.store.close()
    with_torch = DiskStore.open(folder, 64 << 20, b"a torch engine's")
    assert len(with_torch) == 0
    assert with_torch.others.records == 3
    with_torch.close()
