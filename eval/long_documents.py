"""Long documents: how often a fact is retrieved that stands near the start, in the middle or near the end of one.

Each document is some pages of prose about offices with three facts about other things. All prose is drawn from the same
sentences, so a fact is found only if the text around it was embedded. An embedder weighs the beginning of what it reads
more than the rest: at each place, facts stand among the sentences of a passage's length at random, so that what is
compared is the place in the document. Each kind of fact stands at each place equally often.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ragcache.console import streams
from retrieval.corpus import Document, write_corpus
from retrieval.embedder import DEFAULT_NAME, Embedder
from retrieval.errors import RetrievalError
from retrieval.index import build_index
from retrieval.passages import PassageSplitter, WholeDocuments
from retrieval.retriever import Retriever

PLACES = ("start", "middle", "end")
LEAST_RATIO = 0.9  # of the recall at the start
SEED = 1
CHARACTERS_PER_SENTENCE = 80  # about
NEAR = 12  # sentences, as many as a passage has
FIRST = ["Copper", "Silver", "Amber", "Crimson", "Velvet", "Granite", "Winter", "Golden", "Hollow", "Northern"]
SECOND = ["Lantern", "Falcon", "Harbour", "Meadow", "Compass", "Orchard", "Glacier", "Violin", "Bridge", "Comet"]
FACTS = [
    (
        "Where does the spare key of the {name} cottage hang?",
        "The spare key of the {name} cottage hangs behind the boiler.",
    ),
    ("Who designed the {name} bridge?", "The {name} bridge was designed by {person}, an engineer from {city}."),
    (
        "What do the gardeners of {name} park grow in winter?",
        "The gardeners of {name} park grow kale and leeks in winter.",
    ),
    (
        "Why is the {name} ferry out of service?",
        "The {name} ferry is out of service since its hull had {number} leaks.",
    ),
    ("What are the {name} horses fed?", "The {name} horses are fed oats and {number} carrots in the evening."),
    ("Which telescope has the {name} observatory?", "The {name} observatory has a mirror telescope from {city}."),
    ("What is brewed in the {name} cellar?", "A dark beer with juniper is brewed in the {name} cellar."),
    (
        "Who founded the {name} orchestra?",
        "The {name} orchestra was founded by {person} with {number} borrowed violins.",
    ),
    ("Which colours has the {name} lighthouse?", "The {name} lighthouse is painted in red and white rings."),
    ("Which illness is treated in the {name} clinic?", "In the {name} clinic, {person} treats malaria."),
    ("What does the {name} mine produce?", "The {name} mine produces zinc, {number} tonnes a month."),
    ("Which language is taught at the {name} school?", "At the {name} school, {person} teaches Icelandic."),
]
PEOPLE = ["Weber", "Okafor", "Lindqvist", "Moreau", "Tanaka", "Costa", "Novak", "Haddad"]
CITIES = ["Lisbon", "Bergen", "Krakow", "Utrecht", "Porto", "Graz", "Turku", "Leeds"]
SUBJECTS = ["The reception", "The kitchen", "Each floor", "The archive", "Our post room", "The canteen", "A visitor"]
VERBS = ["opens", "is cleaned", "has to be booked", "may be used", "is closed", "is checked"]
TIMES = ["on working days", "before noon", "every second week", "in the summer months", "after a short notice"]
REASONS = [
    "as the house rules say",
    "so that everybody finds what they need",
    "because the rooms are shared",
    "unless something else was agreed on",
    "which has worked well for years",
]


@dataclass(frozen=True, slots=True)
class Fact:
    """A question, the sentence that answers it, and the place of that sentence in its document."""

    question: str
    sentence: str
    place: str


def long_documents(count: int, characters: int) -> tuple[list[Document], list[Fact]]:
    """Up to 100 documents of about this many characters, and three facts of each. Equal calls give equal ones."""
    rng = random.Random(SEED)
    names = [f"{first} {second}" for first in FIRST for second in SECOND]
    rng.shuffle(names)
    documents, facts = [], []
    for number, name in enumerate(names[:count]):
        own = []
        for turn, place in enumerate(PLACES):
            question, sentence = FACTS[(number + len(FACTS) // len(PLACES) * turn) % len(FACTS)]
            words = {"name": name, "number": rng.randint(20, 999)}
            words |= {"person": rng.choice(PEOPLE), "city": rng.choice(CITIES)}
            own.append(Fact(question.format(**words), sentence.format(**words), place))
        documents.append(Document(f"handbook-{number}", "Office handbook", _text(rng, characters, own)))
        facts += own
    return documents, facts


def _text(rng: random.Random, characters: int, facts: Sequence[Fact]) -> str:
    """Paragraphs of sentences, with the three facts among the first, the middle and the last NEAR sentences."""
    sentences = [_sentence(rng) for _ in range(characters // CHARACTERS_PER_SENTENCE)]
    starts = (0, (len(sentences) - NEAR) // 2, len(sentences) - NEAR)
    for start, fact in zip(reversed(starts), reversed(facts), strict=True):
        sentences.insert(max(0, start) + rng.randint(0, NEAR), fact.sentence)
    text = ""
    for number, sentence in enumerate(sentences):
        heading = f"## Section {number}\n\n" if rng.random() < 0.05 else ""
        text += rng.choice([" ", " ", " ", "\n\n"]) + sentence if not heading else f"\n\n{heading}{sentence}"
    return text.strip()


def _sentence(rng: random.Random) -> str:
    return f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(TIMES)}, {rng.choice(REASONS)}."


def recall(retriever: Retriever, facts: Sequence[Fact], top_k: int, read: int) -> dict[str, float]:
    """By place, the share of facts whose sentence is in the first `read` characters of one of `top_k` documents."""
    vectors = retriever.embedder.encode([fact.question for fact in facts])
    found = dict.fromkeys(PLACES, 0)
    for fact, vector in zip(facts, vectors, strict=True):
        hits = retriever.search_vector(vector, min(top_k, len(retriever)))
        found[fact.place] += any(fact.sentence in hit.document.text[:read] for hit in hits)
    return {place: round(count * len(PLACES) / len(facts), 4) for place, count in found.items()}


def measure(embedder: Embedder, count: int, characters: int, top_k: int, *, whole: bool = False) -> dict[str, Any]:
    """The report over `count` documents, cut into passages unless `whole`."""
    documents, facts = long_documents(count, characters)
    cut = WholeDocuments(embedder) if whole else PassageSplitter(embedder)
    with TemporaryDirectory(prefix="ragcache-long-documents-") as folder:
        corpus, index = Path(folder) / "docs.jsonl", Path(folder) / "index"
        write_corpus(corpus, documents)
        passages = build_index(corpus, index, "flat", embedder, progress=False, cut=cut).documents
        with Retriever.open(index) as retriever:
            # about what `serve` reads of a document
            shares = recall(retriever, facts, top_k, read=4 * 1024)
    ratio = min(shares[place] for place in PLACES) / shares["start"] if shares["start"] else 0.0
    return {
        "documents": count,
        "characters": sum(len(document.text) for document in documents) // count,
        "passages": passages,
        "top_k": top_k,
        **{f"recall_{place}": share for place, share in shares.items()},
        "least_ratio_to_start": round(ratio, 4),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; exit status 1 if facts further down are found less than 0.9 times as often as at the start."""
    parser = argparse.ArgumentParser(prog="python -m eval.long_documents", description=__doc__)
    parser.add_argument("--documents", type=int, default=50, metavar="N", help="up to 100 (default: %(default)s)")
    parser.add_argument("--characters", type=int, default=12_000, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="passages a question (default: %(default)s)")
    parser.add_argument("--embedder", default=DEFAULT_NAME, metavar="NAME", help="as for `ragcache index`")
    parser.add_argument("--whole", action="store_true", help="cut nothing, to see what is lost")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(argv)
    if min(options.documents, options.characters, options.top_k) < 1 or options.documents > len(FIRST) * len(SECOND):
        parser.error("numbers must be at least 1, and documents at most 100")
    try:
        embedder = Embedder.load(options.embedder)
        report = measure(embedder, options.documents, options.characters, options.top_k, whole=options.whole)
    except RetrievalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(f"{name:<22} {value}" for name, value in report.items()))
    return 0 if report["least_ratio_to_start"] >= LEAST_RATIO else 1


if __name__ == "__main__":
    sys.exit(streams.run(main, "eval.long_documents"))
