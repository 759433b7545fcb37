"""Systems of pimsim as machines of a replay, against pimsim's own figures."""

import dataclasses
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pimsim import SystemConfig, run_system
from pimsim.fields import shipped
from pimsim.system.generation.engine import generator
from pimsim.system.generation.protocol import Piece, Pieces
from pimsim.system.retrieval.engine import retriever, search
from ragcache.engine.simulated.hardware import HARDWARE
from ragcache.errors import ConfigError
from ragcache.replay.pim_machine import PimMachine
from ragcache.replay.report import ReplayReport
from ragcache.replay.run import simulate
from ragcache.replay.searches import SearchesTogether, SearchRequest
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.workload import TimedRequest, Workload
from tests.props.small_replays import served, workload

pytestmark = pytest.mark.xdist_group("pimsim")  # whose kernels are compiled once

ENGINES = ["heterrag-base", "cpu-gpu-v100", "naive-hbm", "only-dimm", "upmem-like"]  # all of either kind, without p
ONE_QUERY = {"search.sampled": 1}  # all searches are alike
QUESTION = 20


def machine(name: str, **changes: Any) -> PimMachine:
    """`changes` with __ for the dots."""
    return PimMachine(
        SystemConfig.load(name, {key.replace("__", "."): value for key, value in changes.items()} | ONE_QUERY)
    )


def replayed(requests: Workload, on: PimMachine, **settings: Any) -> ReplayReport:
    return simulate(requests, SimulatedSettings(**settings), system_tokens=0, searches=SearchesTogether(on), machine=on)


def near(seconds: float) -> Any:
    return pytest.approx(seconds, abs=2e-6)  # the service rounds to microseconds


def overheads(config: SystemConfig, queries: int, tokens: int) -> float:
    """Seconds that a batch of `queries` spends in the host and on the links."""
    link, results = config.link, queries * config.dimm.graph.k
    moved = queries * config.dimm.vectors.bytes + results * config.dimm.dpm.result_bytes + 4 * tokens
    merging = results * config.retrieval.devices * config.host.merge_ns
    return queries * config.host.query_us * 1e-6 + (merging + 3 * link.latency_ns) * 1e-9 + moved / (link.gbps * 1e9)


@pytest.mark.parametrize("name", ENGINES)
def test_a_lone_request_takes_its_search_its_prefill_and_its_steps(name):
    on = machine(name)
    config, tokens = on.config, 2 * 150 + QUESTION
    (only,) = served(replayed(workload((1.0, "ab"), size=150, output=40), on))
    times = search(retriever(config), 1.0, 1, 0, False, np.random.default_rng(0)).done
    own = generator(config)
    looked = float(times[0]) + overheads(config, 1, 300)
    filled = own.prefill(Pieces.of([Piece(tokens, 0)])).seconds
    assert only.search == near(looked)
    assert only.prefill == near(filled)
    assert only.ttft == near(looked + filled)
    steps = sum(own.step(1, tokens + step).seconds for step in range(39))
    assert only.total == near(looked + filled + steps)


@pytest.mark.parametrize("name", ["heterrag-base", "cpu-gpu-v100"])
def test_a_lone_request_is_answered_as_fast_as_pimsim_runs_it(name):
    changes = {"workload.requests": 1, "workload.warm_requests": 0, "workload.output_tokens": 50}
    config = SystemConfig.load(name, changes | ONE_QUERY)
    theirs = run_system(config)
    documents = tuple((f"d{number}", config.workload.document_tokens) for number in range(config.workload.documents))
    asked = Workload((TimedRequest(0.0, documents, config.workload.question_tokens, 50),))
    (ours,) = served(replayed(asked, PimMachine(config), prefill_chunk=2048))
    # theirs computes logits behind each document, too
    assert ours.ttft == pytest.approx(float(theirs.first_tokens[0]), rel=2e-3)
    assert ours.total == pytest.approx(float(theirs.latencies[0]), rel=2e-3)


def test_a_chunk_counts_what_is_before_it():
    on = machine("heterrag-base")
    own = generator(on.config)
    assert on(100, 700) == near(
        own.prefill(Pieces.of([Piece(512, 100)])).seconds + own.prefill(Pieces.of([Piece(188, 612)])).seconds
    )
    two = replayed(workload((0.0, "abcdef"), (9.0, "abcdef"), size=100), on)
    first, second = served(two)
    assert first.prefill == near(
        own.prefill(Pieces.of([Piece(512, 0)])).seconds + own.prefill(Pieces.of([Piece(108, 512)])).seconds
    )
    assert second.prefill == near(own.prefill(Pieces.of([Piece(QUESTION, 600)])).seconds)
    assert second.device_tokens == 600


