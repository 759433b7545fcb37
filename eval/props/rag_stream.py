"""RagStream: prompts over the documents of `medrag`, asked for as RAGPulse's users asked for passages.

Passages are ranked by how often they are asked for, documents by a draw with a seed. A short stream touches few of the
thousands of passages twice: with fewer documents than passages, neighbours in rank share one, so that the popularity
keeps its shape.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragcache.errors import TraceError
from ragcache.prompt.template import PromptTemplate
from retrieval.corpus import Document


@dataclass(frozen=True, slots=True)
class StreamPrompt:
    """Token ids, and those of each segment before the question: system prompt, then documents."""

    tokens: tuple[int, ...]
    segments: tuple[int, ...]


class RagStream:
    """Documents that each have a question, and prompts over them."""

    def __init__(self, folder: Path, template: PromptTemplate, seed: int = 1) -> None:
        """Reads the documents of `folder`, which holds `medrag` and `ragpulse`. Raises TraceError if it does not."""
        self._folder = folder
        self._template = template
        questions: dict[str, str] = {}
        for row in _rows(folder / "medrag" / "queries.jsonl.gz"):
            for name in row["doc_ids"]:
                questions.setdefault(name, row["question"])
        documents = [
            (Document(row["id"], row["title"], row["text"]), questions[row["id"]])
            for row in _rows(folder / "medrag" / "docs.jsonl.gz")
            if row["id"] in questions
        ]
        random.Random(seed).shuffle(documents)
        self._documents = documents

    def prompt(self, chosen: Sequence[int], asked: int | None = None) -> StreamPrompt:
        """The prompt over documents by number, with the question of the first of them, or of document `asked`."""
        documents = [self._documents[number % len(self._documents)] for number in chosen]
        question = documents[0][1] if asked is None else self._documents[asked % len(self._documents)][1]
        prompt = self._template.build(question, [document for document, _ in documents], room=10**6)
        tokens = [token for segment in prompt.path for token in segment.tokens]
        return StreamPrompt((*tokens, *prompt.question), tuple(map(len, prompt.path)))

    def whole(self, count: int) -> list[int]:
        """Numbers of documents that are as long as the template allows."""
        limit = self._template.max_doc_tokens
        lengths = (
            (number, len(self._template.document(document))) for number, (document, _) in enumerate(self._documents)
        )
        return list(itertools.islice((number for number, length in lengths if length == limit), count))

    def skewed(self, requests: int, top_k: int, documents: int) -> list[StreamPrompt]:
        """The first `top_k` passages of RAGPulse's first requests, in its order, over this many `documents` (0: as
        many as there are passages)."""
        asked = [
            row["hash_ids"]["passages_ids"][:top_k]
            for row in _rows(self._folder / "ragpulse" / "trace.jsonl.gz")
            if len(row["hash_ids"]["passages_ids"]) >= top_k
        ]
        popular = [passage for passage, _ in Counter(p for passages in asked for p in passages).most_common()]
        share = (documents or len(popular)) / len(popular)
        number = {passage: int(rank * share) for rank, passage in enumerate(popular)}
        return [self.prompt([number[passage] for passage in passages]) for passages in asked[:requests]]


def unlimited_hits(prompts: Sequence[StreamPrompt], block: int) -> int:
    """Tokens that a cache without bounds would have hit: of each prompt, the longest prefix of whole blocks that an
    earlier one had, but for its last token."""
    seen: set[tuple[int, ...]] = set()
    hits = 0
    for prompt in prompts:
        whole = [prompt.tokens[:end] for end in range(block, len(prompt.tokens) + 1, block)]
        for prefix in whole:
            if prefix not in seen or len(prefix) > len(prompt.tokens) - 1:
                break
            hits += block
        seen.update(whole)
    return hits


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise TraceError(f"cannot read {file}: {error}; the folder must hold medrag/ and ragpulse/") from error
