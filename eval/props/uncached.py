"""Uncached: what a service without a cache answers, and whether another answer is the same."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from eval.exactness import TIE
from ragcache.cli.assembly.torch import assemble
from ragcache.cli.config import ServeConfig
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.detokenizer import Detokenizer
from ragcache.prompt.template import PromptTemplate
from ragcache.service.answer import Answer, Query


@dataclass(frozen=True, slots=True)
class Uncached:
    """A greedy answer computed from nothing.

    `texts[i]` is the answer up to and with token `i`, `margins[i]` the best logit less the second where it was chosen.
    """

    text: str
    texts: tuple[str, ...]
    margins: tuple[float, ...]

    def compare(self, body: dict[str, Any]) -> str:
        """Compares an answer over HTTP, which has no token ids, with this one: "equal" (text and number of tokens),
        "tie" (it departs at a token whose two best logits were less than `TIE` apart) or "different"."""
        text = str(body["answer"])
        if text == self.text and body["usage"]["completion_tokens"] == len(self.texts):
            return "equal"
        for so_far, margin in zip(self.texts, self.margins, strict=True):
            if not text.startswith(so_far):
                return "tie" if margin <= TIE else "different"
        return "different"


@dataclass(slots=True)
class Tally:
    """How many answers were equal to uncached ones. `ties` depart where two logits were as good as equal."""

    equal: int = 0
    ties: int = 0
    different: int = 0

    @property
    def compared(self) -> int:
        return self.equal + self.ties + self.different

    def count(self, verdict: str) -> None:
        """Counts one more answer by its verdict, as `Uncached.compare` gives it."""
        self.equal += verdict == "equal"
        self.ties += verdict == "tie"
        self.different += verdict == "different"

    def in_words(self) -> str:
        return f"{self.compared} compared, {self.equal} equal, {self.ties} ties, {self.different} different"


def answer_uncached(config: ServeConfig, questions: Sequence[str]) -> dict[str, Uncached]:
    """The answers by question, of a service with these settings in this process, asked one after the other."""
    template = PromptTemplate.load(
        Checkpoint.resolve(config.model),
        max_doc_tokens=config.max_doc_tokens,
        max_question_tokens=config.max_question_tokens,
    )

    async def every() -> dict[str, Uncached]:
        answers = {}
        for question in tqdm(questions, desc="uncached answers", file=sys.stderr, disable=None, leave=False):
            async for event in service.ask(Query(question)):
                if isinstance(event, Answer):
                    answers[question] = _uncached(event, template)
        return answers

    service = assemble(config, announce=lambda _: None)
    try:
        return asyncio.run(every())
    finally:
        service.close()


def _uncached(answer: Answer, template: PromptTemplate) -> Uncached:
    detokenizer = Detokenizer(template.tokenizer)
    texts = []
    for token, margin in zip(answer.token_ids, answer.margins, strict=True):
        detokenizer.add(token, margin)
        texts.append(detokenizer.text)
    return Uncached(answer.answer, tuple(texts), answer.margins)
