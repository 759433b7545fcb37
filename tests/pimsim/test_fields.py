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


@pytest.mark.parametrize("text", ["1e3", "1.0e3", "1E+3", "10e2", "1000", "1000.0"])
def test_numbers_may_have_an_exponent(text):
    values = fields.Fields(fields.parsed(f"bandwidth: {text}\nname: 1e3x", "a file"), "a file")
    assert values.number("bandwidth") == values.integer("bandwidth") == 1000
    assert values.text("name") == "1e3x"
    assert fields.settings([f"a.b={text}", "c=e3"], "a=1") == {"a.b": 1000, "c": "e3"}


@pytest.mark.parametrize("text", ["1e-3", "1.5", "1e400", ".nan"])
def test_a_fraction_is_no_whole_number(text):
    with pytest.raises(FieldError, match="stacks must be a whole number of at least 0"):
        fields.Fields(fields.parsed(f"stacks: {text}", "a file"), "a file").integer("stacks")


def test_an_unknown_name_is_told_with_those_that_there_are():
    with pytest.raises(FieldError, match=r"^unknown name 'hetterag' of systems; is heterrag meant\? There are cpu-gpu"):
        fields.load("systems", "hetterag")
    with pytest.raises(FieldError, match=r"^unknown name 'none' of models; there are gpt2-xl, .*, and paths of files$"):
        fields.load("models", "none")
