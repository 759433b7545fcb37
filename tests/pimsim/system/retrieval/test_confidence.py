"""What the host hands on of running searches: the paper's rule, and what it costs where it errs."""

import math

import numpy as np
import pytest

from pimsim.system.retrieval.confidence import Rule, first_met, looks_that_see

PAPER = Rule(tail_from=0.5, newest_share=0.0)


def plain(rule, seen, last, documents, buffer):
    """The rule, look by look, with a buffer that vertices are put into as they are met."""
    held, handed, changes = [], [], []
    entered = {}
    for look in range(1, last):
        for vertex in sorted(range(len(seen)), key=lambda vertex: (seen[vertex], vertex)):
            if seen[vertex] == look:
                held = sorted([*held, vertex])[:buffer]
                entered[vertex] = look
        window = max(1, math.floor(rule.newest_share * look))
        new = [i for i, vertex in enumerate(held) if look - entered[vertex] < window]
        if len(held) < buffer or any(i < rule.tail_from * buffer for i in new):
            continue
        sure = held[: min([*new, buffer])][:documents]
        if handed[: len(sure)] != sure:
            handed = sure
            changes.append((look, tuple(sure)))
    return changes


def rows_of(rule, seen, lasts, documents, there, buffer):
    """Rows as (look, whether it is a result, search, order), as they are stated in HandedOn."""
    handed_on = rule.handed_on(seen, lasts, documents, there, buffer)
    rows = []
    for i, look in enumerate(handed_on.looks.tolist()):
        first, last = handed_on.first[i], handed_on.first[i + 1]
        for row in range(first, last):
            order = tuple(handed_on.order[row, : handed_on.counts[row]].tolist())
            rows.append((look, row >= last - handed_on.results[i], int(handed_on.search[row]), order))
    assert len(rows) == len(handed_on.search)
    return handed_on, rows


def alone(rule, seen, last, documents, buffer):
    """What one search hands on before its result, of which nothing is there."""
    there = np.zeros((1, documents), np.bool_)
    _, rows = rows_of(rule, seen[None], np.array([last]), np.array([documents]), there, buffer)
    assert rows[-1] == (last, True, 0, tuple(range(documents)))
    return [(look, order) for look, _, _, order in rows[:-1]]


def cases(count):
    rng = np.random.default_rng(11)
    for _ in range(count):
        vertices, last = int(rng.integers(1, 40)), int(rng.integers(1, 60))
        buffer = int(rng.integers(1, min(12, vertices) + 1))
        documents = int(rng.integers(1, buffer + 1))
        rule = Rule(float(rng.choice([0.0, 0.3, 0.5, 0.8, 1.0])), float(rng.choice([0.0, 0.1, 0.4, 0.9])))
        yield rule, rng.integers(1, last + 10, vertices), last, documents, buffer


def with_something_new(orders, there=()):
    """The (look, order) pairs of `orders` that have vertices not handed on before, each with those vertices."""
    sent, kept = set(there), []
    for look, order in orders:
        if not sent.issuperset(order):
            kept.append((look, order, [vertex for vertex in order if vertex not in sent]))
        sent.update(order)
    return kept


def test_it_is_the_rule_look_by_look():
    changes = 0
    for rule, seen, last, documents, buffer in cases(400):
        expected = with_something_new(plain(rule, seen.tolist(), last, documents, buffer))
        assert alone(rule, seen, last, documents, buffer) == [(look, order) for look, order, _ in expected]
        changes += len(expected)
    assert changes > 200


def test_of_several_searches_it_is_told_look_by_look():
    rng, some, vain = np.random.default_rng(5), 0, 0
    for _ in range(60):
        searches, vertices, last = int(rng.integers(1, 6)), int(rng.integers(12, 40)), int(rng.integers(2, 60))
        seen, lasts = rng.integers(1, last + 10, (searches, vertices)), rng.integers(1, last + 1, searches)
        documents = rng.integers(1, 12, searches)
        there = rng.random((searches, int(documents.max()))) < rng.choice([0.0, 0.5, 1.0])
        rule = Rule(0.5, float(rng.choice([0.0, 0.2])))
        expected, strangers, sent = [], [], {}
        for search, (own, end, count) in enumerate(zip(seen, lasts.tolist(), documents.tolist(), strict=True)):
            known = set(np.flatnonzero(there[search, :count]).tolist())
            orders = plain(rule, own.tolist(), end, count, max(10, count)) if len(known) < count else []
            for look, order, new in with_something_new(orders, known):
                expected.append((look, False, search, order))
                strangers += [(search, vertex) for vertex in new if vertex >= count]
                sent[look] = sent.get(look, 0) + len(new)
                known.update(new)
            expected.append((end, True, search, tuple(range(count))))
            sent[end] = sent.get(end, 0) + len(set(range(count)) - known)
        result, rows = rows_of(rule, seen, lasts, documents, there, 10)
        assert rows == sorted(expected, key=lambda row: row[:3])
        assert dict(zip(result.looks.tolist(), result.documents.tolist(), strict=True)) == sent
        assert [tuple(pair) for pair in result.strangers.tolist()] == strangers
        some, vain = some + len(expected) - searches, vain + len(strangers)
    assert some > 50
    assert vain > 10


