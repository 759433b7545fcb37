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
    outcome = result(name, workload__retrieve_every=every)
    report, described = outcome.as_dict(), outcome.config
    for unit in UNITS:
        assert report[f"busy_{unit}_s"] + report[f"idle_{unit}_s"] == pytest.approx(report["makespan_s"], rel=1e-12)
        assert 0 < report[f"busy_{unit}_s"] <= report["makespan_s"]
    parts = [nj for key, nj in report.items() if key.startswith("energy_nj_") and key != "energy_nj_total"]
    assert report["energy_nj_total"] == pytest.approx(sum(parts), rel=1e-12)
    assert min(parts) >= 0
    assert sum(part > 0 for part in parts) > 5
    of_each = described.dimm.vectors.bytes + described.dimm.graph.k * described.dimm.dpm.result_bytes
    assert report["bytes_retrieval_link"] == report["retrievals"] * of_each * described.retrieval.devices
    # the first token comes with the prefill
    assert report["tokens"] == described.workload.requests * described.workload.output_tokens
    rounds = 1 + (described.workload.output_tokens - 1) // every if every else 1
    assert report["retrievals"] == described.workload.requests * rounds == len(outcome.retrievals)


@pytest.mark.parametrize("p", [False, True])
@pytest.mark.parametrize("effort", [1.0, 3000.0])
def test_every_token_is_prefilled_and_sent_once_but_for_what_is_handed_on_in_vain(p, effort):
    outcome = result("heterrag-base", optimisations__p=p, search__effort=effort, search__hops=160)
    stated, counts = outcome.config.workload, outcome.counts
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
    outcome = result(name, workload__retrieve_every=every)
    for unit in UNITS:
        spans = sorted((begin, end) for on, _, begin, end in outcome.spans if on == unit)
        assert spans
        assert all(before[1] <= after[0] + 1e-12 for before, after in itertools.pairwise(spans))
        assert sum(end - begin for begin, end in spans) == pytest.approx(outcome.busy[unit], rel=1e-9)


@pytest.mark.parametrize("name", ["heterrag", "cpu-gpu-v100"])
def test_equal_configurations_give_equal_results(name):
    described = config(name, workload__retrieve_every=16, workload__length_spread=0.5)
    assert run(described).as_dict() == run(described).as_dict()
    other = config(name, workload__retrieve_every=16, workload__length_spread=0.5, workload__seed=2)
    assert run(other).makespan != run(described).makespan


def test_requests_that_come_apart_wait_only_for_those_before_them():
    outcome = result("cpu-gpu-v100", workload__rate_rps=0.01)
    alone = result("cpu-gpu-v100", workload__requests=1)
    assert outcome.latencies.min() == pytest.approx(float(alone.latencies[0]), rel=1e-3)


def test_memory_takes_its_standby_power_whether_it_works_or_not():
    outcome = result("heterrag-base")
    ranks = 8 * outcome.config.dimm.organisation.all_ranks
    table = outcome.config.dimm.memory_energy
    refreshes = outcome.makespan / (12480 * 0.625e-9)  # tREFI
    watts = ranks * table["background"].value
    expected = watts * outcome.makespan * 1e9 + ranks * refreshes * table["refresh"].value
    assert outcome.energy["retrieval_standby"] == pytest.approx(expected, rel=1e-9)
    assert "retrieval_dram_background" not in outcome.energy  # it would be paid twice


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
        outcome = result(name)
        assert sum(evaluation.energy_parts(outcome).values()) == pytest.approx(evaluation.energy(outcome), rel=1e-12)
        assert min(evaluation.energy_parts(outcome).values()) > 0
