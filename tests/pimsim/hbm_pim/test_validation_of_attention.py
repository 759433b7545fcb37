"""AttAcc's figures in `pimsim validate`."""

import json
import shutil
from pathlib import Path

import pytest

from pimsim.cli import main
from pimsim.validation import SHIPPED, attention_checks


def test_every_figure_is_in_its_band() -> None:
    checks = list(attention_checks(SHIPPED))
    assert len(checks) == 3 * 18  # cycles, MACs, and the closed form
    assert [check.in_words() for check in checks if not check.accepted] == []
    assert sum(abs(check.error_pct) for check in checks) / len(checks) < 0.5


def test_a_figure_outside_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(SHIPPED / "attacc", tmp_path / "attacc")
    file = tmp_path / "attacc" / "attention_layer.csv"
    file.write_text(file.read_text(encoding="utf-8").replace(",3810,", ",3410,", 1), encoding="utf-8")
    assert main(["validate", "--golden", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["outside"] == 1
