"""Systems, models and workloads as data: what is wrong is named."""

import json

import pytest

from pimsim import fields
from pimsim.errors import FieldError, PimsimError, TraceError, WorkloadError
from pimsim.system import ModelShape, SystemConfig, run
from tests.pimsim.system.cases import SMALL, config


@pytest.mark.parametrize("name", fields.shipped("systems"))
def test_every_system_loads_and_its_hash_tells_it_from_the_others(name):
    hashes = {SystemConfig.load(other).configuration for other in fields.shipped("systems")}
    assert len(hashes) == len(fields.shipped("systems"))
    assert SystemConfig.load(name) == SystemConfig.load(name)


@pytest.mark.parametrize(
    ("name", "billions"), [("gpt2-xl", 1.56), ("llama2-7b", 6.74), ("llama2-70b", 68.98), ("llama-3.1-8b", 8.03)]
)
def test_models_have_their_weights(name, billions):
    assert ModelShape.load(name).weights == pytest.approx(billions * 1e9, rel=0.005)


def test_a_config_json_of_hugging_face_is_a_model(tmp_path):
    file = tmp_path / "config.json"
    told = {"model_type": "mistral", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    file.write_text(json.dumps({**told, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000}))
    ours, shipped = ModelShape.load(str(file)), ModelShape.load("mistral-7b")
    assert (ours.weights, ours.kv_token_bytes) == (shipped.weights, shipped.kv_token_bytes)
    file.write_text(
        json.dumps({"n_layer": 48, "n_head": 25, "n_embd": 1600, "vocab_size": 50257, "model_type": "gpt2"})
    )
    assert ModelShape.load(str(file)).weights == ModelShape.load("gpt2-xl").weights
    file.write_text(json.dumps({**told, "hidden_size": "wide", "vocab_size": 1}))
    with pytest.raises(FieldError, match="hidden_size must be a whole number"):
        ModelShape.load(str(file))


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
    ],
)
def test_a_wrong_field_is_named(changes, said):
    with pytest.raises(FieldError, match=said):
        SystemConfig.load("heterrag", changes)


def test_a_file_on_a_base_changes_it_and_a_circle_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nbase: heterrag\nchanges:\n  hbm.stacks: 2\n  retrieval.devices: 3\n")
    found = SystemConfig.load(str(file), {"retrieval.devices": 4})
    assert (found.name, found.hbm.stacks, found.retrieval.devices) == ("mine", 2, 4)
    file.write_text(f"name: mine\nbase: {file}\nchanges: {{}}\n")
    with pytest.raises(FieldError, match="based on itself"):
        SystemConfig.load(str(file))


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
    found = run(config(workload__documents_file=str(documents), workload__lengths_file=str(lengths)))
    assert found.tokens == 3 * (5 + 9)
    documents.write_text('{"documents": ["four"]}\n')
    with pytest.raises(TraceError, match=r"line 1: documents must be"):
        run(config(workload__documents_file=str(documents)))
    lengths.write_text("ContextTokens,GeneratedTokens\n400,many\n")
    with pytest.raises(TraceError, match=r"line 2: lengths must be whole"):
        run(config(workload__lengths_file=str(lengths)))
    with pytest.raises(PimsimError, match="cannot be read"):
        run(config(workload__lengths_file=str(tmp_path / "none.csv")))


def test_recorded_searches_take_the_place_of_drawn_ones(tmp_path):
    file = tmp_path / "traversal.csv"
    rows = [f"{query},{hop},{query * 40 + hop},vector" for query in range(4) for hop in range(5)]
    file.write_text("# vertices=4000 dim=768\nquery,hop,vertex,kind\n" + "\n".join(rows) + "\n")
    for name in ("heterrag", "cpu-gpu-v100"):
        found = run(config(name, workload__traversal_file=str(file), workload__retrieve_every=16))
        assert found.counts["distances_a_search"] == 5
        with pytest.raises(WorkloadError, match=r"set dimm\.vectors\.dim to 768"):
            run(config(name, workload__traversal_file=str(file), dimm__vectors__dim=384))
    with pytest.raises(TraceError, match="no such file"):
        run(config(workload__traversal_file=str(tmp_path / "none.csv")))


def test_small_is_what_it_says():
    assert config().workload.requests == SMALL["workload.requests"]
