"""A sweep's results: equal for any number of workers and after any end, and kept apart from another sweep's."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pimsim.errors import PimsimError, WorkloadError
from pimsim.sweep import table
from pimsim.sweep.design import Sweep
from pimsim.sweep.folder import Folder
from pimsim.sweep.point import CHUNKS, LARGEST_CHUNK, chunks
from pimsim.sweep.results import Results
from pimsim.sweep.run import run_sweep

MODELS = "tests.pimsim.props.models"
PATIENCE = 60


def swept(out, target="uneven", workers=1, count=23, **more):
    sweep = Sweep.of(f"{MODELS}:{target}", axes={"x": list(range(count))}, **more)
    return run_sweep(sweep, out, workers=workers)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".lock")


def test_a_row_has_the_point_its_axes_its_error_and_its_result(tmp_path):
    sweep = Sweep.of(f"{MODELS}:plane", base={"z": 7}, axes={"y": [0.5, 1.5], "x": [1, 2]})
    results = run_sweep(sweep, tmp_path / "out", workers=1)
    assert results.rows[1] == {
        "point": 1, "y": 0.5, "x": 2, "error": None, "total": 6.5, "parts.x": 6, "parts.x_us": 1.5, "kind": "plane",
        "result.y": -1, "many": "[1, 2]",
    }  # fmt: skip
    assert [(row["y"], row["x"]) for row in results.rows] == sweep.points()
    assert results.axes == ("y", "x")
    assert results.name("x_us") == "parts.x_us"
    assert Results.open(tmp_path / "out").rows == results.rows
    assert results.sweep == sweep
    assert files(tmp_path / "out") == ["manifest.json", "results.parquet"]


def test_points_that_fail_are_rows_with_their_error(tmp_path):
    results = swept(tmp_path / "out")
    assert results.errors == dict.fromkeys((3, 8, 13, 18), "ZeroDivisionError: a point at which the model has a defect")
    assert results.values("value")[:5] == [0.0, 1.0, 0.5, None, 1.0]  # whole numbers and others are all float64
    assert results.values("odd")[:3] == [None, True, None]
    assert "none" not in results.table.column_names


def test_a_simulators_own_error_is_a_row_too(tmp_path):
    sweep = Sweep.of("attention", base={"heads": 1, "head_dim": 128, "fidelity": "closed"}, axes={"length": [0, 256]})
    results = run_sweep(sweep, tmp_path / "out", workers=1)
    assert results.errors == {0: "length must be 1 at least, not 0"}
    assert results.numbers("time_us")[1] > 0


def test_results_are_equal_for_any_number_of_workers(tmp_path):
    alone = swept(tmp_path / "alone").folder.results.read_bytes()
    for workers in (2, 5):
        assert swept(tmp_path / f"{workers}", workers=workers).folder.results.read_bytes() == alone


def test_chunks_hold_all_points_in_order_and_lose_little():
    for count in (1, CHUNKS - 1, 2 * CHUNKS, 5 * CHUNKS + 3, 3 * LARGEST_CHUNK * CHUNKS):
        sweep = Sweep.of(
            f"{MODELS}:plane", base={"y": 0}, axes={"x": {"from": 0.0, "to": 1.0}}, sample="random", points=count
        )
        cut = chunks(sweep)
        assert [point for chunk in cut for point in chunk.points] == sweep.points()
        assert [chunk.number for chunk in cut] == list(range(len(cut)))
        assert all(chunk.first == sum(len(other.points) for other in cut[: chunk.number]) for chunk in cut)
        assert max(len(chunk.points) for chunk in cut) <= LARGEST_CHUNK


SLOW = {"target": f"{MODELS}:slow", "base": {"seconds": 0.02}, "axes": {"x": {"from": 1, "to": 100, "steps": 100}}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run_sweep(Sweep.of(**SLOW), tmp_path_factory.mktemp("whole") / "out", workers=1).folder.results.read_bytes()


def begun(tmp_path, out):
    """A sweep as a command of two workers, in a group of processes of its own, after some of its parts are there."""
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(SLOW, sort_keys=False))
    command = [sys.executable, "-m", "pimsim.cli", "sweep", str(file), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while len(list(out.glob("parts/*.parquet"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return file, process


def nobody_is_left(group):
    """Whether all processes of the group end, those whose parent is gone included."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