def test_prompts_and_decodes_of_one_step_share_a_gpus_weights_and_take_turns_on_devices_that_compute_in_memory():
    for name, shares in (("cpu-gpu-v100", True), ("heterrag-base", False)):
        on = machine(name)
        chunks, decodes = [(0, 512), (100, 50)], [700, 900, 1100]
        turns = on.step(chunks, ()) + on.step((), decodes)
        assert on.step((), decodes) == generator(on.config).step(3, 2700).seconds
        assert on.step(chunks, ()) == generator(on.config).prefill(Pieces.of([Piece(512, 0), Piece(50, 100)])).seconds
        assert (on.step(chunks, decodes) < 0.95 * turns) == shares
        assert on.step(chunks, decodes) > on.step(chunks, ())
        if not shares:
            assert on.step(chunks, decodes) == turns
        assert on.step((), ()) == 0


def test_memory_and_links_are_the_systems():
    for name in shipped("systems"):
        config = SystemConfig.load(name)
        on = PimMachine(config)
        assert on.kv_capacity() == int(generator(config).memory_bytes) - config.model.weight_bytes
        assert on.bytes_per_token == config.model.kv_token_bytes
        assert on.host_rate == config.link.gbps * 1e9 * config.generation.devices
    small, large = machine("cpu-gpu-v100"), machine("cpu-gpu-v100", gpu__memory_gb=64.0)
    assert large.kv_capacity() - small.kv_capacity() == 32e9
    # 18 GB hold the KV of 35 thousand tokens of LLaMA2-7B: 48 of 1,000 do not fit, and come back cold
    requests = workload(*[(float(number), chr(97 + number % 48)) for number in range(96)], size=1000)
    results = [replayed(requests, on).as_dict() for on in (small, large)]
    assert [each["config"]["device_cache"] for each in results] == [small.kv_capacity(), large.kv_capacity()]
    assert [each["hits"]["document_ratio"] < 0.5 for each in results] == [True, False]


def test_what_is_loaded_from_the_host_comes_over_the_systems_link():
    room = 1100 * machine("cpu-gpu-v100").bytes_per_token
    requests = workload((0.0, "a"), (10.0, "b"), (20.0, "a"), size=1000)
    waits = []
    for gbps in (32.0, 8.0):
        on = machine("cpu-gpu-v100", link__gbps=gbps)
        last = served(replayed(requests, on, device_cache=room, host_cache=4 * room))[-1]
        assert last.host_tokens == 1000
        waits.append(last.queue)
    move = 1000 * on.bytes_per_token / 32e9
    assert waits == [near(2 * move), near(8 * move)]  # another leaves first, over the same link


def test_heterrag_answers_sooner_than_a_v100_does():
    requests = workload(
        *[(number * 0.05, pair) for number in range(5) for pair in ("ab", "cd", "ea", "fb")], size=400, output=30
    )
    ours, theirs = (replayed(requests, machine(name), max_batch=8).as_dict() for name in ("heterrag", "cpu-gpu-v100"))
    for measure in ("ttft", "total", "search", "time_per_output_token"):
        assert ours[measure]["mean"] < theirs[measure]["mean"], measure
    assert ours["throughput"]["output_tokens_per_second"] > theirs["throughput"]["output_tokens_per_second"]


