"""Work beside busy processes: they run while the block does, and the engine keeps to its bounds beside them."""

import time
from pathlib import Path

import psutil
import pytest

from eval.bench_busy import LIMITS, BusyBench
from eval.props.neighbours import neighbours
from ragcache.engine.cores import available_cores
from ragcache.model.checkpoint import Checkpoint
from tests.props.torch_runs import prompt


def busy_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "1_000_000" in " ".join(child.cmdline())]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_neighbours_are_busy_until_the_block_ends(count):
    with neighbours(count):
        deadline = time.monotonic() + 20
        while len(busy_children()) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        processes = busy_children()
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        time.sleep(0.3)
        assert len(processes) == count
        assert (sum(sum(process.cpu_times()[:2]) for process in processes) > before) is (count > 0)
    psutil.wait_procs(processes, timeout=20)
    assert busy_children() == []


@pytest.fixture
def tiny_bench(tiny_folder: Path) -> BusyBench:
    return BusyBench(Checkpoint.resolve(str(tiny_folder)), runs=1, threads=2)


@pytest.mark.full(proof="test_neighbours_are_busy_until_the_block_ends")
def test_each_work_is_reported_quiet_and_beside_each_load(tiny_bench, monkeypatch):
    monkeypatch.setattr("eval.bench_busy.SETTLE_SECONDS", 0.05)
    monkeypatch.setattr("eval.bench_busy.PROMPT", 100)
    monkeypatch.setattr("eval.bench_busy.TEXTS", 2)
    monkeypatch.setattr("eval.props.timed_engine.random_ids", prompt)  # of the tiny model's vocabulary
    report, bounds = tiny_bench.run()
    assert len(report) == 3
    assert [bound.limit for bound in bounds] == [*LIMITS.values()] * 3
    for row in report.values():
        for load in LIMITS:
            assert row[load]["ms"] == pytest.approx(row["quiet_ms"] * row[load]["ratio"], rel=0.02, abs=0.2)


@pytest.mark.timing
@pytest.mark.skipif(available_cores() < 2, reason="one thread waits for no other")
def test_threads_that_share_the_work_do_not_hold_one_another_up_beside_a_busy_process_a_core():
    """Threads that spin took 5 times as long for a prefill and 37 times for a token; 3 is what `make bench` holds."""
    bench = BusyBench(Checkpoint.resolve("default"), runs=3, threads=available_cores(), loads=["one a core"])
    report, _ = bench.run()
    for name, row in report.items():
        assert row["one a core"]["ratio"] <= 3.5, f"{name}: {row}"
