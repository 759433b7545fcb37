"""Sweeps on Ray: the same results as with processes, and a clear word where Ray is missing."""

import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from pimsim.cli import main
from pimsim.errors import PimsimError
from pimsim.sweep.design import Sweep
from pimsim.sweep.run import run_sweep

SWEEP = Sweep.of("tests.pimsim.props.models:uneven", axes={"x": list(range(23))})


class OneAtATime:
    """Ray as far as a sweep sees it: the last task that was begun ends first."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, fails_after=1000):
        self.running = False
        self.most = 0
        self.left = fails_after

    def is_initialized(self):
        return self.running

    def init(self, **options):
        assert options["num_cpus"] == 3
        self.running = True

    def shutdown(self):
        self.running = False

    def cluster_resources(self):
        return {"CPU": 3.0}

    def remote(self, function):
        return SimpleNamespace(remote=lambda chunk: (function, chunk))

    def wait(self, pending, num_returns):
        assert num_returns == 1
        self.most = max(self.most, len(pending))
        return [pending[-1]], pending[:-1]

    def get(self, task):
        self.left -= 1
        if self.left < 0:
            raise self.exceptions.RayError("a node is gone")
        function, chunk = task
        return function(chunk)


def test_tasks_in_any_order_give_the_same_results(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    stand_in = OneAtATime()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    on_ray = run_sweep(SWEEP, tmp_path / "ray", workers=3, executed_by="ray")
    alone = run_sweep(SWEEP, tmp_path / "alone", workers=1)
    assert on_ray.folder.results.read_bytes() == alone.folder.results.read_bytes()
    assert stand_in.most == 6  # no more are handed out than the cluster has use for
    assert not stand_in.running


def test_what_had_ended_before_ray_failed_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", OneAtATime(fails_after=4))
    with pytest.raises(PimsimError, match="a node is gone"):
        run_sweep(SWEEP, tmp_path / "ray", workers=3, executed_by="ray")
    assert len(list((tmp_path / "ray" / "parts").iterdir())) == 4


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PimsimError, match=r"pip install 'ragcache\[ray\]'"):
        run_sweep(SWEEP, tmp_path / "ray", workers=3, executed_by="ray")


@pytest.mark.full(proof="test_tasks_in_any_order_give_the_same_results")
def test_ray_itself_gives_the_same_results(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    alone = run_sweep(SWEEP, tmp_path / "alone", workers=1)
    results = run_sweep(SWEEP, tmp_path / "ray", workers=2, executed_by="ray")
    assert results.folder.results.read_bytes() == alone.folder.results.read_bytes()
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"target": SWEEP.target, "axes": {"x": list(range(23))}}))
    command = [
        "sweep",
        str(file),
        "--out",
        str(tmp_path / "by_ray"),
        "--executor",
        "ray",
        "--workers",
        "2",
        "--quiet",
    ]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 23
    assert (tmp_path / "by_ray" / "results.parquet").read_bytes() == alone.folder.results.read_bytes()
