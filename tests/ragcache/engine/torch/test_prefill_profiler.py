"""`ragcache profile`: what is measured and how, where the profile is saved, and which settings get it."""

import contextlib
import dataclasses
import json
import statistics

import pytest
import torch

from ragcache.cli.assembly import torch as assembly
from ragcache.cli.config import ServeConfig
from ragcache.cli.main import main
from ragcache.cost import AnalyticCost, PrefillProfile, parse_cost
from ragcache.engine.torch.model import TorchModel
from ragcache.engine.torch.prefill_profiler import (
    Plan,
    PrefillProfiler,
    Setting,
    doubts,
    estimate,
    find_profile,
    parse_axis,
    table,
)
from ragcache.errors import ConfigError
from ragcache.model.checkpoint import Checkpoint

PLAN = Plan(threads=1, runs=2, prefill_chunk=20, cached=(0, 30, 600), new=(5, 50))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No test finds or leaves a profile in this machine's own cache, or measures its GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RAGCACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Recording:
    """A model that computes nothing: each step takes `seconds(step)` on a clock of its own."""

    def __init__(self, model, seconds):
        self._model = model
        self._seconds = seconds
        self.now = 0.0
        self.steps = []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def clock(self):
        return self.now

    def forward(self, steps):
        (step,) = steps
        past = sum(span.length for span in step.past)
        assert past == step.start
        self.steps.append((past, len(step.tokens), step.wants_logits))
        self.now += self._seconds(self, step)
        left = len(step.tokens)
        for span in step.targets:
            share = min(span.room, left)
            span.length += share
            left -= share
        assert left == 0


def test_it_measures_what_the_engine_does_chunk_by_chunk(tiny_model):
    model = Recording(tiny_model, lambda _, step: 1.0 + len(step.tokens) + step.start / 100)
    profile = PrefillProfiler(model, PLAN, clock=model.clock).measure()
    # 5 tokens are one step, 50 are three: 20, 20, 10
    for cached, row in zip(profile.cached, profile.seconds, strict=True):
        starts = [cached, cached + 20, cached + 40]
        assert row == pytest.approx((1 + 5 + cached / 100, 3 + 50 + sum(starts) / 100))
    assert sum(tokens for _, tokens, _ in model.steps) == 2 * 3 * 55
    assert (30 + 40, 10, True) in model.steps
    assert (30 + 20, 20, False) in model.steps
    assert max(value for row in profile.spread for value in row) < 1e-9


def test_each_run_visits_every_point_in_an_order_of_its_own_and_equal_plans_in_equal_orders(tiny_model):
    plan = dataclasses.replace(PLAN, runs=4, new=(5, 10))
    seen = []
    for _ in range(2):
        model = Recording(tiny_model, lambda *_: 1.0)
        done = []
        PrefillProfiler(model, plan, clock=model.clock).measure(done.append)
        assert sum(done) == 4 * 3 * 15
        seen.append([(past, tokens) for past, tokens, _ in model.steps])
    assert seen[0] == seen[1]
    runs = [seen[0][first : first + 6] for first in range(0, 24, 6)]
    assert all(sorted(run) == sorted(runs[0]) for run in runs)
    assert len({tuple(run) for run in runs}) > 1


def test_a_time_is_the_median_and_one_stall_does_not_move_it(tiny_model):
    def seconds(model, _):
        return 100.0 if len(model.steps) == 3 else 1.0 + len(model.steps) % 2 / 100

    model = Recording(tiny_model, seconds)
    plan = dataclasses.replace(PLAN, runs=5, prefill_chunk=512)
    profile = PrefillProfiler(model, plan, clock=model.clock).measure()
    assert all(0.999 < value < 1.011 for row in profile.seconds for value in row)
    assert max(value for row in profile.spread for value in row) == pytest.approx(99, rel=0.02)
    assert doubts(profile) == f"a time varied by {max(v for row in profile.spread for v in row):.0%}"


