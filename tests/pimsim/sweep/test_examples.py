"""The examples, as small as they can be: they run, draw, and say what physics lets one expect."""

from pimsim.examples import cache_interval, placement, stacks_or_dimms


def drawn(out, name):
    return all((out / f"{name}.{ending}").stat().st_size > 5000 for ending in ("svg", "png"))


def test_units_at_the_banks_are_the_fastest_at_any_length(tmp_path):
    front = placement.study(tmp_path, longest=2048, workers=1)
    assert [(row["level"], row["length"]) for row in front.rows()] == [("bank", 2048 >> at) for at in range(4)]
    assert drawn(tmp_path, "placement")


def test_a_larger_vertex_cache_is_on_the_front_only_if_it_is_worth_something(tmp_path):
    front = cache_interval.study(tmp_path, requests=4, workers=1)
    assert not front.results.errors
    sizes = [row["dimm.rpm.cache_bytes"] for row in front.rows()]
    assert sizes[0] == 0
    assert sizes == sorted(set(sizes))
    # whoever retrieves once waits least for it
    assert {row["workload.retrieve_every"] for row in front.rows()} == {0}
    assert drawn(tmp_path, "cache_interval")


def test_more_money_buys_more_throughput(tmp_path):
    front = stacks_or_dimms.study(tmp_path, requests=4, workers=1)
    assert not front.results.errors
    rates = [row["throughput_rps"] for row in front.rows()]
    assert rates == sorted(rates)
    assert len(rates) >= 3
    assert drawn(tmp_path, "stacks_or_dimms")
