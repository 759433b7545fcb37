"""vLLM's free blocks leave in the policy's order, not in that of their last use."""

import pytest

from tests.vllm.site import document

HOT = document(0, 256)


def hits_after_scan(ours):
    """Tokens still on the device of a document that was used four times, after a scan over the whole device."""
    for _ in range(4):
        ours.ask([HOT], tokens=1)
    for seed in range(1, 9):
        ours.ask([document(seed, 256)], tokens=1)
    return ours.ask([HOT], tokens=1).cached["device"]


@pytest.mark.parametrize(("policy", "stays"), [("pgdsf", True), ("lfu", True), ("lru", False)])
def test_what_the_policy_values_stays(site, policy, stays):
    ours = site(policy=policy, blocks=41)  # 40 to use, of which a prompt takes 11
    assert (hits_after_scan(ours) > 200) == stays
    assert ours.cache.counts()["device"].evictions > 0


def test_without_the_device_policy_vllm_does_as_it_does(site):
    ours = site(policy="pgdsf", blocks=41, device_policy=False)
    assert hits_after_scan(ours) < 200


def test_the_books_follow_what_vllm_takes(site):
    ours = site(blocks=41)
    device = ours.cache.hierarchy.device
    for seed in range(12):
        ours.ask([document(seed % 5, 256)], tokens=1)
        on_device = [node for node in ours.cache.tree.nodes() if node.kv is not None]
        assert device.nodes == len(on_device)
        blocks = [block.block_id for node in on_device for block in node.kv.blocks]
        assert len(set(blocks)) == len(blocks) <= 40  # no block is booked twice
    assert device.counts.evictions > 0
    assert ours.core.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == 40