OTHER_SIGNAL = pytest.mark.full(proof="test_a_sweep_that_ended_early_goes_on_to_the_same_results")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGKILL, -9),
        pytest.param(signal.SIGTERM, 143, marks=OTHER_SIGNAL),
        pytest.param(signal.SIGINT, 130, marks=OTHER_SIGNAL),
    ],
)
def test_a_sweep_that_ended_early_goes_on_to_the_same_results(tmp_path, uninterrupted, number, status):
    out = tmp_path / "out"
    file, process = begun(tmp_path, out)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does it
    else:
        process.send_signal(number)
    shown = process.communicate(timeout=PATIENCE)[1].decode()
    assert process.returncode == status
    assert "Traceback" not in shown
    assert nobody_is_left(process.pid)
    kept = [name for name in files(out) if name.startswith("parts/")]
    assert 3 <= len(kept) < 100
    assert all(re.fullmatch(r"parts/\d+\.parquet(\.partial)?", name) for name in kept)
    assert number == signal.SIGKILL or not any(name.endswith(".partial") for name in kept)
    assert not (out / "results.parquet").exists()
    with pytest.raises(PimsimError, match="has not ended"):
        Results.open(out)

    before = {name: (out / name).stat().st_mtime_ns for name in kept if name.endswith(".parquet")}
    simulated = []
    keep = Folder.keep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "keep", lambda self, chunk, rows: (simulated.append(chunk), keep(self, chunk, rows)))
        again = run_sweep(file, out, workers=2)
    assert len(simulated) == 100 - len(before)
    assert not {f"parts/{chunk:05}.parquet" for chunk in simulated} & set(before)
    assert again.folder.results.read_bytes() == uninterrupted
    assert files(out) == ["manifest.json", "results.parquet"]


def test_what_a_kill_left_half_written_is_removed_and_what_is_damaged_is_simulated_again(tmp_path):
    whole = swept(tmp_path / "whole").folder.results.read_bytes()
    out = swept(tmp_path / "out").folder
    out.results.unlink()
    out.parts.mkdir()
    out.part(4).write_bytes(b"PAR1 and no more")
    (out.parts / "00005.parquet.partial").write_bytes(b"PAR1")
    (out.path / "results.parquet.partial").write_bytes(b"PAR1")
    assert swept(out.path).folder.results.read_bytes() == whole
    assert files(out.path) == ["manifest.json", "results.parquet"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("moment", ["written", "synced"])
def test_what_ends_in_the_middle_of_a_file_leaves_nothing_of_it(tmp_path, monkeypatch, error, moment):
    def write(partial):
        partial.write_bytes(b"PAR1")
        if moment == "written":
            raise error

    def fsync(_):
        raise error

    monkeypatch.setattr(table.os, "fsync", fsync)
    with pytest.raises(error):
        table.whole(tmp_path / "00001.parquet", write)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_killed_ends_the_sweep_and_what_had_ended_is_kept(tmp_path):
    with pytest.raises(PimsimError, match="a process of the sweep has ended"):
        swept(tmp_path / "out", target="deadly", workers=2)
    assert (tmp_path / "out" / "parts").is_dir()
    assert not list(tmp_path.rglob("*.partial"))


def test_another_sweep_is_refused_in_the_same_folder(tmp_path):
    swept(tmp_path / "out")
    for other, said in (
        ({"count": 22}, "axes"),
        ({"base": {"y": 1}}, "base"),
        ({"target": "plane", "base": {"y": 0}}, "target"),
    ):
        with pytest.raises(PimsimError, match=f"holds another sweep's results; what differs: .*{said}"):
            swept(tmp_path / "out", **other)
    manifest = tmp_path / "out" / "manifest.json"
    contents = json.loads(manifest.read_text())
    contents["sweep"]["code"] = "other"
    manifest.write_text(json.dumps(contents))
    with pytest.raises(PimsimError, match="what differs: code"):
        swept(tmp_path / "out")


def test_two_do_not_write_in_one_folder(tmp_path):
    sweep = Sweep.of(f"{MODELS}:uneven", axes={"x": [1, 2]})
    with (
        Folder(tmp_path / "out").claimed(sweep.identity()),
        pytest.raises(PimsimError, match="another sweep writes there"),
    ):
        run_sweep(sweep, tmp_path / "out", workers=1)
    assert len(run_sweep(sweep, tmp_path / "out", workers=1)) == 2


def test_folders_that_are_no_sweeps_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(PimsimError, match="holds other files and no sweep"):
        swept(tmp_path)
    assert files(tmp_path) == ["thesis.tex"]
    with pytest.raises(PimsimError, match="holds no sweep"):
        Results.open(tmp_path)
    with pytest.raises(PimsimError, match="cannot write to"):
        swept(tmp_path / "thesis.tex" / "out")


def test_workers_and_executors_that_are_none_are_refused(tmp_path):
    with pytest.raises(WorkloadError, match="workers must be 1 or more"):
        swept(tmp_path / "out", workers=0)
    with pytest.raises(WorkloadError, match="executor must be processes or ray"):
        run_sweep(Sweep.of(f"{MODELS}:uneven", axes={"x": [1]}), tmp_path / "out", executed_by="slurm")
    assert not Path(tmp_path / "out").exists()
