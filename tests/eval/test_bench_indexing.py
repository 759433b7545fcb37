"""The bench of indexing: its documents, a whole report, and options it refuses."""

import json

import pytest

from eval.bench_indexing import made_up, main


def test_documents_are_as_long_as_they_should_be() -> None:
    documents = list(made_up(5, 900))
    assert [len(document.text) for document in documents] == [900] * 5
    assert len({document.text for document in documents}) == 5
    assert list(made_up(5, 900)) == documents


@pytest.mark.full(proof="test_documents_are_as_long_as_they_should_be")
@pytest.mark.parametrize("whole", [False, True])
def test_it_reports_on_a_run(whole: bool, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--whole"] if whole else []
    assert main(["--documents", "3", "--characters", "3000", "--json", *options]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["documents"] == 3
    assert (report["passages"] == 3) is whole
    assert report["passages"] >= 3
    assert report["peak_mib"] > 100
    assert report["documents_per_second"] == pytest.approx(3 / report["seconds"], rel=0.1)


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--documents", "0"])
    assert "at least 1" in capsys.readouterr().err
