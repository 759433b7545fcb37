"""Facts anywhere in a long document are found when it is cut into passages, and only then."""

import json
import re

import pytest

from eval.long_documents import LEAST_RATIO, PLACES, long_documents, main, measure
from retrieval.embedder import Embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(threads=1)


def test_the_facts_stand_where_they_should() -> None:
    documents, facts = long_documents(12, 12_000)
    assert (documents, facts) == long_documents(12, 12_000)
    assert len({fact.question for fact in facts}) == len(facts) == 3 * len(documents)
    for number, document in enumerate(documents):
        own = facts[3 * number : 3 * number + 3]
        assert [fact.place for fact in own] == list(PLACES)
        first, middle, last = (document.text.index(fact.sentence) / len(document.text) for fact in own)
        assert first < 0.1
        assert 0.4 < middle < 0.6
        assert last > 0.9
    kinds = [[re.sub("[A-Z][a-z]+ [A-Z][a-z]+", "", fact.question) for fact in facts[place::3]] for place in range(3)]
    assert sorted(kinds[0]) == sorted(kinds[1]) == sorted(kinds[2])  # each place has each kind of fact


def test_passages_find_what_whole_documents_hide(embedder: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    cut = measure(embedder, 5, 3000, 3)
    assert cut["least_ratio_to_start"] >= LEAST_RATIO
    assert cut["passages"] > 15
    whole = measure(embedder, 5, 3000, 1, whole=True)
    assert (whole["passages"], whole["recall_start"]) == (5, 1.0)
    assert whole["recall_end"] < LEAST_RATIO
    with pytest.raises(SystemExit):
        main(["--documents", "101"])
    assert "at most 100" in capsys.readouterr().err


@pytest.mark.full(proof="test_passages_find_what_whole_documents_hide")
def test_facts_in_fifty_long_documents(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["documents"] == 50
    assert report["least_ratio_to_start"] >= LEAST_RATIO
    assert report["recall_start"] >= 0.5
