"""What is asked is moved, time is busy or idle, energy is the sum of its parts, and equal runs are equal."""

import itertools

import pytest

from pimsim import fields
from pimsim.paper import evaluation
from pimsim.system.report.result import UNITS
from pimsim.system.run.simulation import run
from tests.pimsim.props.systems import config, result

SYSTEMS = fields.shipped("systems")
MODES = (0, 16)


@pytest.mark.parametrize("every", MODES)
@pytest.mark.parametrize("name", SYSTEMS)
def test_bytes_times_and_energy_are_conserved(name, every):
    found = result(name, workload__retrieve_every=every)
    told, asked = found.as_dict(), found.config
    for unit in UNITS:
        assert told[f"busy_{unit}_s"] + told[f"idle_{unit}_s"] == pytest.approx(told["makespan_s"], rel=1e-12)
        assert 0 < told[f"busy_{unit}_s"] <= told["makespan_s"]
    parts = [nj for key, nj in told.items() if key.startswith("energy_nj_") and key != "energy_nj_total"]
    assert told["energy_nj_total"] == pytest.approx(sum(parts), rel=1e-12)
    assert min(parts) >= 0
    of_each = asked.dimm.vectors.bytes + asked.dimm.graph.k * asked.dimm.dpm.result_bytes
    assert told["bytes_retrieval_link"] == told["retrievals"] * of_each * asked.retrieval.devices
    # the first token comes with the prefill
    assert told["tokens"] == asked.workload.requests * asked.workload.output_tokens
    rounds = 1 + (asked.workload.output_tokens - 1) // every if every else 1
    assert told["retrievals"] == asked.workload.requests * rounds == len(found.retrievals)


@pytest.mark.parametrize("p", [False, True])
@pytest.mark.parametrize("effort", [1.0, 3000.0])
def test_every_token_is_prefilled_and_sent_once_but_for_what_is_handed_on_in_vain(p, effort):
    found = result("heterrag-base", optimisations__p=p, search__effort=effort, search__hops=160)
    stated, counts = found.config.workload, found.counts
    prompt = stated.documents * stated.document_tokens + stated.question_tokens
    assert counts["prefilled_tokens"] == stated.requests * prompt + counts["wasted_tokens"]
    assert counts["loaded_tokens"] == 0
    sent = stated.requests * (prompt + stated.output_tokens) + counts["wasted_documents"] * stated.document_tokens
    assert counts["bytes_generation_link"] == sent * 4
    assert (counts["wasted_documents"] > 0) is (counts["wasted_tokens"] > 0) is p


@pytest.mark.parametrize("context", ["changed", "all"])
@pytest.mark.parametrize("g", [False, True])
def test_what_p_computes_beyond_what_is_needed_is_wasted(g, context):
    # one request at a time, so that the tree is the same whenever it is asked
    alone = {"workload__batch": 1, "optimisations__g": g, "workload__context": context, "search__effort": 3000.0}
    base, pipelined = (
        result("heterrag", **alone, workload__retrieve_every=16, optimisations__p=p) for p in (False, True)
    )
    assert base.counts["wasted_tokens"] == base.counts["wasted_documents"] == 0
    assert pipelined.counts["wasted_tokens"] > 0
    needed = pipelined.counts["prefilled_tokens"] - pipelined.counts["wasted_tokens"]
    assert needed == base.counts["prefilled_tokens"]
    in_vain = pipelined.counts["wasted_documents"] * pipelined.config.workload.document_tokens * 4
    assert pipelined.counts["bytes_generation_link"] - in_vain == base.counts["bytes_generation_link"]


@pytest.mark.parametrize("every", MODES)
@pytest.mark.parametrize("name", ["heterrag", "heterrag-base", "cpu-gpu-v100"])
def test_a_unit_does_one_thing_at_a_time(name, every):
    found = result(name, workload__retrieve_every=every)
    for unit in UNITS:
        spans = sorted((begin, end) for on, _, begin, end in found.spans if on == unit)
        assert spans
        assert all(before[1] <= after[0] + 1e-12 for before, after in itertools.pairwise(spans))
        assert sum(end - begin for begin, end in spans) == pytest.approx(found.busy[unit], rel=1e-9)


@pytest.mark.parametrize("name", ["heterrag", "cpu-gpu-v100"])
def test_equal_configurations_give_equal_results(name):
    asked = config(name, workload__retrieve_every=16, workload__length_spread=0.5)
    assert run(asked).as_dict() == run(asked).as_dict()
    other = config(name, workload__retrieve_every=16, workload__length_spread=0.5, workload__seed=2)
    assert run(other).makespan != run(asked).makespan


def test_requests_that_come_apart_wait_only_for_those_before_them():
    found = result("cpu-gpu-v100", workload__rate_rps=0.01)
    alone = result("cpu-gpu-v100", workload__requests=1)
    assert found.latencies.min() == pytest.approx(float(alone.latencies[0]), rel=1e-3)


def test_memory_takes_its_standby_power_whether_it_works_or_not():
    found = result("heterrag-base")
    ranks = 8 * found.config.dimm.organisation.all_ranks
    table = found.config.dimm.memory_energy
    refreshes = found.makespan / (12480 * 0.625e-9)  # tREFI
    watts = ranks * table["background"].value
    expected = watts * found.makespan * 1e9 + ranks * refreshes * table["refresh"].value
    assert found.energy["retrieval_standby"] == pytest.approx(expected, rel=1e-9)
    assert "retrieval_dram_background" not in found.energy  # it would be paid twice


def test_baselines_have_as_much_memory_of_each_kind():
    """HeterRAG, section 5.1. The CPU of the real system has 256 GB."""
    ours, naive, cpu = (result(name) for name in ("heterrag-base", "naive-hbm", "cpu-gpu-v100"))
    ranks = ours.config.dimm.organisation.all_ranks * ours.config.retrieval.devices
    assert naive.config.retrieval.plain_ranks == ranks
    rank = ours.energy["retrieval_standby"] / ours.makespan / ranks
    stacks = naive.energy["generation_standby"] / naive.makespan
    assert naive.energy["retrieval_standby"] / naive.makespan == pytest.approx(ranks * rank + stacks)
    assert cpu.energy["retrieval_standby"] / cpu.makespan == pytest.approx(16 * rank)
    # logic beside HeterRAG's DIMMs, more HBM in place of it
    logic = (ours.area_mm2 - naive.area_mm2) * ours.config.price.logic_usd_a_mm2
    hbm = ours.config.hbm
    stack = hbm.standard.organisation.bytes * hbm.stacks / 1e9 * ours.config.price.hbm_usd_a_gb
    assert naive.cost_usd - ours.cost_usd == pytest.approx(stack - logic)


def test_energy_is_told_by_four_parts():
    for name in ("heterrag", "cpu-gpu-v100", "naive-hbm", "upmem-like"):
        found = result(name)
        assert sum(evaluation.energy_parts(found).values()) == pytest.approx(evaluation.energy(found), rel=1e-12)
        assert min(evaluation.energy_parts(found).values()) > 0
