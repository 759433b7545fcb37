"""Joined passages: the order in which they are read, and what is left out of the second."""

from itertools import permutations

from retrieval.corpus import Document, Passage
from retrieval.joined import continuation, follows, reading_order

TEXT = "abcdefghijklmnopqrstuvwxyz"


def passage(number: int, source: str = "a") -> Document:
    """Eight letters, of which two stand in the one before, too."""
    start = 6 * (number - 1)
    where = Passage(source, number, start, start + 8)
    return Document(f"{source}#{number}", "Title", TEXT[start : start + 8], {}, where)


WHOLE = Document("whole", "Title", "text")


def ids(documents: list[Document]) -> list[str]:
    return [document.id for document in documents]


def test_neighbours_stand_in_their_order_where_the_best_stood() -> None:
    given = [WHOLE, passage(3), passage(1, "b"), passage(2), passage(1)]
    assert ids(reading_order(given)) == ["whole", "a#1", "a#2", "a#3", "b#1"]


def test_what_is_no_neighbour_keeps_its_place() -> None:
    given = [passage(3), WHOLE, passage(1), passage(2, "b")]
    assert ids(reading_order(given)) == ids(given)


def test_runs_do_not_depend_on_the_order_of_their_members() -> None:
    for given in permutations([passage(1), passage(2), passage(3)]):
        assert ids(reading_order(given)) == ["a#1", "a#2", "a#3"]


def test_a_document_given_twice_is_read_twice() -> None:
    given = [WHOLE, passage(2), WHOLE, passage(2), passage(1)]
    assert ids(reading_order(given)) == ["whole", "a#1", "a#2", "whole", "a#2"]


def test_who_follows() -> None:
    assert follows(passage(1), passage(2))
    assert not follows(passage(2), passage(1))
    assert not follows(passage(1), passage(3))
    assert not follows(passage(1), passage(2, "b"))
    assert not follows(WHOLE, passage(1))
    assert not follows(passage(1), WHOLE)


def test_a_continuation_has_neither_title_nor_overlap() -> None:
    rest = continuation(passage(1), passage(2))
    assert (rest.id, rest.title) == ("a#2", "")
    assert passage(1).text + rest.text == TEXT[:14]


def test_a_continuation_is_never_empty() -> None:
    inner = Document("a#2", "Title", "cd", {}, Passage("a", 2, 2, 4))
    assert continuation(passage(1), inner) == inner


def test_passages_without_an_overlap_lose_nothing() -> None:
    apart = Document("a#2", "Title", "klm", {}, Passage("a", 2, 10, 13))
    assert continuation(passage(1), apart).text == "klm"
