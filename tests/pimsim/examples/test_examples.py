"""The examples, as small as they can be: they run, draw, and say what physics lets one expect."""

from collections import defaultdict

import pytest

from pimsim.examples import cache_interval, placement, stacks_or_dimms


def drawn(out, *names):
    return all((out / f"{name}.{ending}").stat().st_size > 5000 for name in names for ending in ("svg", "png"))


def test_units_at_the_banks_are_the_fastest_at_any_length(tmp_path):
    results = placement.study(tmp_path, longest=2048, workers=1)
    times = {(row["level"], row["length"]): row["time_us"] for row in results.rows}
    assert len(times) == 12
    for length in (256, 512, 1024, 2048):
        assert times["bank", length] < times["bg", length] < times["buffer", length]
    assert drawn(tmp_path, "placement")


@pytest.mark.full(proof="test_the_vertex_cache_hits_only_where_there_is_one")
def test_a_larger_vertex_cache_is_hit_more_often(tmp_path):
    results = cache_interval.study(tmp_path, requests=4, workers=1)
    assert not results.errors
    hits = defaultdict(dict)
    for row in results.rows:
        hits[row["workload.retrieve_every"]][row["dimm.rpm.cache_bytes"]] = row["vertex_cache_hit_ratio"]
    assert set(hits) == {0, 64, 32, 16}
    for ratios in hits.values():
        assert ratios[0] == 0 < ratios[1 << 15] < ratios[1 << 19] < ratios[1 << 23]
    assert drawn(tmp_path, "cache_interval", "hits")


def test_a_sum_is_spent_on_stacks_or_on_dimms(tmp_path):
    results = stacks_or_dimms.study(tmp_path, requests=4, budgets=(15_000, 25_000), workers=1)
    assert not results.errors
    costs, rates = defaultdict(list), {}
    for row in results.rows:
        costs[row["name"]].append(row["cost_usd"])
        rates[row["name"], row["retrieval.devices"]] = row["throughput_rps"]
    # all of the sum is spent, but for what a stack costs
    assert 14_000 < min(costs["15k$"]) <= max(costs["15k$"]) <= 15_000
    assert 24_000 < min(costs["25k$"]) <= max(costs["25k$"]) <= 25_000
    assert rates["25k$", 1] > rates["25k$", 3]  # generation holds, so that stacks are worth more
    assert rates["25k$", 1] > rates["15k$", 1]
    assert drawn(tmp_path, "stacks_or_dimms")
