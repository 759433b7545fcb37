"""Drafts: each request's documents as the generation devices know them, and what was computed of those.

A document of a draft is a vertex of its search, named by its rank; those behind the result do not stay. Documents stand
in the prompt in the order of the result, as far as it is known. So where the order turns out another, the KV of all
behind the first difference was computed behind the wrong documents, and for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from pimsim.compiled import kernel, part
from pimsim.system.generation.protocol import Pieces
from pimsim.system.retrieval.confidence import HandedOn
from pimsim.system.run.prefix_tree import BOTH, DENSE, NEITHER, PrefixTree, find, keep

UNKNOWN = -1


class Kept(IntEnum):
    """How much of a document's KV is right behind other documents than those it was computed behind."""

    NOTHING = 0
    DENSE = 1  # all but the important tokens' (HeterRAG's g)
    ALL = 2  # where documents behind a changed one are not computed anew anyway


class Tables(NamedTuple):
    """Drafts for kernels, a row for each place; int64 unless noted otherwise."""

    documents: np.ndarray  # [places, vertices]: the document that each vertex is
    counts: np.ndarray  # [places]: documents of the result
    there: np.ndarray  # bool [places, most documents]: whose KV an earlier retrieval left
    order: np.ndarray  # [places, most documents]: of the prompt's vertices, as the devices know it
    ordered: np.ndarray  # [places]: how many those are
    behind: np.ndarray  # [places, most documents]: the order in which KV was computed
    passed: np.ndarray  # [places]: how many those are
    computed: np.ndarray  # [places, vertices]: tokens that may be of use, or UNKNOWN
    dense: np.ndarray  # bool [places, vertices]: of these only the dense part is right
    waiting: np.ndarray  # [places]: documents of the order that have no KV


