"""A finder that finds what a test has written down, when the test says so."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import lru_cache

from tokenizers import Tokenizer, models

from ragcache.prompt.prompt import Prompt
from ragcache.service.answer import UsedDocument
from ragcache.service.finder import Stage
from ragcache.service.health import State
from ragcache.tree.segment import Segment

Script = Sequence[
    tuple[float, str]
]  # stages: seconds after the one before, and its documents, a letter each; the last is final
SYSTEM_TOKENS = 10
QUESTION_TOKENS = 20
DOCUMENT_TOKENS = 100


@lru_cache
def segment(label: str, tokens: int = DOCUMENT_TOKENS) -> Segment:
    """Token ids that no other label has."""
    return Segment.of(label, [sum(map(ord, label)) % 400 + 1] * tokens)


class ScriptedFinder:
    """Finds the documents of a question's script. `errors` are raised after the last stage instead of it."""

    def __init__(self, scripts: Mapping[str, Script], errors: Mapping[str, Exception] | None = None) -> None:
        self.scripts = scripts
        self.errors = errors or {}
        self.searching = 0
        self.corpus_size = 26
        self.index_state: tuple[State, str] = ("ok", "")
        self.tokenizer = Tokenizer(models.WordLevel({str(token): token for token in range(500)}, unk_token="0"))

    def check(self, question: str) -> None:
        assert question in self.scripts

    async def find(self, question: str, top_k: int, room: int, *, staged: bool) -> AsyncGenerator[Stage]:
        del top_k
        script = self.scripts[question]
        self.searching += 1
        try:
            for number, (seconds, letters) in enumerate(script, 1):
                await asyncio.sleep(seconds)
                done = number == len(script)
                if done and question in self.errors:
                    raise self.errors[question]
                if staged or done:
                    yield self.stage(letters, done, room)
        finally:
            self.searching -= 1

    @staticmethod
    def stage(letters: str, done: bool, room: int) -> Stage:
        path = (segment("system", SYSTEM_TOKENS), *map(segment, letters))
        prompt = Prompt(path, tuple(range(1, QUESTION_TOKENS + 1)))
        assert len(prompt) <= room
        return Stage(tuple(UsedDocument(letter, letter, 1.0, False) for letter in letters), prompt, done)

    def close(self) -> None:
        pass
