"""`ragcache replay` as a person runs it: reproducible, fast, and plain about what it cannot use."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ragcache.cli.main import main
from ragcache.replay.pim_machine import PimMachine
from ragcache.replay.run import simulate
from ragcache.replay.searches import SearchesTogether
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.workload import TimedRequest, Workload
from tests.props.small_replays import searches as recorded
from tests.props.small_replays import workload

pytestmark = pytest.mark.xdist_group("pimsim")  # whose kernels are compiled once

FAST = 1000  # requests a second of one core


def traffic(requests: int, *, per_second: float, documents: int = 200, seed: int = 3) -> Workload:
    """Pairs of documents, some much more popular than others."""
    chance = random.Random(seed)
    time, arriving = 0.0, []
    for _ in range(requests):
        time += chance.expovariate(per_second)
        pair = chance.sample([int(documents * chance.random() ** 3) for _ in range(9)] + [0, 1], 2)
        pair = pair if pair[0] != pair[1] else [pair[0], documents]
        arriving.append(
            TimedRequest(
                time,
                tuple((f"d{document}", 200 + document * 7 % 600) for document in pair),
                20,
                1 + chance.randrange(12),
            )
        )
    return Workload(tuple(arriving))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.jsonl"
    workload((0.0, "ab"), (1.0, "ab"), (2.0, "ba"), output=3).write(path)
    return path


def report(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert main(["replay", "--json", *map(str, arguments)]) == 0
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def in_a_process(folder: Path, hash_seed: str, *arguments: str) -> tuple[bytes, bytes]:
    """Report and trace of `w.jsonl` in this folder."""
    command = ["-m", "ragcache", "replay", "--workload", "w.jsonl", "--json", "--trace", "t.json", *arguments]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=120,
        check=True,
    )
    return done.stdout, (folder / "t.json").read_bytes()


def test_two_processes_with_one_seed_give_equal_bytes_and_another_seed_does_not(tmp_path):
    traffic(250, per_second=3).write(tmp_path / "w.jsonl")
    profile = recorded((0.02, 0.03, 0.02), ((0, 1),) * 3, ((-1, 0), (1, 0), (0, 1)), ((-1, -2), (0, -1), (0, 1)))
    profile.save(tmp_path / "s.json")
    caches = ["--device-cache", "512MiB", "--host-cache", "1GiB", "--speculate", "dynamic"]

    def run(seed: int, hash_seed: str) -> tuple[bytes, bytes]:
        return in_a_process(tmp_path, hash_seed, "--search", "s.json", "--rate", "4", "--seed", str(seed), *caches)

    first, again, other = run(1, "1"), run(1, "2"), run(2, "1")
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]
    figures = json.loads(first[0])
    assert figures["outcomes"] == {"answered": 250}
    # everything that could be drawn differently took part
    assert min(figures["tokens"].pop(name) for name in ("device", "host")) > 0
    assert 0 < figures["speculation"]["used"] < figures["speculation"]["started"]


@pytest.mark.full(proof="test_a_search_among_others_takes_longer_and_is_the_same_every_time")
def test_two_processes_replay_a_system_of_pimsim_alike(tmp_path):
    traffic(150, per_second=3).write(tmp_path / "w.jsonl")
    (tmp_path / "ours.yaml").write_text("name: ours\nbase: heterrag\nchanges: {retrieval.devices: 4}\n")
    options = ["--hardware", "ours.yaml", "--speculate", "dynamic", "--host-cache", "8GiB", "--device-cache", "2GiB"]
    first, again = (in_a_process(tmp_path, seed, *options, "--seed", "5") for seed in ("1", "2"))
    assert first == again
    assert in_a_process(tmp_path, "1", *options, "--seed", "6")[0] != first[0]
    figures = json.loads(first[0])
    assert figures["outcomes"] == {"answered": 150}
    assert (figures["config"]["hardware"], figures["config"]["model"]) == ("ours.yaml", "llama2-7b")
    assert min(figures["tokens"]["host"], figures["speculation"]["started"]) > 0


def test_a_system_of_pimsim_is_a_machine_by_its_name(file, capsys):
    slow, fast = (report(capsys, "--workload", file, "--hardware", name) for name in ("cpu-gpu-v100", "heterrag"))
    assert fast["ttft"]["mean"] < slow["ttft"]["mean"]
    assert 0 < fast["search"]["mean"] < slow["search"]["mean"]
    assert slow["config"]["system"]["configuration"] != fast["config"]["system"]["configuration"]
    other = report(capsys, "--workload", file, "--hardware", "cpu-gpu-v100", "--model", "mistral-7b")
    assert other["config"]["model"] == "mistral-7b"
    assert other["config"]["device_cache"] != slow["config"]["device_cache"]


@pytest.mark.timing
@pytest.mark.parametrize("hardware", ["a10g", "heterrag"])
@pytest.mark.parametrize("per_second", [1.0, 1000.0])  # hardly anybody waits; nearly all do
def test_a_thousand_requests_a_second_are_replayed_on_one_core(per_second, hardware):
    requests = traffic(3000, per_second=per_second)
    speeds = []
    for _ in range(3):  # the best of a few: others may use the core's caches
        machine = None if hardware == "a10g" else PimMachine.load(hardware)
        searches = None if machine is None else SearchesTogether(machine)
        begin = time.process_time()
        figures = simulate(requests, SimulatedSettings(), system_tokens=50, searches=searches, machine=machine)
        speeds.append(len(requests) / (time.process_time() - begin))
        assert figures.as_dict()["outcomes"] == {"answered": 3000}
        if speeds[-1] >= FAST:
            break
    assert max(speeds) >= FAST
    assert (figures.as_dict()["queueing"]["most_in_flight"] > 1000) == (per_second > 100)


def test_the_report_has_what_was_asked_for(file, capsys):
    figures = report(capsys, "--workload", file)
    for spread in (figures["ttft"], figures["time_per_output_token"], figures["total"], figures["queueing"]):
        assert {"mean", "p50", "p95", "p99"} <= set(spread)
    assert figures["throughput"]["requests_per_second"] > 0
    tokens = figures["tokens"]
    assert tokens["device"] + tokens["host"] + tokens["disk"] + tokens["computed"] == tokens["prompt"] == 3 * 270
    assert tokens["device"] == 250 + 50
    assert figures["speculation"] == {"started": 0, "used": 0, "wasted_tokens": 0}
    assert figures["config"]["workload"] == "w.jsonl"
    assert (figures["config"]["hardware"], figures["config"]["engine"], figures["config"]["rate"]) == (
        "a10g",
        "simulated",
        None,
    )


def test_a_rate_replaces_the_times_and_a_limit_the_rest(file, capsys):
    assert report(capsys, "--workload", file)["seconds"] > 2
    assert report(capsys, "--workload", file, "--rate", "100")["seconds"] < 2
    assert report(capsys, "--workload", file, "--rate", "0.001")["seconds"] > 100
    assert report(capsys, "--workload", file, "--limit", "2")["requests"] == 2
    assert report(capsys, "--workload", file, "--limit", "99")["requests"] == 3


def test_the_settings_reach_the_service(file, capsys):
    none = report(capsys, "--workload", file, "--policy", "none", "--system-tokens", "0")
    assert none["tokens"]["computed"] == none["tokens"]["prompt"] == 3 * 220
    refused = report(capsys, "--workload", file, "--rate", "1e6", "--max-batch", "1", "--max-waiting", "1")
    assert refused["outcomes"] == {"answered": 2, "overloaded": 1}
    assert report(capsys, "--workload", file, "--timeout-ms", "1")["outcomes"] == {"expired": 3}
    slow, fast = (
        report(capsys, "--workload", file, "--hardware", hardware, "--model", "llama-3.1-8b")["ttft"]["mean"]
        for hardware in ("a10g", "h100")
    )
    assert slow > 2 * fast


def test_a_policy_of_ones_own_is_named_in_the_report(file, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_to_replay.py").write_text("from ragcache.policy import LRU\nclass Mine(LRU): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    mine, lru = (report(capsys, "--workload", file, "--policy", name) for name in ("mine_to_replay:Mine", "lru"))
    assert mine["config"]["policy"] == "mine_to_replay:Mine"
    assert {**mine, "config": None} == {**lru, "config": None}


def test_a_table_and_a_trace_for_people(file, tmp_path, capsys):
    assert main(["replay", "--workload", str(file), "--trace", str(tmp_path / "t.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("milliseconds")
    assert "requests     3: 3 answered" in out
    assert {"prefill", "decode"} <= {e["name"] for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"]}


def refusal(capsys: pytest.CaptureFixture[str], arguments: Sequence[Any]) -> str:
    """The one line that says why the command did nothing."""
    assert main(["replay", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if not line.startswith("loading the model")]
    assert line.startswith("ragcache replay: ")
    return line.removeprefix("ragcache replay: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hardware", "b200"], "there is no hardware 'b200'; known are a10g, h100, 2xh800, this-cpu"),
        (["--hardware", "b200"], "this-cpu, systems of pimsim: cpu-gpu-a100, "),
        (["--hardware", "b200.yaml"], "hardware b200.yaml: cannot read b200.yaml"),
        (["--hardware", "heterrag", "--model", "mixtral-8x7b"], "unknown name 'mixtral-8x7b' of models"),
        (["--hardware", "heterrag", "--search", "s.json"], "both say how long searches take: leave out --search"),
        (["--hardware", "heterrag", "--prefill-times", "p.json"], "prefills take: leave out --prefill-times"),
        (["--hardware", "heterrag", "--device-cache", "64GiB"], "device_cache is 68719476736 bytes; heterrag has 20"),
        (["--hardware", "heterrag", "--engine", "torch"], "--engine torch asks a real one: leave out one or the other"),
        (["--hardware", "a10g", "--url", "http://127.0.0.1:1"], "--url asks a real one: leave out one or the other"),
        (["--model", "gpt"], "there is no model 'gpt'; known are mistral-7b"),
        (["--policy", "best"], "there is no policy 'best'; known are lru"),
        (["--admission", "never"], "admission is one of always, competes, not 'never'"),
        (["--policy", "none", "--host-cache", "1GiB"], "a host cache or a disk cache has no use where no KV is kept"),
        (["--hardware", "this-cpu"], "this-cpu has no figure for float16; it has float32"),
        (["--model", "llama2-70b"], "the weights of llama2-70b take 128.5 GiB, and a10g has 21.6 GiB"),
        (["--device-cache", "much"], "'much' is not a size: write for example 2GiB"),
        (["--host-cache", "-1"], "'-1' is not a size"),
        (["--device-cache", "1000"], "device_cache is 1000 bytes; one token of mistral-7b takes 131072"),
        (["--limit", "0"], "a workload has 1 request or more, not 0"),
        (["--limit", "-1"], "a workload has 1 request or more, not -1"),
        (["--rate", "0"], "a rate is a number of requests a second above 0, not 0.0"),
        (["--rate", "-2"], "a rate is a number of requests a second above 0, not -2.0"),
        (["--rate", "nan"], "a rate is a number of requests a second above 0, not nan"),
        (["--prefill-chunk", "0"], "prefill_chunk must be at least 1, not 0"),
        (["--max-batch", "-1"], "max_batch must be at least 1, not -1"),
        (["--max-prefill-batch", "0"], "max_prefill_batch must be at least 1, not 0"),
        (["--max-waiting", "-1"], "max_waiting must be at least 0, not -1"),
        (["--reorder-window", "-1"], "reorder_window must be at least 0, not -1"),
        (["--system-tokens", "-1"], "--system-tokens must be at least 0, not -1"),
        (["--timeout-ms", "0"], "--timeout-ms must be at least 1, not 0"),
        (["--threads", "-1"], "--threads must be at least 0, not -1"),
        (["--trace", "no/such/folder/t.json"], "cannot write no/such/folder/t.json: No such file or directory"),
        (["--trace", "."], "cannot write .: it is not a regular file"),
        (["--search", "no.json"], "cannot read no.json: No such file or directory"),
        (["--prefill-times", "no.json"], "no.json"),
        (["--engine", "torch", "--model", "no/such/model"], "no/such/model"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(file, capsys, arguments, says):
    assert says in refusal(capsys, ["--workload", file, *arguments])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read {file}: No such file or directory"),
        ("", "{file} has no requests"),
        ("\nnonsense\n", "{file}:2: not valid JSON"),
        ('{"t": 0, "path": ["a"], "sizes": [3], "question": 3}', "{file}:1: 'output' is missing"),
        (
            '{"t": 0, "path": ["a"], "sizes": [], "question": 3, "output": 1}',
            "{file}:1: needs lists 'path' and 'sizes'",
        ),
        ('{"t": 0, "path": [], "sizes": [], "question": 0, "output": 1}', "{file}:1: 'question' is a text or a number"),
    ],
)
def test_a_workload_that_cannot_be_used_is_one_line(tmp_path, capsys, text, says):
    file = tmp_path / "w.jsonl"
    if text is not None:
        file.write_text(text)
    assert refusal(capsys, ["--workload", file]).startswith(says.format(file=file))


def test_a_trace_that_was_there_stays_when_nothing_is_replayed(file, tmp_path, capsys):
    trace = tmp_path / "t.json"
    trace.write_text("precious")
    refusal(capsys, ["--workload", file, "--trace", trace, "--limit", "0"])
    assert trace.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.json", "w.jsonl"]


def test_one_engine_or_a_server_but_not_both(file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--workload", str(file), "--engine", "torch", "--url", "http://127.0.0.1:1"])
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.fixture
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_as_before")
class TestTorch:
    """The same workload, computed."""

    def arguments(self, file: Path, folder: Path, *more: str) -> list[str]:
        return ["--workload", str(file), "--engine", "torch", "--model", str(folder), "--threads", "1", *more]

    def test_it_computes_and_finds_what_it_has_computed(self, tmp_path, tiny_folder, capsys):
        requests = Workload(
            tuple(
                TimedRequest(number * 0.7, (("a", 60), ("b", 40)), question, 5)
                for number, question in enumerate([9, "Why?"])
            )
        )
        requests.write(tmp_path / "w.jsonl")
        figures = report(
            capsys, *self.arguments(tmp_path / "w.jsonl", tiny_folder, "--trace", str(tmp_path / "t.json"))
        )
        assert figures["outcomes"] == {"answered": 2}
        tokens = figures["tokens"]
        assert tokens["device"] == 50 + 100  # of the second prompt, all but the question
        assert tokens["computed"] + tokens["device"] == tokens["prompt"]
        assert tokens["computed"] > 50 + 100 + 9
        assert tokens["output"] == 10
        assert figures["hits"]["document_ratio"] == 0.5
        assert figures["seconds"] >= 0.7
        assert 0 < figures["ttft"]["p50"] < figures["total"]["p99"]
        assert (figures["config"]["engine"], figures["config"]["hardware"]) == ("torch", "here")
        assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]

    def test_searches_take_their_time_and_are_speculated_on(self, tmp_path, tiny_folder, capsys):
        workload((0.0, "ab"), (0.5, "cd"), output=2).write(tmp_path / "w.jsonl")
        recorded((0.01, 0.3), ((0, 1), (0, 1))).save(tmp_path / "s.json")
        more = ["--search", str(tmp_path / "s.json"), "--speculate", "dynamic", "--host-cache", "64MiB"]
        figures = report(capsys, *self.arguments(tmp_path / "w.jsonl", tiny_folder, *more))
        assert figures["outcomes"] == {"answered": 2}
        assert figures["search"]["p50"] >= 0.3
        assert figures["speculation"]["used"] == 2

    def test_a_cache_smaller_than_a_token_is_refused(self, file, tiny_folder, capsys):
        line = refusal(capsys, self.arguments(file, tiny_folder, "--device-cache", "10"))
        assert line.startswith("device_cache is 10 bytes; one token of ")

    def test_a_prompt_beyond_the_context_is_rejected_alone(self, tmp_path, tiny_folder, capsys):
        requests = (TimedRequest(0, (("long", 9000),), 5, 2), TimedRequest(0, (("short", 30),), 5, 2))
        Workload(requests).write(tmp_path / "w.jsonl")
        assert main(["replay", *self.arguments(tmp_path / "w.jsonl", tiny_folder)]) == 0
        out = capsys.readouterr().out
        assert "requests     2: 1 answered, 1 rejected" in out
        assert "request 1 rejected: request 1 of the workload has a prompt of 9055 tokens, 8190 fit" in out
