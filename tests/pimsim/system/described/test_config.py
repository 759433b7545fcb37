"""Systems, models and workloads as data: what is wrong is named."""

import pytest

from pimsim import fields
from pimsim.errors import FieldError, TraceError, WorkloadError
from pimsim.system.described.config import SystemConfig
from pimsim.system.run.simulation import run
from tests.pimsim.props.systems import SMALL, config


@pytest.mark.parametrize("name", fields.shipped("systems"))
def test_every_system_loads_and_its_hash_tells_it_from_the_others(name):
    hashes = {SystemConfig.load(other).configuration for other in fields.shipped("systems")}
    assert len(hashes) == len(fields.shipped("systems"))
    assert SystemConfig.load(name) == SystemConfig.load(name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workload.batches": 3}, "workload.batches"),
        ({"workload.batch": 0}, "workload.batch must be a whole number of at least 1"),
        ({"workload.context": "none"}, "one of changed, all"),
        ({"retrieval.engine": "gpu"}, "retrieval.engine must be one of acceldimm"),
        ({"generation.parallel": "both"}, "one of tensor, pipeline"),
        ({"dimm.rpm.cache": 3}, "rpm.cache"),
        ({"hbm.stacks": 0}, "stacks"),
        ({"model": "gpt-5"}, "unknown name 'gpt-5' of models"),
        ({"retrieval.interval_hops": 10**9}, "retrieval.interval_hops must be a whole number of at least 1, at most"),
    ],
)
def test_a_wrong_field_is_named(changes, said):
    with pytest.raises(FieldError, match=said):
        SystemConfig.load("heterrag", changes)


def test_a_file_on_a_base_changes_it_and_a_circle_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nbase: heterrag\nchanges:\n  hbm.stacks: 2\n  retrieval.devices: 3\n")
    system = SystemConfig.load(str(file), {"retrieval.devices": 4})
    assert (system.name, system.hbm.stacks, system.retrieval.devices) == ("mine", 2, 4)
    file.write_text(f"name: mine\nbase: {file}\nchanges: {{}}\n")
    with pytest.raises(FieldError, match="based on itself"):
        SystemConfig.load(str(file))


def test_changes_may_be_nested_and_leave_what_they_do_not_name(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nbase: heterrag\nchanges:\n  retrieval: {devices: 3}\n  hbm: {stacks: 2}\n")
    system = SystemConfig.load(str(file), {"optimisations": {"r": False}, "dimm": {"rpm": {"cache_bytes": 0}}})
    assert system == SystemConfig.load(
        "heterrag",
        {"name": "mine", "retrieval.devices": 3, "hbm.stacks": 2, "optimisations.r": False, "dimm.rpm.cache_bytes": 0},
    )
    sourced = SystemConfig.load("heterrag", {"workload.batch": {"value": 3, "source": "default"}})
    assert sourced.workload.batch == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workload.popular_documents": 5}, r"a retrieval takes 6 documents \(workload.documents\) of 5 "),
        (
            {"workload.documents": 90},
            r"90 documents \(workload.documents\) of the 80 that 8 devices of 10 results give",
        ),
        ({"search.vertices": 1000, "retrieval.devices": 101}, r"a shard of 9 vertices .*fewer than the 10 results"),
    ],
)
def test_more_documents_than_there_are_is_refused(changes, said):
    with pytest.raises(WorkloadError, match=said):
        SystemConfig.load("heterrag", changes)


def test_what_a_trace_asks_for_is_not_bound_by_the_stated_popularity(tmp_path):
    file = tmp_path / "documents.jsonl"
    file.write_text("[1, 2]\n")
    changes = {"workload.popular_documents": 5, "workload.documents_file": str(file)}
    assert SystemConfig.load("heterrag", changes).workload.popular_documents == 5


def test_a_model_that_does_not_fit_is_refused_before_it_runs():
    with pytest.raises(WorkloadError, match=r"weights.*take more devices"):
        run(config(model="llama2-70b"))
    with pytest.raises(WorkloadError, match="shorten the prompt"):
        run(config(model="llama2-7b", workload__output_tokens=60_000))


def test_only_assumptions_that_are_leaned_on_are_listed():
    def assumed(name: str) -> set[str]:
        return {value["name"].split(".")[0] for value in run(config(name)).as_dict()["provenance"]["assumed"]}

    assert {"gpu", "cpu"} <= assumed("cpu-gpu-v100")
    assert not {"hbm", "dimm", "upmem"} & assumed("cpu-gpu-v100")
    assert {"hbm", "dimm"} <= assumed("heterrag")
    assert not {"gpu", "cpu"} & assumed("heterrag")


def test_documents_and_lengths_come_from_files(tmp_path):
    documents, lengths = tmp_path / "trace.jsonl", tmp_path / "lengths.csv"
    documents.write_text('{"hash_ids": {"passages_ids": [4, 5, 4]}}\n{"hash_ids": {"passages_ids": []}}\n[7]\n')
    lengths.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nx,400,5\ny,10,9\n")
    outcome = run(config(workload__documents_file=str(documents), workload__lengths_file=str(lengths)))
    assert outcome.tokens == 3 * (5 + 9)


def test_recorded_searches_take_the_place_of_drawn_ones(tmp_path):
    file = tmp_path / "traversal.csv"
    rows = [f"{query},{hop},{query * 40 + hop},vector" for query in range(4) for hop in range(5)]
    file.write_text("# vertices=4000 dim=768\nquery,hop,vertex,kind\n" + "\n".join(rows) + "\n")
    for name in ("heterrag", "cpu-gpu-v100"):
        outcome = run(config(name, workload__traversal_file=str(file), workload__retrieve_every=16))
        assert outcome.counts["distances_a_search"] == 5
        with pytest.raises(WorkloadError, match=r"set dimm\.vectors\.dim to 768"):
            run(config(name, workload__traversal_file=str(file), dimm__vectors__dim=384))
    with pytest.raises(TraceError, match="no such file"):
        run(config(workload__traversal_file=str(tmp_path / "none.csv")))


def test_small_is_what_it_says():
    assert config().workload.requests == SMALL["workload.requests"]
