"""Limits: where links cost nothing, a cache holds all, or one device is all there is, the run is its closed form."""

import numpy as np
import pytest

from pimsim.system.generation.engine import generator
from pimsim.system.generation.protocol import Piece, Pieces
from pimsim.system.retrieval.engine import retriever, search
from pimsim.system.run.simulation import run
from tests.pimsim.props.systems import config, result

FREE = {"link__latency_ns": 0.0, "link__gbps": 1e12, "host__query_us": 0.0, "host__merge_ns": 0.0}
ONE = {"workload__requests": 1, "workload__batch": 1}


@pytest.mark.parametrize("name", ["heterrag-base", "cpu-gpu-v100", "naive-hbm", "only-dimm", "upmem-like"])
def test_one_request_without_links_takes_its_search_its_prefill_and_its_tokens(name):
    described = config(name, **FREE, **ONE)
    stated = described.workload
    prompt = stated.documents * stated.document_tokens + stated.question_tokens
    engine = generator(described)
    searched = retriever(described).search(1, False, np.random.default_rng([stated.seed, 5])).done[0]
    pieces = [Piece(stated.document_tokens, i * stated.document_tokens) for i in range(stated.documents)]
    prefill = engine.prefill(
        Pieces.of([*pieces, Piece(stated.question_tokens, prompt - stated.question_tokens)])
    ).seconds
    # token by token, where the run adds up from the first to the last
    tokens = sum(engine.step(1, prompt + i).seconds for i in range(stated.output_tokens - 1))
    outcome = run(described)
    assert outcome.retrievals == pytest.approx([searched], rel=1e-9)
    assert outcome.first_tokens[0] == pytest.approx(searched + prefill, rel=1e-9)
    assert outcome.latencies[0] == pytest.approx(searched + prefill + tokens, rel=1e-3)


def test_links_cost_their_latency_each_way():
    free, slow = (
        result("heterrag-base", **{**FREE, **ONE, "link__latency_ns": latency}).latencies[0] for latency in (0.0, 1e6)
    )
    assert slow - free == pytest.approx(4e-3, rel=1e-6)  # query, result, prompt, answer


def test_a_tree_that_holds_all_leaves_only_questions_to_prefill():
    known = {"workload__popular_documents": 1, "workload__documents": 1, "optimisations__p": False}
    outcome = result("heterrag", **known)
    stated = outcome.config.workload
    # the first request computes the one document, and all others find it, those of its batch included
    assert outcome.counts["prefilled_tokens"] == stated.document_tokens + stated.requests * stated.question_tokens
    assert outcome.counts["loaded_tokens"] == (stated.requests - 1) * stated.document_tokens
    assert outcome.counts["evicted_entries"] == 0


def test_without_room_a_tree_finds_little():
    fits = {"model": "llama2-7b", "workload__requests": 4, "workload__batch": 64, "generation__cache_share": 0.0}
    outcome = result(
        "heterrag", **fits, workload__documents=60, workload__document_tokens=512, workload__output_tokens=2
    )
    assert outcome.counts["evicted_entries"] > 0
    assert outcome.counts["loaded_tokens"] < 0.5 * outcome.counts["prefilled_tokens"]


def test_important_tokens_are_recomputed_where_the_path_is_new():
    swapped = {"workload__popular_documents": 2, "workload__documents": 2, "workload__batch": 1}
    outcome = result("heterrag", **swapped, workload__requests=40, optimisations__p=False)
    stated = outcome.config.workload
    important = round(stated.document_tokens * outcome.config.generation.important_tokens)
    remaining = outcome.counts["prefilled_tokens"] - stated.requests * stated.question_tokens
    # two documents once in full, and both in the other order once by their important tokens
    assert remaining == 2 * stated.document_tokens + 2 * important


def test_one_device_is_the_same_in_either_parallelism():
    tensor, pipeline = (result("heterrag", generation__parallel=kind) for kind in ("tensor", "pipeline"))
    assert tensor.makespan == pipeline.makespan


@pytest.mark.parametrize("kind", ["tensor", "pipeline"])
def test_more_devices_are_faster_but_not_by_more_than_their_number(kind):
    large = {"model": "llama2-7b", "workload__batch": 8, "workload__requests": 8, "generation__parallel": kind}
    one, four = (result("heterrag-base", **large, generation__devices=count) for count in (1, 4))
    assert 1 < one.makespan / four.makespan < 4.0
    assert four.counts["bytes_generation_link"] > one.counts["bytes_generation_link"]


def test_free_links_make_tensor_parallelism_cheaper():
    large = {"model": "llama2-7b", "generation__devices": 4}
    assert result("heterrag-base", **large, **FREE).makespan < result("heterrag-base", **large).makespan


