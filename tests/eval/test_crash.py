"""The crash evaluation kills real servers of the tiny model, and its report says what it saw."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from eval import crash
from eval.props.uncached import Uncached
from tests.props.live import TOPICS

# two requests of the tiny model fit on the device and not all they leave on the host
SIZES = ["--device-cache", "200KiB", "--host-cache", "100KiB", "--disk-cache", "16MiB", "--threads", "1"]
PATIENCE = 60


@pytest.fixture
def options(tmp_path: Path, tiny_index: Path, tiny_folder: Path) -> list[str]:
    questions = tmp_path / "questions.jsonl"
    rows = [{"id": name, "question": f"What is known of the {name}?"} for name in TOPICS]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", str(tiny_folder), "--index", str(tiny_index), "--questions", str(questions), *SIZES]


@pytest.mark.full(proof="test_what_differs_or_is_damaged_is_a_problem")
def test_servers_that_are_killed_serve_what_is_right_afterwards(options, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(crash, "STARTING_SHARE", 0.5)
    monkeypatch.setattr(crash, "FINISHING_SHARE", 0.5)
    status = crash.main([*options, "--rounds", "3", "--load-seconds", "1", "--seed", "2", "--json"])
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (status, report["problems"]) == (0, []), report
    assert report["rounds"] == report["restarts"] == 3
    kills = report["kills"]
    assert kills["under load"] + kills.get("finishing", 0) + kills.get("ended before", 0) == 3
    assert kills["starting"] >= 1
    assert report["visible"]["max"] > 0
    assert report["verified"] > 0
    assert (report["damaged"], report["discarded"]) == (0, 0)
    assert set(report["swept"]) <= {"unfinished"}
    first, load = report["first_answers"], report["load_answers"]
    assert first["equal"] + first["ties"] == 4 * crash.FIRST
    assert load["equal"] > 0
    assert first["different"] == load["different"] == 0
    assert report["first_tokens"]["disk"] > 0
    assert not list(tmp_path.glob("ragcache-crash-*"))


def test_what_differs_or_is_damaged_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(crash.DiskStore, "verify", lambda _: {b"key": crash.RagCacheError("a record is damaged")})
    crash.DiskStore.open(tmp_path / "kv", 16 << 20, b"model").close()
    config = crash.ServeConfig(index=tmp_path / "faiss.idx", disk_cache=f"{tmp_path / 'kv'}:16MiB")
    reference = {"why?": Uncached("no", ("no",), (1.0,))}
    rounds = crash.Crash(config, ["why?"], [], reference, b"model", tmp_path, seed=0, clients=1, load_seconds=0)
    usage = {"prompt_tokens": 3, "computed_tokens": 2, "cached_tokens": {"disk": 2}, "completion_tokens": 1}
    rounds._compare("why?", {"answer": "yes", "usage": usage}, rounds.report.first_answers, rounds.report.first_tokens)
    rounds._check_disk()
    assert rounds.report.first_answers.different == 1
    assert rounds.report.problems == [
        "round 0: 'why?': {'computed': 2, 'disk': 2} do not add up to 3 tokens",
        "round 0: 'why?': 'yes', uncached 'no' with margins (1.0,)",
        "round 0: a record is damaged",
    ]


@pytest.mark.full(proof="test_what_differs_or_is_damaged_is_a_problem")
def test_what_must_not_be_is_told_and_is_a_failure(options, capsys, monkeypatch):
    """A reference that nothing equals, and a record that is damaged behind the servers' backs."""
    verified = crash.DiskStore.verify
    monkeypatch.setattr(
        crash, "answer_uncached", lambda _, texts: {text: Uncached("no", ("no",), (1.0,)) for text in texts}
    )
    monkeypatch.setattr(
        crash.DiskStore, "verify", lambda self: verified(self) | {b"key": crash.RagCacheError("a record is damaged")}
    )
    assert crash.main([*options, "--rounds", "1", "--load-seconds", "0.2"]) == 1
    out = capsys.readouterr().out
    assert f"{2 * crash.FIRST} compared, 0 equal, 0 ties, {2 * crash.FIRST} different" in out
    assert "PROBLEM: round 1: a record is damaged" in out
    assert "uncached 'no' with margins (1.0,)" in out


def test_an_interruption_leaves_no_folder(options, capsys, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        assert list(tmp_path.glob("ragcache-crash-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(crash, "answer_uncached", lambda *_: {})
    monkeypatch.setattr(crash.Crash, "run", interrupted)
    assert crash.main(options) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert not list(tmp_path.glob("ragcache-crash-*"))


@pytest.mark.full(proof="test_an_interruption_leaves_no_folder")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_ends_the_servers_and_removes_the_folder(options, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.crash", *options, "--rounds", "50"],
        cwd=Path(crash.__file__).parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    servers: list[psutil.Process] = []
    while not servers and time.monotonic() < deadline and process.poll() is None:
        servers = psutil.Process(process.pid).children()
        time.sleep(0.05)
    time.sleep(random.Random(number).uniform(0, 2))
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert servers, err
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 128 + 15}[number]
    assert out == ""
    assert "Traceback" not in err
    assert not any(server.is_running() and server.status() != psutil.STATUS_ZOMBIE for server in servers)
    assert not list(tmp_path.glob("ragcache-crash-*"))


def test_an_answer_over_http_is_equal_tied_or_different():
    reference = Uncached("one two three", ("one", "one two", "one two three"), (1.0, 1e-5, 1.0))

    def verdict(text: str, tokens: int) -> str:
        return reference.compare({"answer": text, "usage": {"completion_tokens": tokens}})

    assert verdict("one two three", 3) == "equal"
    assert verdict("one two three", 2) == "different"
    assert verdict("one too three", 3) == "tie"
    assert verdict("one two more", 3) == "different"
    assert verdict("two two three", 3) == "different"
    assert verdict("one two three four", 4) == "different"


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--clients", "0"], ["--load-seconds", "nan"]])
def test_impossible_settings_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        crash.main(wrong)
    assert "must be at least" in capsys.readouterr().err


def test_a_missing_model_is_one_line(options, capsys):
    assert crash.main([*options, "--model", "/no/such/model"]) == 1
    assert capsys.readouterr().err.startswith("crash: no model at /no/such/model")
