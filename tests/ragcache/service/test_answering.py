"""An answer in the making: what each event of the engine means for its text, its times and its next attempt."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models

from ragcache.cache.cache import KnowledgeCache
from ragcache.cache.lease import Lease
from ragcache.engine.protocol import Failed, Finished, Preempted, Prefilled, Sampling, Started, Token
from ragcache.errors import EngineError
from ragcache.policy import LRU
from ragcache.prompt.detokenizer import Detokenizer
from ragcache.prompt.prompt import Prompt
from ragcache.reuse.plan import Computed, Exact, Moved
from ragcache.schedule.generation import GenerationTask
from ragcache.service.answer import CachedTokens, Speculated, Timing, UsedDocument
from ragcache.service.answering import Answering, Next, Times
from ragcache.tree.segment import Segment

TOKENIZER = Tokenizer(models.WordLevel({word: number for number, word in enumerate("abcdefgh")}, unk_token="a"))
PATH = (Segment.of("system", range(10)), Segment.of("document", range(100)))
TASK = GenerationTask(Prompt(PATH, tuple(range(20))), extra=25, max_tokens=6, sampling=Sampling(0.5, seed=3))
DOCUMENTS = (UsedDocument("d", "D", 0.5, False),)


class Generated:
    """Stands in for a generation: a lease over a cache with the first segments of PATH."""

    def __init__(self, cached: int, began: float = 0.0) -> None:
        cache = KnowledgeCache(1000, 1, LRU())
        with cache.lease(PATH[:cached], 0) as lease:
            lease.commit(["kv"] * cached)
        self.lease, self.began = cache.lease(PATH, 0), began


def answering(*attempts: Generated, stop: tuple[str, ...] = ()) -> Answering:
    """Asked at 1.0 s, with its documents at 2.0 s, and these attempts one after the other."""
    generations: Any = iter(attempts or [Generated(0)])
    detokenizer = Detokenizer(TOKENIZER, stop)
    return Answering(TASK, DOCUMENTS, detokenizer, Times(1.0, retrieved=2.0), lambda: next(generations))


def ended(it: Answering) -> Any:
    it.finish()
    return it.answer(Speculated())


def test_an_undisturbed_answer():
    it = answering(Generated(1))
    events = [(3.0, Started()), (4.5, Prefilled(110)), (5.0, Token(1, 0.1)), (6.0, Token(2, 0.2))]
    texts = [it.take(time, event) for time, event in events]
    assert texts == [Next(), Next(), Next("b"), Next(" c")]
    assert not it.ended
    assert it.take(7.0, Finished("length", 110)) == Next()
    assert it.ended
    answer = ended(it)
    assert (answer.id, answer.documents, answer.answer, answer.finish_reason) == (it.id, DOCUMENTS, "b c", "length")
    assert (answer.token_ids, answer.margins) == ((1, 2), (0.1, 0.2))
    assert answer.timing == Timing(1000, 1000, 1500, 4000, 6000, 0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (130, 2)
    assert (answer.usage.computed_tokens, answer.usage.cached_tokens) == (120, CachedTokens(device=10))
    assert answer.usage.moved_tokens == 0


def test_a_complete_stop_string_ends_it():
    it = answering(stop=("c",))
    assert it.take(3.0, Token(1, 0.1)).text == "b"
    assert it.take(4.0, Token(2, 0.1)).text == " "
    assert it.ended
    assert (ended(it).answer, ended(it).finish_reason) == ("b ", "stop")


def test_what_a_speculation_did_before_counts_from_the_documents_on():
    it = answering()
    it.adopt(Generated(2, began=1.25))
    for time, event in [(1.3, Started()), (1.6, Prefilled(20)), (1.7, Token(1, 0.1)), (1.8, Finished("length", 20))]:
        it.take(time, event)
    answer = ended(it)
    assert it.attempt.guess
    assert answer.timing == Timing(1000, 0, 0, 1000, 1000, search_overlap_ms=750)
    assert answer.usage.cached_tokens.device == 110


def test_the_first_failure_is_tried_again_and_the_second_is_an_error():
    first, second = Generated(0), Generated(0)
    it = answering(first, second)
    it.adopt(guess := Generated(0, began=1.5))
    assert it.attempt.generation is guess
    assert it.take(3.0, Failed("a step went wrong")) == Next(start=TASK)
    assert it.attempt.generation is second
    assert not it.attempt.guess
    assert it.attempt.overlap == 0
    with pytest.raises(EngineError, match="the engine failed: another one"):
        it.take(4.0, Failed("another one"))


def test_a_failure_after_the_first_token_is_an_error():
    it = answering()
    it.take(3.0, Token(1, 0.1))
    with pytest.raises(EngineError, match="a step went wrong"):
        it.take(4.0, Failed("a step went wrong"))


def test_times_are_those_of_the_attempt_that_gave_the_first_token():
    it = answering(Generated(0), Generated(0))
    it.take(2.5, Started())
    it.take(2.6, Prefilled(130))
    it.take(2.7, Failed("a step went wrong"))
    events = [(3.0, Started()), (3.5, Prefilled(130)), (3.6, Token(1, 0.1)), (3.9, Finished("stop", 130))]
    for time, event in events:
        it.take(time, event)
    assert ended(it).timing == Timing(1000, 1000, 500, 2600, 2900, 0)


def test_a_preempted_answer_goes_on_behind_its_tokens_when_another_request_has_left():
    it = answering(Generated(1), Generated(2))
    it.take(3.0, Started())
    it.take(3.5, Prefilled(120))
    it.take(4.0, Token(1, 0.1))
    after = it.take(5.0, Preempted(120))
    assert after.when_left
    assert after.start is not None
    assert (after.start.prompt.question, after.start.generated) == ((*range(20), 1), 1)
    assert after.start.max_tokens == TASK.max_tokens - 1
    for time, event in [(6.0, Started()), (7.0, Prefilled(21)), (8.0, Token(2, 0.1)), (9.0, Finished("length", 21))]:
        it.take(time, event)
    answer = ended(it)
    assert answer.token_ids == (1, 2)
    assert answer.timing == Timing(1000, 1000, 500, 3000, 8000, 0)
    assert answer.usage.computed_tokens == 120, "what was computed again is no part of the prompt"


def test_a_guess_that_is_preempted_before_its_first_token_was_for_nothing():
    it = answering(Generated(0), Generated(0), Generated(0))
    it.adopt(Generated(0, began=1.5))
    after = it.take(3.0, Preempted())
    assert after.start is not None
    assert (after.start.prompt.question, after.start.generated) == (TASK.prompt.question, 0)
    assert not it.attempt.guess
    it.adopt(Generated(0, began=1.5))
    it.take(4.0, Token(1, 0.1))
    it.take(5.0, Preempted(130))
    assert (it.attempt.guess, it.attempt.overlap) == (True, 0.5)


def test_moved_tokens_count_apart(monkeypatch):
    monkeypatch.setattr(Lease, "plan", (Exact(10, "a"), Moved(30, "b", 5), Computed(range(70))))
    it = answering(Generated(1))
    it.take(3.0, Token(1, 0.1))
    it.take(4.0, Finished("length", 90))
    usage = ended(it).usage
    assert (usage.prompt_tokens, usage.cached_tokens.device) == (130, 10)
    assert (usage.moved_tokens, usage.computed_tokens) == (30, 90)