def test_decoding_reads_the_weights_once_a_step_and_the_kv_of_all():
    described = config("cpu-gpu-v100", model="llama2-7b")
    engine, shape, gpu = generator(described), described.model, described.gpu
    bandwidth = gpu.peak_gbps * gpu.bandwidth_share * 1e9
    weights = shape.read_weights * shape.bytes
    assert engine.step(1, 1).seconds == pytest.approx(weights / bandwidth, rel=1e-3)
    more = engine.step(8, 8 * 2048).seconds - engine.step(8, 8 * 1024).seconds
    assert more == pytest.approx(8 * 1024 * shape.kv_token_bytes / bandwidth)
    assert engine.step(1, 1).seconds == pytest.approx(17.3e-3, rel=0.02)  # 13.2 GB at 765 GB/s


def test_a_gpu_driven_from_python_decodes_no_faster_than_it_is_told_to():
    described = config("cpu-gpu-v100-eager", model="gpt2-xl")
    engine = generator(described)
    assert engine.step(1, 1).seconds == pytest.approx(48 * 1.016e-3)
    assert engine.step(8, 8).seconds == engine.step(1, 1).seconds
    # prefill of many tokens hides what the host takes
    few, many = (engine.prefill(Pieces.of([Piece(tokens, 0)])).seconds for tokens in (16, 4096))
    assert few == engine.step(1, 1).seconds < many


def test_a_gpu_draws_less_where_its_memory_holds_it():
    described = config("cpu-gpu-v100", model="llama2-7b")
    engine, gpu = generator(described), described.gpu
    step, prefill = engine.step(1, 1), engine.prefill(Pieces.of([Piece(1024, 0)]))
    assert prefill.energy["gpu"] == pytest.approx(gpu.watts * prefill.seconds * 1e9)
    assert step.energy["gpu"] == pytest.approx(gpu.decode_share * gpu.watts * step.seconds * 1e9)
    assert gpu.idle_w < gpu.decode_share * gpu.watts < gpu.watts


def test_accelhbm_decodes_near_its_bound():
    engine = generator(config("heterrag", model="llama2-7b"))
    bound = engine.bounds[0]
    assert bound.limit == pytest.approx(1.61e-3, rel=0.01)  # 13.2 GB at 8.2 TB/s
    assert 0.6 < bound.nearness <= 1


def test_prefill_is_not_faster_than_the_arrays():
    described = config("heterrag", model="llama2-7b")
    operations = 2 * 1024 * described.model.layers * described.model.layer_weights
    assert described.hbm.tpm is not None
    floor = operations / (described.hbm.tpm.peak_tflops * 1e12)
    assert floor <= generator(described).prefill(Pieces.of([Piece(1024, 0)])).seconds < 1.3 * floor


def test_the_vertex_cache_hits_only_where_there_is_one():
    assert result("heterrag-base").counts["vertex_cache_hit_ratio"] == 0
    small = result("heterrag").counts["vertex_cache_hit_ratio"]
    large = result("heterrag", dimm__rpm__cache_bytes=1 << 26).counts["vertex_cache_hit_ratio"]
    assert 0 < small < large <= 1


def test_seeding_with_the_last_results_shortens_the_next_search():
    outcome = result("heterrag", workload__retrieve_every=16, workload__document_life_tokens=10**9)
    assert outcome.counts["search_again_s"] < outcome.counts["search_first_s"]


def test_searches_beside_others_take_as_long_as_all_of_them_and_cost_their_share():
    described = config("naive-hbm")
    engine = retriever(described)
    whole = search(engine, 1.0, 8, 0, False, np.random.default_rng(3))
    part = search(engine, 2.0, 2, 6, False, np.random.default_rng(3))
    assert part.done.tolist() == pytest.approx((2 * whole.done[:2]).tolist())
    assert part.times * part.energy["dram_read"] == pytest.approx(2 * whole.energy["dram_read"] / 4)


def test_more_queries_than_are_sampled_wait_for_those_before_them():
    engine = retriever(config("heterrag-base", search__sampled=2, workload__batch=6))
    few, many = (engine.search(count, False, np.random.default_rng(3)).done for count in (2, 6))
    assert many.max() == pytest.approx(3 * few.max())


def test_a_whole_new_context_is_prefilled_from_the_first_changed_document_on():
    fresh = {"workload__retrieve_every": 35, "workload__document_life_tokens": 1, "optimisations__p": False}
    changed, whole = (result("heterrag-base", **fresh, workload__context=kind) for kind in ("changed", "all"))
    stated = whole.config.workload
    more = stated.requests * (stated.question_tokens + 35)  # the question, and the tokens that were made by then
    assert whole.counts["prefilled_tokens"] - changed.counts["prefilled_tokens"] == more


def test_pipelining_hands_results_on_before_the_last_search_has_ended():
    slow = {"search__hops": 3000, "search__hops_spread": 0.8}
    base, pipelined = (result("heterrag-base", **slow, optimisations__p=p) for p in (False, True))
    assert pipelined.first_tokens.min() < base.first_tokens.min()
    assert pipelined.counts["prefills"] > base.counts["prefills"]
