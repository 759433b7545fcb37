"""Files of data by name and by path."""

from pathlib import Path

import pytest

from pimsim import fields
from pimsim.errors import FieldError


def test_a_file_that_is_not_there_may_be_one_that_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = fields.load("systems", "heterrag.yaml").text("name")
    assert shipped == fields.load("systems", "heterrag").text("name") == "heterrag"
    Path("heterrag.yaml").write_text("name: own\n")
    assert fields.load("systems", "heterrag.yaml").text("name") == "own"
    with pytest.raises(FieldError, match=r"cannot read other\.yaml"):
        fields.load("systems", "other.yaml")