def test_what_is_handed_on_is_sorted_of_the_buffer_and_before_the_end():
    handed_on = 0
    for rule, seen, last, documents, buffer in cases(200):
        before = 0
        for look, order in alone(rule, seen, last, documents, buffer):
            handed_on += 1
            assert before < look < last
            assert list(order) == sorted(set(order))
            assert 1 <= len(order) <= documents
            assert all(seen[vertex] <= look for vertex in order)
            before = look
    assert handed_on > 100  # most searches hand something on before they end


def test_the_papers_example():
    # figure 10(b), S0: a look sees v1 enter near the head, the next one v4 near the tail of v3, v1, v4, v6
    v3, v1, v4, v6, out = range(5)
    seen = np.zeros(5, np.int64)
    seen[[v3, v6, out]], seen[v1], seen[v4] = 1, 2, 3
    assert alone(PAPER, seen, 4, 4, 4) == [(3, (v3, v1))]


def test_a_search_that_meets_its_results_by_rank_hands_on_nothing_wrong():
    for last in (5, 20, 80):
        seen = np.sort(np.random.default_rng(last).integers(1, last, 30))
        held = ()
        for _, order in alone(PAPER, seen, last, 6, 10):
            assert order[: len(held)] == held
            assert order == tuple(range(len(order)))
            held = order
        assert held


def test_the_nearest_that_come_last_push_everything_back():
    seen = np.arange(40, 0, -1)  # the farthest first: each newcomer stands at the head
    assert alone(PAPER, seen, 45, 6, 10) == [(41, tuple(range(6)))]
    slow = 3 * seen  # between newcomers the host sees nothing new, and hands on what it must take back
    orders = [order for _, order in alone(PAPER, slow, 125, 6, 10)]
    assert len(orders) == 31
    assert orders[0] == tuple(range(30, 36))
    assert orders[-1] == tuple(range(6))
    # with patience it takes back less
    patient = alone(Rule(0.5, 0.1), slow, 125, 6, 10)
    assert len(patient) < len(orders)


def test_a_buffer_that_is_not_full_hands_nothing_on():
    assert not alone(PAPER, np.array([1, 1, 1]), 50, 3, 4)


@pytest.mark.parametrize(("duration", "interval"), [(1000, 10), (1001, 10), (7, 10), (10**12, 3)])
def test_a_look_sees_what_was_met_since_the_one_before(duration, interval):
    shares = np.array([0.0, 0.3, 1.0, 2.0, math.inf])
    several, lasts = looks_that_see(np.stack([shares, shares]), np.array([duration, 3 * duration]), interval)
    assert lasts[1] == -(-3 * duration // interval)
    seen, last = several[0], lasts[0]
    assert (last - 1) * interval < duration <= last * interval
    for share, look in zip(shares[:3], seen[:3].tolist(), strict=True):
        assert look * interval >= share * duration * (1 - 1e-12)
        assert look == 1 or (look - 1) * interval < share * duration
    assert seen[0] == 1
    assert seen[2] <= last
    assert (seen[3:] > last).all() or last == 1


def test_drawn_vertices_are_met_between_the_approach_and_the_end():
    met = first_met(4000, 128, buffer=10, approach=0.15, found_by=0.5, rng=np.random.default_rng(2))
    assert met.shape == (4000, 128)
    assert met.min() >= 0.15
    assert met[:, :10].max() <= 0.5
    assert 0.99 < met[:, -1].max() <= 1
    means = met.mean(axis=0)
    assert means[:10] == pytest.approx(0.325, abs=0.01)
    assert means[9] < means[60] < means[127] == pytest.approx(0.575, abs=0.01)
    assert (first_met(3, 4, buffer=4, approach=0.9, found_by=0.0, rng=np.random.default_rng(2)) == 0).all()
