"""The benchmark of the tiers has a row for each move and says in it what it was held against."""

import json
from pathlib import Path

import pytest
import torch

from eval import bench_tiers
from ragcache.engine.torch.kv import KVLayout

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=16, dtype=torch.float32)


def test_every_move_is_measured_against_a_plain_copy() -> None:
    rows = bench_tiers.measure(LAYOUT, tokens=50, runs=3)
    moves = [(row["move"], row["stored"]) for row in rows]
    assert moves == [(move, stored) for stored in ("float32", "float16") for move in ("device→host", "host→device")]
    for row in rows:
        assert row["bytes"] == 50 * LAYOUT.bytes_per_token
        assert row["bytes_per_second"] == pytest.approx(row["bytes"] / row["seconds"])
        assert row["ratio"] == pytest.approx(row["plain_seconds"] / row["seconds"])
        assert row["stored_ratio"] == pytest.approx(row["plain_stored_seconds"] / row["seconds"])


def test_the_disk_is_measured_against_a_plain_file(tmp_path: Path) -> None:
    rows = bench_tiers.measure_disk(LAYOUT, 50, 2, tmp_path)
    moves = [(row["move"], row["stored"]) for row in rows]
    assert moves == [(move, stored) for stored in ("float32", "float16") for move in ("device→disk", "disk→device")]
    assert [row["bytes"] for row in rows[::2]] == [50 * LAYOUT.bytes_per_token, 25 * LAYOUT.bytes_per_token]
    assert all(row["stored_ratio"] > 0 for row in rows)


@pytest.mark.timing
@pytest.mark.real
def test_the_default_models_node_moves_at_half_the_speed_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """In one of a few tries: beside a busy neighbour a move and a plain copy do not always get the same share."""
    before = torch.get_num_threads()
    tries = []
    for _ in range(4):
        try:
            assert bench_tiers.main(["--json", "--tokens", "400", "--runs", "5"]) == 0
        finally:
            torch.set_num_threads(before)
        report = json.loads(capsys.readouterr().out)
        assert report["rows"][0]["bytes"] == 400 * 46080
        exact = {row["move"]: row["stored_ratio"] for row in report["rows"] if row["stored"] == "float32"}
        tries.append(min(exact["host→device"], exact["disk→device"]))
        if tries[-1] > 0.5:
            return
    pytest.fail(f"the slower of both reached {tries} of a plain copy or read")


def test_impossible_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_tiers.main(["--tokens", "0"])
    assert "must be at least 1" in capsys.readouterr().err