class ToPrefill(NamedTuple):
    """A draft that is to be prefilled."""

    place: int
    last: bool  # whether its order is the result
    right: Kept  # what of its documents' KV is right behind others
    question: int  # tokens to be prefilled behind the documents
    keeps: bool  # whether the tree shall keep the result


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a prefill of drafts computes."""

    pieces: Pieces
    loaded: float  # tokens whose KV was there
    wasted: int  # tokens that were computed earlier, and are of no use


class Drafts:
    """The drafts at `places`, each of up to `documents` out of `vertices`; `tree` is what remembers KV, if anything
    does.

    A document has `tokens`, of which `important` are not in its dense part.
    """

    def __init__(
        self, places: int, documents: int, vertices: int, tokens: int, important: int, tree: PrefixTree | None
    ) -> None:
        self.tree = tree
        self.waiting = 0  # documents that have no KV, of all drafts
        self._tokens, self._important, self._widest = tokens, important, documents
        wide, narrow = (places, vertices), (places, documents)
        self._tables = Tables(
            documents=np.zeros(wide, np.int64),
            counts=np.zeros(places, np.int64),
            there=np.zeros(narrow, np.bool_),
            order=np.zeros(narrow, np.int64),
            ordered=np.zeros(places, np.int64),
            behind=np.zeros(narrow, np.int64),
            passed=np.zeros(places, np.int64),
            computed=np.full(wide, UNKNOWN, np.int64),
            dense=np.zeros(wide, np.bool_),
            waiting=np.zeros(places, np.int64),
        )
        self._no_tree = PrefixTree(0.0, 0.0, 0.0, 1)

    @property
    def waits(self) -> list[int]:
        """How many documents of each draft's order have no KV."""
        return self._tables.waiting.tolist()

    def begin(self, places: np.ndarray, documents: np.ndarray, counts: np.ndarray, there: np.ndarray) -> None:
        """Begin new drafts at these places, with rows of the result's documents, how many they are, and which have
        their KV.
        """
        self.waiting = _begin(self._tables, places, documents, counts, there)

    def of(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many documents the results at these places have, int64 [places], and whose KV is there, bool [places,
        most documents].
        """
        return self._tables.counts[places], self._tables.there[places]

    def name(self, places: np.ndarray, vertices: np.ndarray, documents: np.ndarray) -> None:
        """Name the documents of vertices that are not in the results, one vertex of each of these places."""
        self._tables.documents[places, vertices] = documents

    def know(self, places: np.ndarray, handed_on: HandedOn, first: int, last: int) -> None:
        """Put the documents of these rows into the orders of their drafts; `places` are those of the searches."""
        rows = handed_on.search, handed_on.order, handed_on.counts
        self.waiting += _know(self._tables, places, *rows, first, last)

    def prefill(self, drafts: Sequence[ToPrefill]) -> Prefilled:
        """Compute all that these drafts lack of what is known, one after the other."""
        if self.tree is not None:
            self.tree.reserve(len(drafts) * self._widest)
        tree = (self.tree or self._no_tree).tables
        sums = _prefill(
            self._tables, tree, self.tree is not None, np.array(drafts, np.int64), self._tokens, self._important
        )
        count, tokens, before, pairs, loaded, wasted, answered = sums
        self.waiting -= answered
        return Prefilled(Pieces(count, tokens, before, pairs), float(loaded), wasted)


@kernel
def _begin(tables: Any, places: Any, documents: Any, counts: Any, there: Any) -> Any:
    """Returns how many documents have no KV now, of all."""
    for number in range(places.shape[0]):
        place = places[number]
        tables.documents[place, : documents.shape[1]] = documents[number]
        tables.counts[place] = counts[number]
        tables.there[place] = there[number]
        tables.ordered[place] = tables.passed[place] = tables.waiting[place] = 0
        tables.computed[place] = UNKNOWN
        tables.dense[place] = False
    return tables.waiting.sum()


@part
def _is_there(tables: Any, place: Any, vertex: Any) -> Any:
    return vertex < tables.counts[place] and tables.there[place, vertex]


@kernel
def _know(tables: Any, places: Any, search: Any, order: Any, count: Any, first: Any, last: Any) -> Any:
    """Returns how many documents more have no KV."""
    more = 0
    for row in range(first, last):
        place = places[search[row]]
        waiting = 0
        for position in range(count[row]):
            vertex = order[row, position]
            tables.order[place, position] = vertex
            waiting += not _is_there(tables, place, vertex) and tables.computed[place, vertex] == UNKNOWN
        tables.ordered[place] = count[row]
        more += waiting - tables.waiting[place]
        tables.waiting[place] = waiting
    return more


@part
def _displace(tables: Any, place: Any, right: Any, important: Any) -> Any:
    """KV that was computed behind others than those of the order is of no use; returns its tokens."""
    same, wasted = 0, 0
    passed = tables.passed[place]
    while same < min(passed, tables.ordered[place]) and tables.behind[place, same] == tables.order[place, same]:
        same += 1
    for vertex in tables.behind[place, same:passed]:
        tokens = tables.computed[place, vertex]
        if tokens == UNKNOWN:
            continue
        if right == Kept.DENSE:
            lost = min(tokens, important)
            tables.computed[place, vertex] = tokens - lost
            tables.dense[place, vertex] = True
        else:
            lost = tokens
            tables.computed[place, vertex] = UNKNOWN
        wasted += lost
    return wasted


@part
def _give_up(tables: Any, place: Any) -> Any:
    """What was computed of documents that are not in the result; returns its tokens."""
    wasted = 0
    for vertex in range(tables.counts[place], tables.computed.shape[1]):
        if tables.computed[place, vertex] != UNKNOWN:
            wasted += tables.computed[place, vertex]
            tables.computed[place, vertex] = UNKNOWN
    return wasted


@kernel
def _prefill(tables: Any, tree: Any, with_tree: Any, drafts: Any, tokens: Any, important: Any) -> Any:
    """Returns the fields of Pieces, tokens loaded and wasted, and documents that waited."""
    count, rows, behind, pairs, loaded, wasted, answered = 0, 0, 0, 0.0, 0, 0, 0
    widest = tables.order.shape[1]
    sequence, kept = np.empty(widest, np.int64), np.empty(widest, np.int64)
    for row in range(drafts.shape[0]):
        place, last, right, question, keeps = (
            drafts[row, 0], drafts[row, 1], drafts[row, 2], drafts[row, 3], drafts[row, 4]
        )  # fmt: skip
        ordered = tables.ordered[place]
        if right != Kept.ALL:
            wasted += _displace(tables, place, right, important)
        if last:
            wasted += _give_up(tables, place)
        answered += tables.waiting[place]
        tables.waiting[place] = 0
        tables.behind[place], tables.passed[place] = tables.order[place], ordered
        for position in range(ordered):
            sequence[position] = tables.documents[place, tables.order[place, position]]
        if with_tree:
            find(tree, sequence, ordered, kept)
        for position in range(ordered):
            vertex = tables.order[place, position]
            has, dense = tables.computed[place, vertex], tables.dense[place, vertex]
            if _is_there(tables, place, vertex) or (has != UNKNOWN and not dense):
                continue
            kind = kept[position] if with_tree else NEITHER
            if kind == BOTH:
                computed = 0
            elif kind == DENSE or (with_tree and dense):
                computed = important
            else:
                computed = tokens
            if computed < tokens:
                loaded += tokens
            if computed:
                count += 1
                rows += computed
                behind += position * tokens
                pairs += computed * (position * tokens + (computed + 1) / 2)
            tables.computed[place, vertex] = max(has, 0) + computed
            tables.dense[place, vertex] = False
        if question:
            before = tables.counts[place] * tokens
            count += 1
            rows += question
            behind += before
            pairs += question * (before + (question + 1) / 2)
        if keeps and with_tree:  # the result
            keep(tree, tables.documents[place], tables.counts[place])
    return count, rows, behind, pairs, loaded, wasted, answered
