"""A sweep's YAML: what it means, and that what is wrong in it is named."""

import json

import pytest
import yaml

from pimsim.errors import FieldError
from pimsim.sweep.design import Sweep
from tests.pimsim.props.searches import drawn

GOOD = {
    "target": "attention",
    "base": {"heads": 16, "head_dim": 128, "fidelity": "closed"},
    "axes": {"level": ["bank", "bg"], "length": {"from": 256, "to": 1024, "steps": 3, "scale": "log"}},
}


def written(tmp_path, **changes):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        yaml.safe_dump({name: value for name, value in (GOOD | changes).items() if value is not None}, sort_keys=False)
    )
    return file


def test_the_last_axis_changes_fastest(tmp_path):
    sweep = Sweep.load(written(tmp_path))
    assert sweep.names == ("level", "length")
    assert sweep.points() == [(level, length) for level in ("bank", "bg") for length in (256, 512, 1024)]
    assert sweep.baseline() == GOOD["base"] | {"level": "bg", "length": 512}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": None}, "the field target is missing"),
        ({"target": "atention"}, "unknown target 'atention'"),
        ({"target": "no.such.module:run"}, "cannot be imported"),
        ({"target": "math:tau"}, "is not a function"),
        ({"axis": {}}, "unknown field axis"),
        ({"axes": None}, "axes: there is no field to vary"),
        ({"axes": [1]}, "axes must be a mapping"),
        ({"base": [1]}, "base must be a mapping"),
        ({"base": {"heads": [1]}}, "base.heads must be a number"),
        ({"base": {"heads": 16, "headdim": 128}}, "head_dim is missing"),
        ({"base": GOOD["base"] | {"hedas": 2}}, "unknown field hedas"),
        ({"base": GOOD["base"] | {"level": "bank"}}, "level is in base and on an axis"),
        ({"base": GOOD["base"] | {"heads": "many"}}, "heads must be a whole number, not 'many'"),
        ({"base": GOOD["base"] | {"device.stakcs": 2}}, "no field 'stakcs'"),
        ({"axes": {"length": 256}}, "axes.length must be a list of values or"),
        ({"axes": {"length": []}}, "axes.length has no values"),
        ({"axes": {"length": [256, 256]}}, "axes.length names a value twice"),
        ({"axes": {"length": [256, None]}}, "axes.length: values are numbers"),
        ({"axes": {"length": [float("nan")]}}, "axes.length: values are finite"),
        ({"axes": {"length": {"from": 256, "steps": 3}}}, "axes.length.to is missing"),
        ({"axes": {"length": {"from": 256, "to": 256, "steps": 3}}}, "axes.length.to must be above"),
        ({"axes": {"length": {"from": 0, "to": 256, "steps": 3, "scale": "log"}}}, "axes.length.from must be above 0"),
        ({"axes": {"length": {"from": 1, "to": 256, "steps": 3, "scale": "cubic"}}}, "axes.length.scale must be one"),
        ({"axes": {"length": {"from": 1, "to": 256, "steps": 1}}}, "axes.length.steps must be 2"),
        ({"axes": {"length": {"from": 1, "to": 256}}}, "axes.length.steps is missing"),
        ({"axes": {"length": {"from": 1, "to": 256, "stesp": 3}}}, "axes.length.stesp; is axes.length.steps|stesp"),
        ({"axes": GOOD["axes"] | {"device.stakcs": [1, 2]}}, "no field 'stakcs'"),
        ({"axes": GOOD["axes"] | {"device.standard.timing.tRDC": [1, 2]}}, "no field 'timing.tRDC'"),
        ({"sample": "sobol"}, "sample must be one of grid, random"),
        ({"sample": "random"}, "points must be a whole number from 1"),
        ({"sample": "random", "points": 0}, "points must be a whole number from 1"),
        ({"points": 7}, "points: a grid has the points of its axes"),
        ({"seed": "now"}, "seed must be a whole number"),
        ({"sample": "list"}, "the sample list has its values in points"),
        ({"sample": "list", "axes": None}, "points must be a list of mappings"),
        ({"sample": "list", "axes": None, "points": [{"length": 1}, {"level": "bg"}]}, "all points name the same"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, changes, said):
    file = written(tmp_path, **changes)
    with pytest.raises(FieldError, match=said) as raised:
        Sweep.load(file).points()
    assert "sweep.yaml" in str(raised.value) or "target" in changes


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "is not YAML"), ("- 1", "a sweep is a mapping"), ("", "a mapping")]
)
def test_what_is_no_sweep_is_refused(tmp_path, text, said):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(FieldError, match=said):
        Sweep.load(file)
    with pytest.raises(FieldError, match="cannot read"):
        Sweep.load(tmp_path / "absent.yaml")


def test_one_value_that_works_is_enough_to_begin():
    sweep = Sweep.of("attention", base=GOOD["base"], axes={"level": ["nowhere", "bank"], "length": [256]})
    assert len(sweep.points()) == 2


def test_nested_fields_are_dotted_ones():
    nested = Sweep.of(
        "attention", base=GOOD["base"] | {"device": {"standard": {"timing": {"tRCD": 20}}}}, axes={"length": [256]}
    )
    dotted = Sweep.of("attention", base=GOOD["base"] | {"device.standard.timing.tRCD": 20}, axes={"length": [256]})
    assert nested == dotted
    assert nested.identity() == dotted.identity()


def test_listed_points_stay_in_their_order():
    points = [{"length": 512, "level": "bg"}, {"level": "bank", "length": 256}]
    sweep = Sweep.of("attention", base=GOOD["base"], sample="list", points=points)
    assert sweep.points() == [(512, "bg"), (256, "bank")]


@pytest.mark.parametrize("sample", ["grid", "random", "latin-hypercube"])
def test_a_sweep_survives_json(sample):
    sweep = Sweep.of(**GOOD, sample=sample, points=0 if sample == "grid" else 9, seed=4)
    again = json.loads(json.dumps(sweep.as_dict()))
    assert Sweep.of(**again) == sweep
    assert Sweep.of(**again).points() == sweep.points()


def test_the_identity_holds_the_content_of_files(tmp_path):
    file = tmp_path / "traversal.csv"
    identities = []
    for seed in (1, 2):
        drawn(seed).write(file)
        identities.append(
            Sweep.of("search", base={"traversal": str(file)}, axes={"device.tpm.lanes": [4, 8]}).identity()
        )
    assert identities[0]["files"] != identities[1]["files"]
    assert {name for name in identities[0] if identities[0][name] != identities[1][name]} == {"files"}
