"""`ragcache simulate`: traces in, figures out; what is wrong is named by line; cost-awareness saves seconds."""

import dataclasses
import gzip
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ragcache.cli.main import main
from ragcache.cost import ConstantCost, PolynomialCost
from ragcache.errors import TraceError
from ragcache.policy import LRU
from ragcache.simulate import curve
from ragcache.simulate.simulation import SIMULATED, Simulation
from ragcache.simulate.trace import Trace, read_trace

FIELDS = ["policy", "capacity", "hits", "requests", "hit_ratio", "token_hit_ratio", "seconds_saved"]
FIELDS += ["seconds_saved_ratio", "evictions"]
OBJECTS = "i,obj,size,next_access\n0,a,4,2\n1,b,6,\n2,a,4,\n3,a,4,\n"
PATHS = '{"t": 0, "path": ["a", "b"], "sizes": [4, 6]}\n{"t": 1, "path": ["a", 3], "sizes": [4, 2]}\n\n'
PATHS += '{"t": 2, "path": ["b", "a"], "sizes": [6, 4]}\n{"t": 3, "path": ["a", "b"], "sizes": [4, 6]}\n'


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    if name.endswith(".gz"):
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
    return file


def simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["simulate", *arguments, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert isinstance(outcome, list)
    return outcome


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_objects(tmp_path, capsys, name):
    trace = str(written(tmp_path, name, OBJECTS))
    options = ["--trace", trace, "--format", "objects", "--policy", "lru", "--capacity", "10,5", "--cost", "1000000,0"]
    large, small = simulated(capsys, *options)
    assert list(large) == FIELDS
    assert large == {
        "policy": "lru", "capacity": 10, "hits": 2, "requests": 4, "hit_ratio": 0.5, "token_hit_ratio": 8 / 18,
        "seconds_saved": pytest.approx(8.0), "seconds_saved_ratio": pytest.approx(8 / 18), "evictions": 0,
    }  # fmt: skip
    # b is larger than the capacity: it is never inserted, and displaces nothing
    assert (small["capacity"], small["hits"], small["evictions"]) == (5, 2, 0)


def test_paths(tmp_path, capsys):
    trace = str(written(tmp_path, "trace.jsonl", PATHS))
    options = ["--trace", trace, "--format", "paths", "--policy", "lru,belady", "--capacity", "100", "--cost", "0,1"]
    lru, belady = simulated(capsys, *options)
    # documents: a, a and b of the last; [b, a] shares nothing with [a, b]
    assert (lru["requests"], lru["hits"], lru["hit_ratio"]) == (4, 3, 3 / 8)
    assert lru["token_hit_ratio"] == (4 + 10) / 36
    # (α+β)² − α²: the prefix is not what a token of it costs at the end of a prompt
    assert lru["seconds_saved"] == pytest.approx((4**2 + 10**2) * 1e-6)
    assert {**lru, "policy": "belady"} == belady


def test_by_tree_the_order_is_that_of_what_is_cached(tmp_path, capsys):
    trace = str(written(tmp_path, "trace.jsonl", PATHS))
    options = ["--trace", trace, "--format", "paths", "--policy", "all", "--capacity", "100", "--order", "tree"]
    outcomes = simulated(capsys, *options)
    assert {outcome["policy"] for outcome in outcomes} == set(SIMULATED) - {"belady"}
    assert {outcome["hits"] for outcome in outcomes} == {5}  # a, then both of [b, a], and both of the last
    assert main(["simulate", *options[:4], "--policy", "belady", "--capacity", "9", "--order", "tree"]) == 1
    assert "belady knows the future of paths as the trace has them" in capsys.readouterr().err


def test_of_a_path_too_long_the_beginning_that_fits_is_cached(tmp_path):
    trace = read_trace(written(tmp_path, "trace.jsonl", PATHS), "paths")
    bits: list[int] = []
    Simulation(trace, ConstantCost()).run("lru", 9, on_request=bits.append)
    assert bits == [0, 1, 0, 0]  # [a], [a, 3]; then b needs the room


def test_ragpulse(tmp_path, capsys):
    written(
        tmp_path,
        "passages.jsonl.gz",
        "".join(f'{{"passage_id":{number},"token_length":{number + 1}}}\n' for number in range(9)),
    )
    rows = [[1, 2, 3], [], [1, 2, 4], [1, 2, 3], [5, 5]]
    text = "".join(json.dumps({"timestamp": "0", "hash_ids": {"passages_ids": row}}) + "\n" for row in rows)
    trace = str(written(tmp_path, "trace.jsonl.gz", text))
    (outcome,) = simulated(capsys, "--trace", trace, "--format", "ragpulse", "--policy", "pgdsf", "--capacity", "1000")
    assert (outcome["requests"], outcome["hits"]) == (4, 2 + 3)  # a request without passages is none
    assert outcome["token_hit_ratio"] == (5 + 9) / (9 + 10 + 9 + 12)


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("objects", "", ":1: the header must name columns 'obj' and 'size'"),
        ("objects", "i,object,size\n", ":1: the header"),
        ("objects", "i,obj,size\n0,a,4\n1,b,four\n", ":3: needs an 'obj' and a whole number as 'size'"),
        ("objects", "i,obj,size\n0,a,0\n", ":2: a size is a whole number of 1 or more, not 0"),
        ("objects", "i,obj,size\n0,a\n", ":2: needs an 'obj'"),
        ("objects", "i,obj,size\n", "asks for no documents"),
        ("paths", PATHS + '{"path": ["a"]', ":6: not valid JSON"),
        pytest.param("paths", "[" * 5000, ":1: not valid JSON", id="deep"),
        ("paths", "[1]\n", ":1: needs a JSON object"),
        ("paths", '{"path": ["a"], "sizes": [1, 2]}\n', ":1: needs lists 'path' and 'sizes' of one length"),
        ("paths", PATHS + '{"path": ["a"], "sizes": [true]}\n', ":6: a size is a whole number"),
        ("paths", '{"path": [1.5], "sizes": [1]}\n', ":1: a document's id is a text or a whole number, not 1.5"),
        ("paths", "\x00\n", ":1: not valid JSON"),
        ("ragpulse", PATHS, "the lengths of the passages are missing"),
    ],
)
def test_what_is_wrong_is_named_by_line(tmp_path, capsys, form, text, message):
    trace = written(tmp_path, "trace", text)
    arguments = ["simulate", "--trace", str(trace), "--format", form, "--policy", "lru", "--capacity", "5"]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_damaged_archive_and_a_missing_file(tmp_path):
    broken = tmp_path / "trace.csv.gz"
    for content in (b"nothing of the kind", gzip.compress(random.Random(0).randbytes(500).hex().encode())[:300]):
        broken.write_bytes(content)
        with pytest.raises(TraceError, match=f"cannot read {re.escape(str(broken))}: "):
            read_trace(broken, "objects")
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none.csv", "objects")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--policy", "lru,best", "there is no policy 'best'; known are lru, lfu"),
        ("--capacity", "5,0", "a capacity is a whole number of 1 or more, not '0'"),
        ("--capacity", "many", "not 'many'"),
        ("--cost", "dear", "'dear' is not a cost"),
        ("--curve", "curve.xyz", "ends in one of .png"),
        ("--curve", "nowhere/curve.png", "there is no folder nowhere"),
    ],
)
def test_wrong_options_are_named(tmp_path, capsys, option, value, message):
    options = {"--trace": str(written(tmp_path, "t.csv", OBJECTS)), "--format": "objects", "--policy": "lru"}
    options |= {"--capacity": "5", option: value}
    assert main(["simulate", *[part for pair in options.items() for part in pair]]) == 1
    assert message in capsys.readouterr().err


