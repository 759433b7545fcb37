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


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ("3", "sources must be a mapping"),
        ("[a, b]", "sources must be a mapping"),
        ("{a: 3}", r"sources\.a must be a text, or a mapping of text and assumed"),
        ("{a: {assumed: true}}", r"the field sources\.a\.text is missing"),
        ("{a: {text: here, assumed: 'no'}}", r"sources\.a\.assumed must be true or false"),
        ("{a: {text: here, assume: true}}", r"unknown field sources\.a\.assume; is assumed meant\?"),
    ],
)
def test_sources_of_another_shape_are_refused(sources, said):
    with pytest.raises(FieldError, match=f"^a file: {said}"):
        fields.Fields(fields.parsed(f"sources: {sources}", "a file"), "a file")


def test_a_field_that_stands_twice_is_refused():
    with pytest.raises(FieldError, match=r"^a file is not YAML: .*the field 'batch' stands there twice.* line 3"):
        fields.parsed("workload:\n  batch: 1\n  batch: 2\n", "a file")
    assert fields.parsed("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", "a file")["b"] == {"x": 3, "y": 2}


def test_what_is_wrong_is_told_in_brief():
    with pytest.raises(FieldError, match=r"^a file: the file must be a mapping of fields, not 'x{60,80}…$") as error:
        fields.Fields("x" * 10_000, "a file")
    assert len(str(error.value)) < 200
    with pytest.raises(FieldError, match=r"a file: name must be a text, not \[0, 1, .*…$"):
        fields.Fields({"name": list(range(1000))}, "a file").text("name")
