"""The golden figures: each in its band, and a figure outside of it fails."""

import csv
import json
import shutil

import pytest

from pimsim import cli
from pimsim.validation import GROUPS, SHIPPED, Check, dram_checks


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(dram_checks(SHIPPED))


def test_every_golden_trace_ends_in_its_band(checks):
    finish = [check for check in checks if check.unit == "cycle"]
    assert len(finish) == 46
    assert [check.in_words() for check in finish if not check.accepted] == []


def test_the_errors_are_small(checks):
    errors = [abs(check.error_pct) for check in checks if check.unit == "cycle"]
    assert sum(errors) / len(errors) < 0.05
    assert max(errors) < 0.5


def test_activates_are_dramsim3s_where_reads_do_not_saturate(checks):
    activates = [check for check in checks if check.unit == "commands"]
    assert {check.figure.partition(" ")[0] for check in activates} == {
        "ddr4_rand_gap16", "ddr4r1_rand_gap16", "hbm2_rand_gap16",
    }  # fmt: skip
    assert all(check.accepted for check in activates)


def test_every_shipped_trace_is_in_the_table(checks):
    files = {path.name.removesuffix(".csv.gz") for path in (SHIPPED / "dram" / "traces").iterdir()}
    assert {check.figure.partition(" ")[0] for check in checks} == files


def test_an_error_is_counted_from_the_nearer_reference():
    def error(ours: float) -> float:
        return Check("x", "cycle", 100, 200, 97, 206, ours).error_pct

    assert [error(ours) for ours in (98, 100, 150, 200, 210)] == pytest.approx([-2, 0, 0, 0, 5])


@pytest.fixture
def golden(tmp_path):
    """Two short traces, as a folder of golden figures."""
    (tmp_path / "dram" / "traces").mkdir(parents=True)
    kept = ("ddr4_rowconflict_1bank", "hbm2_rowconflict_1bank")
    for name in kept:
        shutil.copy(SHIPPED / "dram" / "traces" / f"{name}.csv.gz", tmp_path / "dram" / "traces")
    shutil.copy(SHIPPED / "dram" / "reference.csv", tmp_path / "dram")
    rows = [row for row in csv.DictReader((SHIPPED / "dram" / "bands.csv").open()) if row["trace"] in kept]
    write(tmp_path, rows)
    return tmp_path, rows


def write(folder, rows) -> None:
    with (folder / "dram" / "bands.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def test_the_command_prints_each_figure(golden, capsys):
    folder, _ = golden
    assert cli.main(["validate", "--golden", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "hbm2_rowconflict_1bank noref: last read done" in out
    assert "4 figures, mean error" in out
    assert cli.main(["validate", "--golden", str(folder / "dram"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["outside"] == 0
    assert [check["accepted"] for check in shown["checks"]] == [True] * 4


def test_a_figure_outside_its_band_fails(golden, capsys):
    folder, rows = golden
    rows[0]["accept_hi"] = str(int(rows[0]["accept_lo"]) + 1)
    write(folder, rows)
    assert cli.main(["validate", "--golden", str(folder)]) == 1
    out = capsys.readouterr().out
    assert out.count("OUT") == 1
    assert "1 outside" in out


def test_wrong_folders_are_named(golden, tmp_path, capsys):
    folder, rows = golden
    rows[0]["trace"] = "lpddr_x"
    write(folder, rows)
    for given, message in (
        (folder, "lpddr_x"),
        (tmp_path / "absent", "there is no such folder"),
        (tmp_path / "dram" / "traces", f"no folder {' or '.join(GROUPS)} in it"),
    ):
        assert cli.main(["validate", "--golden", str(given)]) == 2
        assert message in capsys.readouterr().err
