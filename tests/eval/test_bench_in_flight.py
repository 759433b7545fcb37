"""The figures of in-flight sharing: the streams are what they say, and both replays are of the same requests."""

import gzip
import json

import pytest

from eval import bench_in_flight
from eval.props.ragpulse import ragpulse_workload
from ragcache.errors import TraceError


def test_half_of_the_stream_repeats_what_came_shortly_before():
    workload = bench_in_flight.stream(200, 1.0, 30, seed=3)
    seen, repeated = {}, 0
    for request in workload.requests:
        if request.documents in seen:
            repeated += 1
            assert request.time - seen[request.documents] <= 10.0
        seen[request.documents] = request.time
    assert (len(workload), repeated) == (200, 100)
    assert [request.time for request in workload.requests] == sorted(request.time for request in workload.requests)
    assert len(bench_in_flight.stream(7, 1.0, 30, seed=3)) == 7


def test_sharing_computes_less_of_a_crowded_stream_and_answers_all():
    workload = bench_in_flight.stream(60, 20.0, 400, seed=1)
    without, sharing = (bench_in_flight.virtual(workload, share=share) for share in (False, True))
    figures = bench_in_flight.row("crowded", without, sharing)
    assert figures["without"]["answered"] == figures["sharing"]["answered"] == 60
    assert figures["without"]["prompt_tokens"] == figures["sharing"]["prompt_tokens"]
    assert figures["sharing"]["computed_tokens"] < figures["without"]["computed_tokens"]
    assert figures["sharing"]["ttft_mean"] < figures["without"]["ttft_mean"]
    assert figures["sharing"]["shared_tokens"] > figures["without"]["shared_tokens"] == 0


def test_a_stream_is_replayed_on_a_described_cpu(capsys):
    assert bench_in_flight.main(["--described", "--requests", "20", "--rate", "4"]) == 0
    assert "4 requests/s" in capsys.readouterr().out


def test_a_live_stream_is_computed_here(tiny_folder, capsys):
    command = ["--requests", "6", "--rate", "200", "--tokens", "20", "--threads", "1", "--within", "0.1"]
    command += ["--model", str(tiny_folder), "--json"]
    assert bench_in_flight.main(command) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["sharing"]["answered"] == row["without"]["answered"] == 6
    prompt = 3 * (2 * 20) + 6 * bench_in_flight.QUESTION_TOKENS + bench_in_flight.SYSTEM_TOKENS
    assert row["sharing"]["computed_tokens"] == prompt, "every document once"


@pytest.fixture
def ragpulse(tmp_path):
    def write(name, *rows):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def request(time, passages, **more):
        ids = {"sys_prompt": [9], "passages_ids": passages, "history": [5], "web_search": [], "user_input": [7]}
        return {"timestamp": time, "output_length": 3, "hash_ids": ids} | more

    write("passages", {"passage_id": 1, "token_length": 100}, {"passage_id": 2, "token_length": 50})
    write("history", {"history_id": 5, "token_length": 11})
    write("web_search")
    write("user_input", {"user_input_id": 7, "token_length": 4})
    write("trace", request("0", [1, 2]), request("30", []), request("50", [2]))
    return tmp_path


def test_ragpulse_is_a_workload_at_any_speed(ragpulse):
    workload = ragpulse_workload(ragpulse, 10.0)
    assert [request.time for request in workload.requests] == [0.0, 5.0]
    assert [request.documents for request in workload.requests] == [(("1", 100), ("2", 50)), (("2", 50),)]
    assert [(request.question, request.output) for request in workload.requests] == [(15, 3)] * 2


def test_ragpulse_is_replayed_from_the_command_line(ragpulse, capsys):
    assert bench_in_flight.main(["--ragpulse", str(ragpulse), "--speed", "1", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "RAGPulse, 1 x" in printed
    assert "RAGPulse, 1000 x" in printed


def test_a_folder_without_the_trace_is_named(tmp_path, capsys):
    with pytest.raises(TraceError, match="missing"):
        ragpulse_workload(tmp_path / "missing")
    assert bench_in_flight.main(["--ragpulse", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
