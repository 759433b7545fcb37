"""Which documents each retrieval finds: some stay, others come by popularity, and no request depends on another."""

import itertools
import json
import math

import numpy as np
import pytest

from pimsim.system.workload.documents_found import Draws
from pimsim.system.workload.requests import Documents, requests
from tests.pimsim.props.systems import config


def retrievals_of(**changes):
    described = config(**changes)
    asking = requests(described)
    return Draws(described.workload, Documents(described.workload), asking).of(asking)


def of_request(retrievals, number):
    """Rows of all its retrievals: its documents, and which of them are there."""
    first = retrievals.first[number]
    last = retrievals.first[number + 1] if number + 1 < len(retrievals.first) else len(retrievals.documents)
    return [
        (
            retrievals.documents[row, : retrievals.counts[row]].tolist(),
            retrievals.there[row, : retrievals.counts[row]].tolist(),
        )
        for row in range(first, last)
    ]


def test_documents_stay_as_long_as_stated_and_others_come_as_popular_as_they_are():
    retrievals = retrievals_of(workload__requests=60, workload__output_tokens=1600, workload__retrieve_every=16)
    stayed, came = [], []
    for number in range(60):
        rows = of_request(retrievals, number)
        assert len(rows) == 100
        assert rows[0] == (requests(config(workload__requests=60))[number].documents, [False] * 6)
        for (before, _), (now, there) in itertools.pairwise(rows):
            assert len(set(now)) == 6
            assert [old == new for old, new in zip(before, now, strict=True)] == there
            stayed += there
            came += [document for document, flag in zip(now, there, strict=True) if not flag]
    assert np.mean(stayed) == pytest.approx(math.exp(-16 / 64), abs=0.01)
    shares = np.diff(Documents(config().workload).sums, prepend=0)
    for documents in (50, 500, 3000):
        assert np.mean(np.array(came) < documents) == pytest.approx(shares[:documents].sum(), abs=0.015)


def test_a_request_finds_the_same_whoever_else_asks():
    few, many = (retrievals_of(workload__requests=count, workload__retrieve_every=16) for count in (3, 40))
    for number in range(3):
        assert of_request(few, number) == of_request(many, number)
    assert of_request(few, 0) != of_request(retrievals_of(workload__retrieve_every=16, workload__seed=2), 0)


def test_requests_may_be_drawn_in_any_order():
    described = config(workload__requests=5, workload__retrieve_every=16)
    asking = requests(described)
    draws = Draws(described.workload, Documents(described.workload), asking)
    retrievals, other = draws.of(asking), draws.of([asking[4], asking[1]])
    assert of_request(other, 0) == of_request(retrievals, 4)
    assert of_request(other, 1) == of_request(retrievals, 1)


def test_all_behind_the_first_that_changed_are_recomputed_where_that_is_asked():
    changed, everything = (
        retrievals_of(workload__retrieve_every=16, workload__context=context) for context in ("changed", "all")
    )
    assert (changed.documents == everything.documents).all()
    assert changed.changed == everything.changed
    assert not all(changed.changed)
    for own, behind in zip(changed.there.tolist(), everything.there.tolist(), strict=True):
        first = own.index(False) if False in own else len(own)
        assert behind == [i < first for i in range(len(own))]


def test_requests_of_any_number_of_documents_take_others_of_the_trace(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps([10**18 + i * i % 97 for i in range(n, 2 * n)]) + "\n" for n in (1, 9, 4)))
    retrievals = retrievals_of(workload__documents_file=str(path), workload__retrieve_every=16)
    assert retrievals.documents.max() < 14
    assert [len(of_request(retrievals, number)[0][0]) for number in range(6)] == [1, 9, 4, 1, 9, 4]
    assert not retrievals.there[:, 1:][retrievals.counts == 1].any()
    assert not retrievals.documents[:, 1:][retrievals.counts == 1].any()


def test_documents_that_do_not_stay_are_others(tmp_path):
    retrievals = retrievals_of(workload__requests=40, workload__retrieve_every=16)
    rng = np.random.default_rng(1)
    rows = np.repeat(np.arange(len(retrievals.documents)), rng.integers(1, 9, len(retrievals.documents)))
    strangers = retrievals.strangers(rows, np.random.default_rng(2))
    for row in range(len(retrievals.documents)):
        own = strangers[rows == row].tolist()
        assert len(set(own) | set(retrievals.documents[row].tolist())) == len(own) + 6
    assert (retrievals.strangers(rows, np.random.default_rng(2)) == strangers).all()
    path = tmp_path / "three.jsonl"
    path.write_text("[5, 6, 7]\n")  # there are no others
    three = retrievals_of(workload__documents_file=str(path), workload__retrieve_every=16)
    assert set(three.strangers(np.zeros(50, np.int64), rng).tolist()) == {0, 1, 2}