def test_the_table_is_for_people(tmp_path, capsys):
    trace = str(written(tmp_path, "trace.csv", OBJECTS))
    assert main(["simulate", "--trace", trace, "--format", "objects", "--policy", "all", "--capacity", "4,10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line][1:-1] == [*SIMULATED, *SIMULATED]


def test_the_curve_is_drawn(tmp_path, capsys):
    trace, png = str(written(tmp_path, "trace.csv", OBJECTS)), tmp_path / "curve.png"
    simulated(
        capsys, "--trace", trace, "--format", "objects", "--policy", "all", "--capacity", "4,10", "--curve", str(png)
    )
    assert png.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(curve, "Figure", None)
    trace = str(written(tmp_path, "trace.csv", OBJECTS))
    options = ["--format", "objects", "--policy", "lru", "--capacity", "4", "--curve", str(tmp_path / "c.png")]
    assert main(["simulate", "--trace", trace, *options]) == 1
    assert "pip install 'ragcache[plot]'" in capsys.readouterr().err


def test_it_needs_no_torch(tmp_path):
    trace = written(tmp_path, "trace.csv", OBJECTS)
    arguments = ["simulate", "--trace", str(trace), "--format", "objects", "--policy", "all", "--capacity", "5"]
    code = f"import sys; from ragcache.cli.main import main; main({arguments}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("False\n")


def skewed(seed: int = 3) -> Trace:
    """Paths of two: few documents are asked for often, and lengths differ thirtyfold."""
    chance = random.Random(seed)
    sizes = [chance.choice((100, 300, 1000, 3000)) for _ in range(400)]
    trace = Trace()
    for _ in range(6000):
        path = [int(400 * chance.random() ** 3) for _ in range(2)]
        trace.add([(str(name), sizes[name]) for name in path])
    return trace


@pytest.mark.parametrize("capacity", [20_000, 60_000, 200_000])
def test_pgdsf_saves_more_seconds_than_lru_and_less_than_the_future_would(capacity):
    simulation = Simulation(skewed(), PolynomialCost(50, 0.05))
    saved = {name: simulation.run(name, capacity).seconds_saved for name in ("lru", "pgdsf", "belady")}
    assert saved["pgdsf"] > 1.02 * saved["lru"]
    assert saved["belady"] > saved["pgdsf"]


def test_more_capacity_never_hurts_lru_and_everything_fits_at_last():
    simulation = Simulation(skewed(), PolynomialCost(50, 0.05))
    hits = [simulation.run("lru", capacity).hits for capacity in (5_000, 20_000, 80_000, 10**9)]
    assert hits == sorted(hits)
    assert len({simulation.run(name, 10**9).hits for name in SIMULATED}) == 1


@pytest.mark.parametrize("policy", SIMULATED)
def test_newcomers_that_compete_never_take_more_than_the_capacity(policy):
    simulation = Simulation(skewed(), PolynomialCost(50, 0.05), "competes")
    outcome = simulation.run(policy, 20_000)
    assert 0 < outcome.hits < simulation.trace.documents
    assert outcome == simulation.run(policy, 20_000)


def test_a_host_tier_below(tmp_path, capsys):
    trace = str(written(tmp_path, "trace.csv", "i,obj,size\n" + "".join(f"{i},{'abab'[i % 4]},4\n" for i in range(8))))
    options = ["--trace", trace, "--format", "objects", "--policy", "lru", "--capacity", "4"]
    (without,) = simulated(capsys, *options)
    (outcome,) = simulated(capsys, *options, "--host-capacity", "8")
    assert list(outcome) == [*FIELDS, "host_capacity", "host_hits"]
    assert (without["hits"], outcome["hits"], outcome["host_hits"], outcome["host_capacity"]) == (0, 6, 6, 8)
    assert main(["simulate", *options, "--host-capacity", "8"]) == 0
    assert "with a host of 8, whose hits are among the hits" in capsys.readouterr().out
    assert main(["simulate", *options, "--host-capacity", "-1"]) == 1
    assert "0 or more, not -1" in capsys.readouterr().err


def test_a_policy_of_ones_own_is_compared_with_the_others(tmp_path, capsys, monkeypatch):
    written(tmp_path, "mine_to_simulate.py", "from ragcache import POLICIES\nclass MyPolicy(POLICIES['arc']): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    trace = str(written(tmp_path, "trace.csv", OBJECTS))
    options = ["--trace", trace, "--format", "objects", "--capacity", "10"]
    lru, mine = simulated(capsys, *options, "--policy", "lru,mine_to_simulate:MyPolicy")
    (arc,) = simulated(capsys, *options, "--policy", "arc")
    assert (lru["policy"], mine) == ("lru", {**arc, "policy": "mine_to_simulate:MyPolicy"})
    assert main(["simulate", *options, "--policy", "lru,mine_to_simulate:MyPolicy"]) == 0
    name, capacity, *_ = capsys.readouterr().out.splitlines()[2].split()
    assert (name, capacity) == ("mine_to_simulate:MyPolicy", "10")
    assert main(["simulate", *options, "--policy", "mine_to_simulate:Yours"]) == 1
    assert "has no 'Yours'" in capsys.readouterr().err


def test_a_class_is_simulated_as_it_is():
    simulation = Simulation(skewed(), ConstantCost())
    by_class, by_name = simulation.run(LRU, 20_000), simulation.run("lru", 20_000)
    assert by_class == dataclasses.replace(by_name, policy="ragcache.policy.lru:LRU")


class NaiveTwoTiers:
    """LRU on a device and a host, one document a request: a host copy of what the device has goes first, the one that
    came to be such a mirror longest ago; else the host's least recently used goes."""

    def __init__(self, device: int, host: int) -> None:
        self.capacity = {"device": device, "host": host}
        self.device: dict[str, int] = {}
        self.host: dict[str, int] = {}
        self.mirrors: list[str] = []
        self.last_use: dict[str, int] = {}

    def use(self, name: str, size: int) -> tuple[bool, bool]:
        on_device, on_host = name in self.device, name in self.host
        if on_device:
            del self.device[name]
        if on_host:
            del self.host[name]
        if not on_device:
            if name in self.mirrors:
                self.mirrors.remove(name)
            while sum(self.device.values()) + size > self.capacity["device"]:
                victim = min(self.device, key=self.last_use.__getitem__)
                self.to_host(victim, self.device.pop(victim), loading=size if on_host else 0)
            if on_host:
                self.mirrors.append(name)
        self.device[name] = size
        if on_host:
            self.host[name] = size
        self.last_use[name] = len(self.last_use) and max(self.last_use.values()) + 1
        return on_device, on_host

    def to_host(self, name: str, size: int, loading: int) -> None:
        if name in self.host:
            self.mirrors.remove(name)
            return
        if size + loading > self.capacity["host"]:
            return
        while sum(self.host.values()) + loading + size > self.capacity["host"]:
            victim = self.mirrors.pop(0) if self.mirrors else min(self.host, key=self.last_use.__getitem__)
            del self.host[victim]
        self.host[name] = size


@pytest.mark.parametrize(("device", "host"), [(3_000, 6_000), (8_000, 8_000), (20_000, 5_000), (10_000, 60_000)])
def test_two_tiers_of_lru_hit_as_a_naive_replay_does(device, host):
    chance = random.Random(device)
    sizes = [chance.choice((100, 300, 1000, 2500)) for _ in range(100)]
    documents = [int(100 * chance.random() ** 2) for _ in range(4000)]
    trace, naive = Trace(), NaiveTwoTiers(device, host)
    for document in documents:
        trace.add([(str(document), sizes[document])])
    expected = [naive.use(str(document), sizes[document]) for document in documents]
    bits: list[int] = []
    outcome = Simulation(trace, ConstantCost(), host_capacity=host).run("lru", device, on_request=bits.append)
    assert bits == [on_device or on_host for on_device, on_host in expected]
    assert outcome.host_hits == sum(on_host and not on_device for on_device, on_host in expected) > 100


@pytest.mark.parametrize("policy", SIMULATED)
def test_a_host_saves_more_than_the_device_alone_and_less_than_one_tier_of_both_sizes(policy):
    trace = skewed()
    alone = Simulation(trace, PolynomialCost(50, 0.05)).run(policy, 20_000)
    both = Simulation(trace, PolynomialCost(50, 0.05), host_capacity=60_000).run(policy, 20_000)
    as_large = Simulation(trace, PolynomialCost(50, 0.05)).run(policy, 80_000)
    assert 1.5 * alone.seconds_saved < both.seconds_saved < as_large.seconds_saved