class TestPipelining:
    """With `p` the host looks at searches while they run."""

    def test_what_is_shown_grows_into_the_result(self):
        on = PimMachine(SystemConfig.load("heterrag"))
        lengths = set()
        for number in range(20):
            ((*looks, last),) = on.search([SearchRequest(number, 6, 960)], 0)
            assert list(last.positions) == list(range(6))
            times = [shown.seconds for shown in (*looks, last)]
            assert times == sorted(set(times))
            results_shown = [[position for position in shown.positions if position >= 0] for shown in looks]
            for shown, ours in zip(looks, results_shown, strict=True):
                others = len(ours) - 6
                assert list(shown.positions) == ours + list(range(-1, others - 1, -1))
                assert ours == sorted(ours)
            assert all(set(before) < set(after) for before, after in pairwise(results_shown))
            complete = list(range(6))  # in half of the hops
            assert [*results_shown, complete][-2 if results_shown else -1] == complete
            lengths.add(len(looks))
        assert max(lengths) > 2

    def test_it_ends_with_the_look_after_the_last_hop(self):
        on = machine("heterrag")
        config = on.config
        times = search(retriever(config), 1.0, 1, 0, False, np.random.default_rng(0))
        interval = times.hop * config.retrieval.interval_hops
        looks = np.ceil(float(times.done[0]) / interval)
        ((*_, last),) = on.search([SearchRequest(3, 2, 300)], 0)
        assert last.seconds == pytest.approx(looks * interval + overheads(config, 1, 300), rel=1e-9)

    def test_a_search_among_others_takes_longer_and_is_the_same_every_time(self):
        on = PimMachine(SystemConfig.load("heterrag"), seed=7)
        alone, among = on.search([SearchRequest(5, 6, 960)], 0), on.search([SearchRequest(5, 6, 960)], 31)
        assert among[0][-1].seconds > alone[0][-1].seconds
        assert PimMachine(SystemConfig.load("heterrag"), seed=7).search([SearchRequest(5, 6, 960)], 0) == alone
        assert PimMachine(SystemConfig.load("heterrag"), seed=8).search([SearchRequest(5, 6, 960)], 0) != alone

    def test_what_is_shown_is_speculated_on(self):
        on = PimMachine(SystemConfig.load("heterrag"))
        requests = workload(*[(float(number), "ab") for number in range(4)], size=50)
        results = replayed(requests, on, speculate=True, policy="none").as_dict()
        assert 0 < results["speculation"]["used"] < results["speculation"]["started"]  # some of it on others' documents
        assert results["search"]["not_overlapped"]["mean"] < results["search"]["mean"]


def test_without_pipelining_a_batch_ends_with_its_slowest():
    on = PimMachine(SystemConfig.load("cpu-gpu-v100"))
    shown = on.search([SearchRequest(number, 2, 300) for number in range(20)], 0)
    assert [len(each) for each in shown] == [1] * 20
    assert len({each[-1].seconds for each in shown}) == 1
    assert shown[0][-1].seconds > 1.5 * on.search([SearchRequest(0, 2, 300)], 0)[0][-1].seconds


def test_a_file_of_ones_own_and_another_model(tmp_path):
    file = tmp_path / "ours.yaml"
    file.write_text(
        "name: ours\nbase: cpu-gpu-v100\nchanges: {gpu.memory_gb: 24.0, link.gbps: 16.0, generation.devices: 2}\n"
    )
    on = PimMachine.load(str(file), model="mistral-7b")
    assert on.described["hardware"] == "ours.yaml"
    assert on.described["model"] == "mistral-7b"
    assert on.bytes_per_token == 131072
    assert on.host_rate == 2 * 16e9
    assert on.kv_capacity() == int(48e9) - on.config.model.weight_bytes
    system = on.described["system"]
    assert system["configuration"] == on.config.configuration
    assert "gpu.compute_share" in system["assumed"]
    assert not [name for name in system["assumed"] if name.startswith(("workload.", "price."))]
    json.dumps(on.described)


def test_no_name_means_two_machines():
    assert not set(HARDWARE) & set(shipped("systems"))


@pytest.mark.parametrize(
    ("name", "model", "says"),
    [
        (
            "b200",
            None,
            "there is no hardware 'b200'; known are a10g, h100, 2xh800, this-cpu, systems of pimsim: cpu-gpu",
        ),
        ("none.yaml", None, "hardware none.yaml: cannot read none.yaml"),
        ("heterrag", "gpt", "hardware heterrag: unknown name 'gpt' of models"),
        ("heterrag", "llama2-70b", "heterrag: llama2-70b has 138.0 GB of weights, and the generation devices"),
    ],
)
def test_what_cannot_be_used_is_said(name, model, says):
    with pytest.raises(ConfigError) as error:
        PimMachine.load(name, model=model)
    assert str(error.value).startswith(says)


def test_a_system_that_cannot_do_its_work_is_told_before_it_begins(tmp_path):
    config = SystemConfig.load("heterrag")
    with pytest.raises(ConfigError, match=r"heterrag: .* has no systolic arrays"):
        PimMachine(dataclasses.replace(config, hbm=dataclasses.replace(config.hbm, tpm=None)))
    file = tmp_path / "ours.yaml"
    file.write_text("name: ours\nbase: heterrag\nchanges:\n  link.speed: 3\n")
    with pytest.raises(ConfigError, match=r"there is no field 'link\.speed'"):
        PimMachine.load(str(file))
