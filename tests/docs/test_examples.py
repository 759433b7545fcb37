"""Each script of examples/ runs as its first line says, over the tiny model and index where it needs them."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"
NOT_RUN = {"openai_client.py"}  # needs vLLM; its connector's side is tested in tests/vllm
RunExample = Callable[..., str]


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_each_example_compiles_and_is_described(script: Path) -> None:
    compile(script.read_text(encoding="utf-8"), str(script), "exec")
    assert f"`{script.name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_each_example_is_run() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    for script in EXAMPLES.iterdir():
        if script.suffix in (".py", ".sh") and script.name not in NOT_RUN:
            assert f'"{script.name}"' in tested, f"{script.name} is not run"


def test_ask(
    tiny_index: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = ["--index", str(tiny_index / "faiss.idx"), "--model", str(tiny_folder), "--max-tokens", "8"]
    monkeypatch.setattr(sys, "argv", ["ask.py", *options, "Why do owls fly?"])
    runpy.run_path(str(EXAMPLES / "ask.py"), run_name="__main__")  # in this process: it loads in a second
    printed = capsys.readouterr().out
    first, again = (int(line.split()[2]) for line in printed.splitlines()[:2])
    assert 0 < again < first
    assert "documents: Owl" in printed


def test_over_http(run_example: RunExample, site: str) -> None:
    printed = run_example("over_http.py", "--url", site, "Why do otters hold hands?")
    assert "documents: Otter" in printed
    assert "time to first token" in printed
    assert "the device holds {'total'" in printed


def test_over_http_with_curl(site: str) -> None:
    script = str(EXAMPLES / "over_http.sh")
    done = subprocess.run(["sh", script, site], capture_output=True, text=True, check=True, timeout=60)
    assert '{"status":"ready"}' in done.stdout
    assert "event: done" in done.stdout
    assert '"integrity"' in done.stdout


def test_own_policy(run_example: RunExample) -> None:
    rows = dict(line.split(maxsplit=1) for line in run_example("own_policy.py").splitlines())
    assert list(rows) == ["Patience", "lru", "pgdsf", "s3fifo", "belady"]
    share = {name: float(row.split("%")[0]) for name, row in rows.items()}
    assert 0 < share["Patience"] <= share["belady"]


@pytest.mark.full(proof="test_own_policy")
def test_simulate_trace(run_example: RunExample, tmp_path: Path) -> None:
    assert "drawn in small.svg" in run_example("simulate_trace.py", "--trace", "trace.jsonl", "--out", "small.svg")
    assert (tmp_path / "small.svg").stat().st_size > 1_000
    assert "drawn in curve.svg" in run_example("simulate_trace.py")


def test_replay_workload(run_example: RunExample) -> None:
    header, *rows = run_example("replay_workload.py", "--requests", "20").splitlines()
    assert "TTFT p50" in header
    assert [row.split()[0] for row in rows] == ["a10g", "a10g", "h100", "h100"]
    assert all(row.endswith("0.0%") for row in rows[::2])
    assert not any(row.endswith("0.0%") for row in rows[1::2])


@pytest.mark.full(proof="test_each_example_compiles_and_is_described")
def test_pimsim_sweep(run_example: RunExample, tmp_path: Path) -> None:
    printed = run_example("pimsim_sweep.py", "--out", "sweep")
    assert "'device.stacks': 1" in printed
    assert (tmp_path / "sweep" / "front.svg").exists()
