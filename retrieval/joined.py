"""Joined passages: retrieved neighbours of one document, put in the order of its text and without their overlap.

They are joined document by document and not into one text. The first of them is written just as when it is retrieved
alone, so that its KV serves both; the next one, trimmed of the overlap and the title, is a segment whose tokens depend
on nothing but the two passages. A knowledge tree holds KV of a segment in its context, so the trimmed segment, which
only ever stands behind its predecessor, takes no KV away from prompts in which it stands elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.corpus import Document


def reading_order(documents: Sequence[Document]) -> list[Document]:
    """The documents, best first, but with passages that follow one another in their text next to each other.

    A run of neighbours stands in the order of its text, where the best of them stood. Equal documents in any order
    give equal runs.
    """
    place: dict[tuple[str, int], int] = {}
    for n, document in enumerate(documents):
        if document.passage is not None:
            place.setdefault(_key(document), n)
    order: dict[int, None] = {}  # places in `documents`
    for n, document in enumerate(documents):
        if n in order:
            continue
        if document.passage is None or place[_key(document)] != n:  # given twice: only one of them has neighbours
            order[n] = None
            continue
        source, first = _key(document)
        while (source, first - 1) in place:
            first -= 1
        while (source, first) in place:
            order[place[source, first]] = None
            first += 1
    return [documents[n] for n in order]


def follows(first: Document, second: Document) -> bool:
    """Whether `second` is the passage behind `first` in the same document."""
    if first.passage is None or second.passage is None:
        return False
    return second.passage.source == first.passage.source and second.passage.number == first.passage.number + 1


def continuation(first: Document, second: Document) -> Document:
    """What is to be read of a passage behind its predecessor: neither the title again nor the text they share."""
    assert first.passage is not None
    assert second.passage is not None
    shared = max(0, first.passage.end - second.passage.start)
    text = second.text[shared:].lstrip()
    return Document(second.id, "", text, second.extra, second.passage) if text else second


def _key(document: Document) -> tuple[str, int]:
    assert document.passage is not None
    return document.passage.source, document.passage.number
