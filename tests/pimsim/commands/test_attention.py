"""The command line, and devices that are wrong."""

import csv
import json
from pathlib import Path

import pytest

import pimsim
from pimsim import WorkloadError, gemm
from pimsim.cli import main
from pimsim.errors import FieldError
from pimsim.hbm_pim import Device

LAYER = [
    "attention",
    "--device",
    "hbm3-attacc",
    "--length",
    "512",
    "--heads",
    "16",
    "--head-dim",
    "128",
    "--bytes",
    "2",
]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LAYER, "--level", "bg", "--no-power-limit", "--no-refresh", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"cycles", "time_us", "mac_commands", "effective_tbps", "bound", "energy_nj"} <= set(result)
    assert result["mac_commands"] == 8192
    assert result["cycles"] == pytest.approx(2122, rel=0.05)
    assert result["provenance"]["version"]
    assert main([*LAYER, "--level", "bg", "--no-power-limit", "--fidelity", "closed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cycles"] == pytest.approx(2122, rel=0.05)


def test_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LAYER, "--kv-heads", "4", "--stacks", "2", "--batch", "3"]) == 0
    said = capsys.readouterr().out
    for words in ("16 heads of 128 over 512 tokens", "TB/s", "bound: ", "clocks: memory 1300", "assumed: ", "pJ/bit"):
        assert words in said


def test_commands_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "commands.csv"
    assert main([*LAYER, "--commands", str(file), "--json"]) == 0
    cycles = json.loads(capsys.readouterr().out)["cycles"]
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert sum(row["command"] == "MAC_AB" for row in rows) == 2048 // 16
    assert rows[0] == {"cycle": "1", "command": "ACT_AB", "slot": "0", "row": "0", "column": "-1"}
    assert int(rows[-1]["cycle"]) == cycles
    assert [int(row["cycle"]) for row in rows] == sorted(int(row["cycle"]) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--heads", "0"], "heads must be 1 at least"),
        (["--kv-heads", "0"], "kv_heads must be 1 at least"),
        (["--kv-heads", "5"], "16 heads cannot share 5 KV heads"),
        (["--length", "-1"], "length must be 1 at least, not -1"),
        (["--head-dim", "4096"], "wider than a row of hbm3-attacc"),
        (["--device", "hbm3-atacc"], "is hbm3-attacc meant"),
        (["--level", "row"], "unknown level 'row': choose one of bank, bg, buffer"),
        (["--fidelity", "exact"], "unknown fidelity 'exact': choose one of event, closed"),
        (["--bytes", "5"], "bytes must be one of 1, 2, 4"),
        (["--set", "timing.mac_bnk=3"], "mac_bnk"),
        (["--set", "window=none"], "window must be a whole number"),
        (["--set", "window"], "--set takes FIELD=VALUE"),
        (["--commands", "/nowhere/at/all.csv"], "cannot write /nowhere/at/all.csv"),
        (["--commands", "x.csv", "--fidelity", "closed"], "needs --fidelity event"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*LAYER, *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_set_field_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LAYER, "--set", "timing.mac_bank_power_limit=12", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cycles"] == pytest.approx(930 + 128 * 6, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stacks": 0}, "stacks must be a whole number of at least 1"),
        ({"standard": "hbm7"}, "hbm7"),
        ({"energy": "none"}, "none"),
        ({"timing.mac_bank_power_limit": 2}, "mac_bank_power_limit must not be below timing.mac_bank"),
        ({"units.bank.lanes": 0}, "units.bank.lanes"),
        ({"units.bank.banks": 3}, "units.bank.banks must divide the 64 banks"),
        ({"paths.bank": ["cells"]}, "paths.bank names 'cells'"),
        ({"kind": "dimm-pim"}, "kind must be hbm-pim"),
    ],
)
def test_devices_that_cannot_be(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FieldError, match=words):
        Device.load("hbm3-attacc", changes)


def test_a_device_of_a_file(tmp_path: Path) -> None:
    text = (Path(pimsim.__file__).parent / "devices/hbm3-attacc.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    assert Device.load(str(file)).configuration == Device.load("hbm3-attacc").configuration
    file.write_text(text.replace("window:", "windw:"), encoding="utf-8")
    with pytest.raises(FieldError, match=r"mine.yaml: the field window is missing"):
        Device.load(str(file))
    file.write_text(text + "colour: red\n", encoding="utf-8")
    with pytest.raises(FieldError, match=r"mine.yaml: unknown field colour"):
        Device.load(str(file))


def test_only_the_matrix_unit_is_missing_from_attacc() -> None:
    with pytest.raises(WorkloadError, match="hbm3-attacc has no systolic arrays"):
        gemm(Device.load("hbm3-attacc"), 8, 8, 8)
