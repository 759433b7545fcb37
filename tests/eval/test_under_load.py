"""Many clients of a real server of the tiny model get what each gets alone; and what is wrong is reported."""

import dataclasses
import json

import pytest

from eval import under_load
from eval.props.idle_server import IdleServer
from eval.props.uncached import Uncached
from tests.props.live import TOPICS

# some two requests of the tiny model fit on the device
SIZES = ["--device-cache", "200KiB", "--host-cache", "200KiB", "--threads", "1"]


@pytest.fixture
def options(tmp_path, tiny_index, tiny_folder) -> list[str]:
    questions = tmp_path / "questions.jsonl"
    asked = ("What is known of the {}?", "Who knows more of the {} than I?")
    rows = [{"id": form.format(name), "question": form.format(name)} for form in asked for name in TOPICS]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", str(tiny_folder), "--index", str(tiny_index), "--questions", str(questions), *SIZES]


@pytest.mark.parametrize(
    "requests",
    [60, pytest.param(150, marks=pytest.mark.full(proof="test_sixteen_clients_get_what_each_gets_alone"))],
)
def test_sixteen_clients_get_what_each_gets_alone(options, capsys, monkeypatch, server_here, requests):
    """Fewer requests with the server in this process."""
    if requests < 100:
        server_here(under_load)
    monkeypatch.setattr(under_load, "HANG_UP_SECONDS", (0.002, 0.1))
    monkeypatch.setattr(under_load, "TIMEOUT_MS", (1, 30))
    status = under_load.main([*options, "--clients", "16", "--requests", str(requests), "--max-tokens", "16", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (status, report["problems"]) == (0, []), report
    outcomes = report["outcomes"]
    assert sum(outcomes.values()) == requests
    assert set(outcomes) == {"answered", "expired", "hung up"}
    assert min(outcomes.values()) > 0
    answers = report["answers"]
    assert answers["equal"] + answers["ties"] == outcomes["answered"] >= requests * 2 // 3
    assert answers["different"] == 0
    assert 0 < report["streams"] < outcomes["answered"]
    assert min(report["tokens"][source] for source in ("computed", "device", "host")) > 0
    assert report["evictions"]["device"] > requests // 8
    assert report["audits"] > 0
    assert report["server_outcomes"]["expired"] == outcomes["expired"]
    assert report["server_outcomes"]["answered"] >= outcomes["answered"]
    assert report["server_outcomes"]["failed"] == report["server_outcomes"]["overloaded"] == 0


def test_answers_that_differ_and_memory_that_is_missing_are_told(options, capsys, monkeypatch, server_here):
    server_here(under_load)
    monkeypatch.setattr(
        under_load, "answer_uncached", lambda _, texts: {text: Uncached("no", ("no",), (1.0,)) for text in texts}
    )
    look = under_load.come_to_rest

    def come_to_rest(url: str) -> IdleServer:
        return dataclasses.replace(look(url), problems=("5 bytes are held",))

    monkeypatch.setattr(under_load, "come_to_rest", come_to_rest)
    assert under_load.main([*options, "--clients", "2", "--requests", "6", "--max-tokens", "4"]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM: 5 bytes are held" in out
    assert "alone 'no' with margins (1.0,)" in out
    assert "0 equal, 0 ties" in out


def test_impossible_settings_are_refused(capsys):
    with pytest.raises(SystemExit):
        under_load.main(["--clients", "0"])
    assert "must be at least 1" in capsys.readouterr().err


def test_a_missing_model_is_one_line(options, capsys):
    assert under_load.main([*options, "--model", "/no/such/model"]) == 1
    assert capsys.readouterr().err.startswith("under_load: no model at /no/such/model")
