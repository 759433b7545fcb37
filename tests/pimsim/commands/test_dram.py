"""`pimsim dram` as a person runs it: real processes, real files."""

import csv
import json
import subprocess
import sys

import pytest

from pimsim import cli
from pimsim.validation import SHIPPED

TRACE = SHIPPED / "dram" / "traces" / "hbm2_vec96_rowcontig.csv.gz"
HEADER = "cycle,op,channel,rank,bg,bank,row,col\n"
BASE = ["dram", "--standard", "hbm2-heterrag", "--trace", str(TRACE)]


def test_json_has_what_is_promised():
    done = subprocess.run(
        [sys.executable, "-m", "pimsim.cli", *BASE, "--no-refresh", "--json"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert done.stderr == ""
    assert 14472 <= result["last_read_done_cycle"] <= 17029
    assert result["activates"] == 600
    assert result["refreshes"] == 0
    assert result["row_hits"] == 7200 - 600
    assert result["peak_gbps"] == 16
    assert result["tck_ns"] == 1.0
    assert result["bandwidth_gbps"] == pytest.approx(7200 * 32 / result["last_read_done_cycle"])
    assert 584 <= result["precharges"] <= 600
    assert result["avg_read_latency_cycles"] > 34
    assert result["energy_nj"]["total"] == pytest.approx(600 * 0.909 + 7200 * 0.89088 + 0.066 * result["time_ns"])
    provenance = result["provenance"]
    assert provenance["clocks_mhz"] == {"memory": 1000.0}
    assert "timing.tFAW" in {value["name"] for value in provenance["assumed"]}
    assert "timing.tRCD" not in {value["name"] for value in provenance["assumed"]}
    assert provenance["bounds"][0]["name"] == "data bus, tBL"
    assert 0.8 < provenance["bounds"][0]["nearness"] <= 1
    assert provenance["configuration_hash"]
    assert provenance["version"]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_words(capsys):
    status, out, _ = run(capsys, *BASE)
    assert status == 0
    assert "hbm2-heterrag: 7200 reads, 0 writes in 17258 cycles (17.26 µs)" in out
    assert "bound: data bus, tBL" in out
    assert "energies of hbm2-fgdram: activate_precharge 909 pJ" in out


def test_options_reach_the_controller(capsys, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "".join(f"0,R,0,0,0,0,{row},{i}\n" for i, row in enumerate([0, 1, *[0] * 10])))
    few = ["dram", "--standard", "hbm2-heterrag", "--trace", path, "--json"]
    base = [*BASE, "--json"]

    def cycles(*more: object, arguments=base) -> int:
        return json.loads(run(capsys, *arguments, *more)[1])["last_read_done_cycle"]

    plain = cycles()
    assert cycles("--no-refresh") < plain
    assert cycles("--queue", 2) > plain
    assert cycles("--row-hit-cap", 1, arguments=few) > cycles(arguments=few)
    assert cycles("--page", "closed") != plain
    energies = json.loads(run(capsys, *BASE, "--json", "--energy", "hbm2-tpuv4i")[1])["energy_nj"]
    assert energies["total"] == pytest.approx(7200 * 1.4)


def test_commands_are_written(capsys, tmp_path):
    path = tmp_path / "commands.csv"
    assert run(capsys, *BASE, "--commands", path)[0] == 0
    rows = list(csv.DictReader(path.open()))
    assert rows[0] == {
        "cycle": "0", "command": "ACT", "channel": "0", "rank": "0", "bg": "1", "bank": "2", "row": "25834", "col": "",
    }  # fmt: skip
    assert sum(row["command"] == "RD" for row in rows) == 7200
    assert sum(row["command"] == "REF" for row in rows) == 4
    assert {row["bank"] for row in rows if row["command"] in ("REF", "PREA")} == {""}


def test_a_trace_of_addresses_and_its_mapping(capsys, tmp_path):
    path = tmp_path / "stream.csv"
    path.write_text("cycle,op,address\n" + "".join(f"0,R,{i * 64}\n" for i in range(2000)))
    base = ["dram", "--standard", "ddr4-3200-heterrag", "--trace", path, "--no-refresh", "--json"]
    plain = json.loads(run(capsys, *base, "--mapping", "bank-row-column")[1])
    interleaved = json.loads(run(capsys, *base, "--mapping", "bank-group-interleaved")[1])
    assert plain["bandwidth_gbps"] < 17.1  # tCCD_L
    assert interleaved["bandwidth_gbps"] > 25


@pytest.mark.parametrize(
    ("standard", "text", "more", "message"),
    [
        ("hbm4", HEADER + "0,R,0,0,0,0,0,0\n", [], "unknown name 'hbm4'"),
        ("absent.yaml", HEADER, [], "cannot read absent.yaml"),
        ("hbm2-heterrag", "", [], "the trace is empty"),
        ("hbm2-heterrag", HEADER + "0,R,0,0,0,0,0,32\n", [], "t.csv:2: col 32 is out of range: 0 to 31"),
        ("hbm2-heterrag", HEADER + "9,R,0,0,0,0,0,0\n8,R,0,0,0,0,0,0\n", [], "t.csv:3: cycle 8 comes after 9"),
        ("hbm2-heterrag", HEADER + "0,R,0,0,0,0,0,0\n", ["--queue", "0"], "queue must be 1 to 65536"),
        ("hbm2-heterrag", HEADER + "0,R,0,0,0,0,0,0\n", ["--energy", "coal"], "unknown name 'coal'"),
        ("hbm2-heterrag", HEADER + "0,R,0,0,0,0,0,0\n", ["--mapping", "nowhere"], "unknown name 'nowhere'"),
        ("hbm2-heterrag", HEADER + "0,R,0,0,0,0,0,0\n", ["--refresh", "per-bank"], "has no per-bank refresh"),
        ("hbm2-heterrag", HEADER + "0,R,0,0,0,0,0,0\n", ["--commands", "/no/such/folder/c.csv"], "cannot write"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(capsys, tmp_path, standard, text, more, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    status, out, err = run(capsys, "dram", "--standard", standard, "--trace", path, *more)
    assert status == 2
    assert out == ""
    assert err.startswith("pimsim: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_truncated_archive_is_one_line_and_status_2(capsys, tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(TRACE.read_bytes()[:-2000])
    status, _, err = run(capsys, "dram", "--standard", "hbm2-heterrag", "--trace", path)
    assert (status, err) == (2, f"pimsim: {path}: the gzipped file is truncated: copy it again\n")