def test_doubts_name_times_that_fall_with_more_tokens():
    def profile(*rows):
        return PrefillProfile("m", "cpu", "float32", 1, (0, 10), (5, 50), rows)

    assert doubts(profile((1.0, 2.0), (1.5, 3.0))) is None
    assert doubts(profile((1.0, 1.0), (1.5, 3.0))) == "more tokens took less time"
    assert doubts(profile((1.0, 2.0), (0.5, 3.0))) == "more tokens took less time"


def test_the_profile_of_a_real_model_says_what_it_is_of_and_is_bilinear(tiny_model):
    profiler = PrefillProfiler(tiny_model, PLAN)
    assert profiler.warm_up() > 0
    profile = profiler.measure()
    assert (profile.threads, profile.prefill_chunk, profile.runs, profile.model) == (1, 20, 2, "tiny-llama")
    assert (profile.dtype, profile.device.split()[0]) == ("float32", "cpu")
    assert profile.measured_at.endswith("+00:00")
    assert profile.shape.startswith("LlamaForCausalLM 2x64, ")
    around = [value for row in profile.seconds[:2] for value in row]
    middle = profile(15, 27)
    assert min(around) <= middle <= max(around)
    between = [row[0] + (row[1] - row[0]) * 22 / 45 for row in profile.seconds[:2]]
    assert middle == pytest.approx(statistics.mean(between))
    assert "cached | new" in table(profile)


