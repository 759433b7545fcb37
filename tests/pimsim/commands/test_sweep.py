"""`pimsim sweep`, `pareto` and `sensitivity`: what they print and draw, and one line for what they cannot do."""

import importlib.util
import json
import textwrap

import pytest
import yaml

from pimsim import Results, Sweep, plot_lines
from pimsim.cli import main
from pimsim.dram.trace import Trace
from pimsim.plot import figure
from tests.pimsim.props.searches import drawn

ATTENTION = {
    "target": "attention",
    "base": {"heads": 32, "head_dim": 128, "fidelity": "closed"},
    "axes": {"level": ["bank", "bg", "buffer"], "length": [256, 1024], "device.stacks": [1, 2]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("sweep")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(ATTENTION, sort_keys=False))
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    return tmp_path / "out"


def report_of(capsys, *options):
    assert main([*map(str, options), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_sweep_that_has_ended_is_not_simulated_again(capsys, folder):
    report = report_of(capsys, "sweep", folder.parent / "sweep.yaml", "--out", folder)
    assert (report["points"], report["failed"]) == (12, 0)
    assert {"level", "device.stacks", "time_us", "provenance.configuration_hash"} <= set(report["columns"])


def test_the_example_of_the_help_is_a_sweep(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    shown = capsys.readouterr().out.partition("SWEEP.yaml, for instance:\n")[2].partition("\nA point of")[0]
    (tmp_path / "sweep.yaml").write_text(textwrap.dedent(shown))
    points = Sweep.load(tmp_path / "sweep.yaml").points()
    assert len(points) == 3 * 4 * 5
    assert points[-1] == (16, 16, 800)


def test_points_that_fail_are_told_and_a_sweep_of_nothing_else_has_failed(capsys, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(ATTENTION | {"axes": {"length": [0, 256]}}, sort_keys=False))
    assert main(["sweep", str(file), "--out", str(tmp_path / "some"), "--workers", "1"]) == 0
    shown = capsys.readouterr()
    assert "2 points, 1 failed" in shown.out
    assert "point 0: length must be 1 at least" in shown.err
    file.write_text(yaml.safe_dump(ATTENTION | {"axes": {"length": [0, -1]}}, sort_keys=False))
    assert main(["sweep", str(file), "--out", str(tmp_path / "none"), "--workers", "1"]) == 1


def test_the_front_of_attention_computes_at_the_banks(capsys, folder):
    report = report_of(capsys, "pareto", folder, "--x", "time_us", "--y", "length", "--min", "energy_nj.total")
    assert report["objectives"] == {"time_us": "min", "length": "max", "energy_nj.total": "min"}
    assert {point["level"] for point in report["front"]} == {"bank"}
    assert main(["pareto", str(folder), "--x", "time_us", "--y", "length"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("of 12 points are on the front of time_us (min), length (max):")
    assert lines[1].split() == ["point", "level", "length", "device.stacks", "time_us"]


def test_the_length_matters_most_to_attention(capsys, folder):
    report = report_of(capsys, "sensitivity", folder, "--no-assumed")
    assert report["metric"] == "time_us"
    assert report["axes"][0]["name"] in ("length", "level")
    assert report["assumed"] is None
    report = report_of(capsys, "sensitivity", folder, "--samples", "4", "--workers", "1", "--metric", "total")
    assert report["metric"] == "energy_nj.total"
    assert report["assumed"]["samples"] + report["assumed"]["failed"] == 4
    assert main(["sensitivity", str(folder), "--samples", "4", "--workers", "1"]) == 0
    assert "with assumed parameters times 0.5 and 2" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plots_are_drawn_and_equal_plots_are_equal_files(capsys, folder, tmp_path, ending):
    files = []
    for name in ("one", "two"):
        front, tornado, lines = (tmp_path / f"{name}-{kind}.{ending}" for kind in ("front", "tornado", "lines"))
        report_of(capsys, "pareto", folder, "--x", "time_us", "--y", "effective_tbps", "--plot", front)
        report_of(capsys, "sensitivity", folder, "--samples", "4", "--workers", "1", "--plot", tornado)
        assert main(["plot", str(folder), str(lines), "--x", "length", "--y", "time_us", "--by", "level"]) == 0
        files.append((front.read_bytes(), tornado.read_bytes(), lines.read_bytes()))
    assert files[0] == files[1]
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert all(len(data) > 2000 and data.startswith(begins) for data in files[0])
    if ending == "svg":
        assert b"time" in files[0][0]


def test_lines_stand_at_their_numbers_and_names_at_even_distances(folder, tmp_path):
    results = Results.open(folder)
    for x, shown in (("length", ("256", "1024")), ("level", ("bank", "bg", "buffer")), ("device.stacks", ("1", "2"))):
        plot_lines(results, x, "time_us", tmp_path / "lines.svg")
        # text is drawn as paths, each with the text beside it
        drawing = (tmp_path / "lines.svg").read_text()
        assert all(f"<!-- {name} -->" in drawing for name in shown)
    assert figure._evenly(["bank", "bg"])
    assert figure._evenly([0, 1024, 65536])
    assert not figure._evenly([1, 1024, 65536])
    assert not figure._evenly([0, 1, 2, 3])
    assert [figure._named(value, 1.0) for value in (0, 1024, 1 << 20, 3, "bank")] == ["0", "1Ki", "1Mi", "3", "bank"]


def test_what_cannot_be_plotted_is_said_before_anything_is_done(capsys, folder, tmp_path, monkeypatch):
    command = ["pareto", str(folder), "--x", "time_us", "--y", "length", "--plot"]
    for file, said in (
        (tmp_path / "front.gif", "ends in one of"),
        (tmp_path / "no" / "front.png", "there is no folder"),
    ):
        assert main([*command, str(file)]) == 2
        assert said in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        assert main([*command, str(tmp_path / "front.png")]) == 2
    assert "pip install 'ragcache[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pareto", "--x", "tmie_us", "--y", "length"], "no result is called 'tmie_us'; is time_us meant?"),
        (["pareto", "--x", "level", "--y", "length"], "'level' is not a number"),
        (
            ["pareto", "--x", "time_us", "--y", "length", "--min", "x", "--max", "x"],
            "x can be --min or --max, not both",
        ),
        (["pareto", "--x", "time_us", "--y", "length", "--min", "x"], "no result is called 'x'"),
        (["plot", "lines.png", "--x", "length", "--y", "level"], "'level' is not a number"),
        (["plot", "lines.png", "--x", "length", "--y", "time_us", "--by", "lvl"], "no result is called 'lvl'"),
        (["plot", "lines.gif", "--x", "length", "--y", "time_us"], "ends in one of"),
        (["sensitivity", "--metric", "speed"], "no result is called 'speed'"),
        (["sensitivity", "--factor", "0.5"], "the factor must be above 1"),
        (["sensitivity", "--point", "12", "--workers", "1"], "there is no point 12"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, folder, arguments, said):
    assert main([arguments[0], str(folder), *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_searches_and_traces_are_swept_as_well(capsys, tmp_path):
    drawn(3, queries=8).write(tmp_path / "traversal.csv")
    lines = "".join(f"{i},R,0,0,{i % 4},0,{i % 7},{i % 128}\n" for i in range(200))
    (tmp_path / "trace.csv").write_text(f"cycle,op,channel,rank,bg,bank,row,col\n{lines}")
    assert len(Trace.read(tmp_path / "trace.csv")) == 200
    for name, base, axes, metric, better in (
        (
            "search",
            {"traversal": str(tmp_path / "traversal.csv"), "queries": 6},
            {"device.organisation.channels": [1, 4], "device.standard.timing.tRCD": [22, 44]},
            "queries_per_second",
            2,
        ),
        (
            "dram",
            {"trace": str(tmp_path / "trace.csv"), "standard": "ddr4-3200-heterrag"},
            {"standard.timing.tRCD": [44, 22], "controller.page": ["closed", "open"]},
            "bandwidth_gbps",
            3,
        ),
    ):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"target": name, "base": base, "axes": axes}, sort_keys=False))
        report = report_of(capsys, "sweep", file, "--out", tmp_path / name, "--workers", "1")
        assert (report["points"], report["failed"]) == (4, 0), report["errors"]
        front = report_of(capsys, "pareto", tmp_path / name, "--x", metric, "--y", metric, "--max", metric)["front"]
        assert better in [point["point"] for point in front]
        spread = report_of(capsys, "sensitivity", tmp_path / name, "--samples", "2", "--workers", "1")["assumed"]
        assert len(spread["parameters"]) > 5
        assert any(swing["at_low"] != spread["baseline"] for swing in spread["parameters"])