def test_default_grids_end_at_the_context():
    assert Plan(1).grid(8192).cached == (0, 512, 2048, 6144)
    assert Plan(1).grid(8192).new == (16, 64, 256, 1024, 2048)
    assert Plan(1).grid(10**6) == Plan(1).grid(8192)
    for context in (16, 100, 2048, 4096):
        grid = Plan(1).grid(context)
        assert context // 2 < grid.cached[-1] + grid.new[-1] <= context
    assert Plan(1, cached=(0, 8000)).grid(8192).new == (16, 24, 64, 96, 192)  # the other axis gives way
    assert Plan(1, new=(16, 8000)).grid(8192).cached == (0, 16, 64, 192)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cached", "0"), "--cached takes two or more ascending numbers of tokens from 0 on, not '0'"),
        (("--new", "16"), "--new takes two or more ascending"),
        (("--new", "64,16"), "--new takes two or more ascending numbers of tokens from 1 on, not '64,16'"),
        (("--new", "0,16"), "--new takes two or more ascending"),
        (("--cached", "0,many"), "--cached takes whole numbers with commas between, not '0,many'"),
        (("--cached", "-1,5"), "--cached"),
        (("--runs", "0"), "--runs must be 1 or more, not 0"),
        (("--threads", "-2"), "--threads must be 1 or more, not -2"),
        (("--prefill-chunk", "0"), "--prefill-chunk must be 1 or more, not 0"),
        (("--cached", "0,8000", "--new", "16,1000"), "8000 cached and 1000 new tokens are 9000 in all; the model"),
        (("--cached", "0,9000"), "9000 cached and 2 new tokens are 9002 in all; the model reads 8192"),
        (("--out", "nowhere/profile.json"), "cannot write nowhere/profile.json: No such file or directory"),
        (("--out", "."), "cannot write .: it is not a regular file"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_told_in_a_line(tiny_folder, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    option = [arguments[0] + "=" + arguments[1], *arguments[2:]]
    assert main(["profile", "--model", str(tiny_folder), *option]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*.json")] == []


def test_a_model_that_is_not_there(capsys):
    assert main(["profile", "--model", "./none"]) == 1
    assert "no model at none" in capsys.readouterr().err


def profiled(tiny_folder, *options):
    small = ["--cached", "0,40", "--new", "4,32", "--runs", "1", "--threads", "1"]
    return main(["profile", "--model", str(tiny_folder), *small, *options])


def test_the_command_keeps_it_where_it_is_found(tiny_folder, tiny_model, home, capsys):
    assert find_profile(tiny_model, 1) is None
    assert profiled(tiny_folder) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 6
    assert "measuring 4 points 1 times: about 1 s" in printed.err
    (file,) = (home / "profiles").iterdir()
    assert file.name.startswith("tiny-llama-cpu")
    assert f"profile in {file}" in printed.err
    assert find_profile(tiny_model, 1) == PrefillProfile.load(file) == parse_cost(str(file))


def test_json_is_the_profile_and_out_is_its_file(tiny_folder, tmp_path, home, capsys):
    assert profiled(tiny_folder, "--out", str(tmp_path / "p.json"), "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "p.json").read_text())
    assert not home.exists()


def test_a_profile_of_something_else_is_not_used(tiny_folder, tiny_model, llama, caplog):
    assert profiled(tiny_folder) == 0
    file = Setting.of(tiny_model, 1).file
    assert find_profile(tiny_model, 2) is None  # other threads: another file
    wider = TorchModel(llama(hidden_size=128), "tiny-llama")  # another model of the same name
    assert find_profile(wider, 1) is None
    assert caplog.messages == []
    profile = PrefillProfile.load(file)
    for change in ({"model": "x"}, {"device": "cuda"}, {"dtype": "float16"}, {"threads": 3}, {"shape": "y"}):
        dataclasses.replace(profile, **change).save(file)
        caplog.clear()
        assert find_profile(tiny_model, 1) is None
        (name, value) = next(iter(change.items()))
        assert f"was measured with {name} {value} instead of" in caplog.messages[0]
    file.write_text("{}")
    assert find_profile(tiny_model, 1) is None


def assembled(tiny_index, tiny_folder, **settings):
    """The cost in use, and the line about it."""
    said = []
    config = ServeConfig(index=tiny_index / "faiss.idx", model=str(tiny_folder), threads=1, **settings)
    with contextlib.closing(assembly.assemble(config, said.append)) as service:
        return service.cache._cost, *said


def test_serve_takes_the_measured_times_if_there_are_any(tiny_index, tiny_folder, tiny_model):
    cost, said = assembled(tiny_index, tiny_folder)
    assert isinstance(cost, AnalyticCost)
    assert cost == estimate(tiny_model)
    assert said == "prefill times: estimated from the model's shape (`ragcache profile` measures them)"
    assert profiled(tiny_folder) == 0
    cost, said = assembled(tiny_index, tiny_folder)
    file = Setting.of(tiny_model, 1).file
    assert cost == PrefillProfile.load(file)
    assert said == f"prefill times: {file}, measured {cost.measured_at}"
    assert assembled(tiny_index, tiny_folder, prefill_chunk=64)[1].endswith(", in chunks of 512 tokens")


def test_serve_takes_the_file_it_is_given_and_warns_of_what_differs(tiny_index, tiny_folder, tmp_path, caplog):
    file = tmp_path / "other.json"
    profile = PrefillProfile("another", "cpu", "float32", 7, (0, 10), (5, 50), ((1.0, 2.0), (2.0, 3.0)))
    profile.save(file)
    cost, said = assembled(tiny_index, tiny_folder, profile=str(file))
    assert cost == profile
    assert said.startswith(f"prefill times: {file}")
    assert "model another instead of tiny-llama" in caplog.text
    assert "threads 7 instead of 1" in caplog.text
    with pytest.raises(ConfigError, match="cannot read the profile"):
        assembled(tiny_index, tiny_folder, profile=str(tmp_path / "none.json"))


def test_axes():
    assert parse_axis("0, 16,64", "--new") == (0, 16, 64)


@pytest.mark.timing
@pytest.mark.real
def test_the_default_model_takes_longer_for_more_tokens(checkpoint: Checkpoint, model: TorchModel):
    plan = Plan(threads=1, runs=3, cached=(0, 1024), new=(16, 256))
    profiler = PrefillProfiler(model, plan)
    profiler.warm_up()
    profile = profiler.measure()
    assert profile.model == checkpoint.name
    for row in profile.seconds:
        assert 2 * row[0] < row[1]
    assert profile.seconds[0][1] < profile.seconds[1][1]
