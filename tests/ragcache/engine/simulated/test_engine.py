"""The simulated engine takes the time that its cost says, to the second, and little of ours."""

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from ragcache.cache.cache import KnowledgeCache
from ragcache.cost import PolynomialCost, PrefillProfile
from ragcache.engine.protocol import EngineEvent, Failed, Job, LastEvent, Prefilled, Started, Token
from ragcache.engine.simulated.engine import SimulatedEngine, SimulatedKV
from ragcache.engine.simulated.hardware import HARDWARE
from ragcache.engine.simulated.roofline import Roofline
from ragcache.engine.simulated.step_cost import MeasuredCost
from ragcache.model.shape import MODELS
from ragcache.policy import LRU
from ragcache.prompt.template import PromptTemplate
from ragcache.replay.virtual_time import run_virtual
from ragcache.reuse.plan import Computed, Exact
from ragcache.service.answer import Answer, Query
from ragcache.service.limits import Limits
from ragcache.service.retriever_finder import RetrieverFinder
from ragcache.service.service import RagService

A10G = Roofline(HARDWARE["a10g"], MODELS["mistral-7b"], prefill_chunk=512)
# 1 ms a new token; a decode 100 ms, 10 ms a sequence
PLAIN = MeasuredCost(PolynomialCost(1000, 0), 0.1, sequence_seconds=0.01)


def engine_of(cost: Any = PLAIN) -> SimulatedEngine:
    if isinstance(cost, Roofline):
        return SimulatedEngine.of(cost)
    return SimulatedEngine(cost, bytes_per_token=131_072, context_length=32_768)


class Run:
    """A job submitted to the engine of the running loop: its events with their times."""

    def __init__(self, engine: SimulatedEngine, new: Sequence[int], output: int, cached: Sequence[int] = ()) -> None:
        loop = asyncio.get_running_loop()
        self.events: list[tuple[float, EngineEvent]] = []
        self.ended: asyncio.Future[None] = loop.create_future()

        def deliver(event: EngineEvent) -> None:
            self.events.append((loop.time(), event))
            if isinstance(event, LastEvent):
                self.ended.set_result(None)

        *missing, question = new
        job = Job(
            plan=(
                *(Exact(tokens, SimulatedKV(tokens, tokens)) for tokens in cached),
                *(Computed(range(tokens)) for tokens in missing),
            ),
            targets=[engine.allocate(tokens) for tokens in missing],
            question=range(question),
            memory=engine.allocate(question + output - 1),
            max_tokens=output,
        )
        self.cancel = engine.submit(job, deliver)

    @property
    def times(self) -> list[tuple[float, str]]:
        return [(pytest.approx(when), type(event).__name__) for when, event in self.events]


def test_the_times_of_one_request():
    async def main() -> None:
        await asyncio.sleep(5)
        run = Run(engine_of(), [600, 200], 3)
        await run.ended
        # 512 tokens, 288 tokens with the first answer token, two decodes
        assert run.times == [
            (5.0, "Started"), (5.8, "Prefilled"), (5.8, "Token"), (5.91, "Token"), (6.02, "Token"), (6.02, "Finished"),
        ]  # fmt: skip

    run_virtual(main())


def test_a_request_that_arrives_in_a_step_waits_for_its_end():
    async def main() -> None:
        engine = engine_of()
        first = Run(engine, [400], 3)
        await asyncio.sleep(0.1)
        second = Run(engine, [100], 1)
        await asyncio.gather(first.ended, second.ended)
        # the first decodes beside the second's prefill: 10 ms for the sequence, 100 ms for the prompt
        assert second.times[0] == (0.4, "Started")
        assert second.times[-1] == (0.51, "Finished")
        assert first.times[-1] == (0.51 + 0.11, "Finished")

    run_virtual(main())


def test_a_decode_waits_for_no_more_than_a_chunk():
    async def main() -> None:
        engine = engine_of(A10G)
        writing = Run(engine, [100], 40)
        await asyncio.sleep(0.5)
        Run(engine, [20_000], 1)
        await writing.ended
        tokens = [when for when, event in writing.events if isinstance(event, Token)]
        gaps = [after - before for before, after in pairwise(tokens)]
        assert max(gaps) <= A10G.step([(20_000, 512)], [140])
        assert max(gaps) > 3 * min(gaps)  # but it does wait

    run_virtual(main())


def test_cached_tokens_take_no_computing():
    async def main() -> None:
        engine = engine_of(A10G)
        cold = Run(engine, [3000, 3000, 40], 1)
        await cold.ended
        begin = asyncio.get_running_loop().time()
        warm = Run(engine, [40], 1, cached=[3000, 3000])
        await warm.ended
        assert cold.events[-3] == (pytest.approx(A10G(0, 6040)), Prefilled(6040))
        assert warm.events[-3] == (pytest.approx(begin + A10G(6000, 40)), Prefilled(40))
        # tokens are named by their places: what was cached does not change the answer
        assert warm.events[-2][1] == cold.events[-2][1] == Token(6040, 1.0)

    run_virtual(main())


def test_a_cancelled_request_gives_way_at_the_next_step():
    async def main() -> None:
        engine = engine_of()
        long = Run(engine, [512 * 100], 5)
        await asyncio.sleep(0.6)  # in the second step
        other = Run(engine, [10], 1)
        long.cancel()
        await other.ended
        assert long.times == [(0.0, "Started"), (1.024, "Finished")]
        assert long.events[-1][1].reason == "cancelled"
        assert other.times[0] == (1.024, "Started")
        assert engine.stats().prefill_tokens == 2 * 512 + 10

    run_virtual(main())


def test_cancelled_before_its_first_step_it_takes_no_time():
    async def main() -> None:
        engine = engine_of()
        run = Run(engine, [10], 5)
        run.cancel()
        await run.ended
        assert run.times == [(0.0, "Finished")]
        assert engine.stats().steps == 0
        again = Run(engine, [10], 1)
        await again.ended
        assert again.times[-1] == (0.01, "Finished")

    run_virtual(main())


def test_what_is_told_may_submit_cancel_and_close():
    async def main() -> None:
        engine = engine_of()
        runs: list[Run] = []
        first = Run(engine, [10], 1)
        first.ended.add_done_callback(lambda _: runs.append(Run(engine, [10], 1000)))
        other = Run(engine, [10], 1000)
        await first.ended
        await asyncio.sleep(1)
        assert runs[0].events
        job = Job((), [], range(5), engine.allocate(5), 1)
        engine.submit(job, lambda event: engine.close() if isinstance(event, Started) else None)
        await asyncio.gather(other.ended, runs[0].ended)
        assert other.events[-1][1] == runs[0].events[-1][1] == Failed("the engine was shut down", 10)
        assert engine.stats().running == 0

    run_virtual(main())


def test_a_step_counts_when_it_has_ended():
    async def main() -> None:
        engine = engine_of()
        run = Run(engine, [600], 2)
        await asyncio.sleep(0.55)  # in the second step
        assert (engine.stats().steps, engine.stats().step_seconds) == (1, pytest.approx(0.512))
        assert engine.stats().prefill_tokens == 512
        await run.ended
        stats = engine.stats()
        assert (stats.steps, stats.prefill_tokens, stats.decode_tokens) == (3, 600, 1)
        assert stats.step_seconds == pytest.approx(asyncio.get_running_loop().time())
        await asyncio.sleep(1)
        assert engine.stats() == stats  # idle

    run_virtual(main())


def test_a_measured_profile_times_it():
    profile = PrefillProfile("m", "cpu", "float32", 2, (0, 1000), (100, 1000), ((0.1, 1.0), (0.2, 2.0)))

    async def main() -> None:
        run = Run(engine_of(MeasuredCost(profile, 0.04)), [500], 2, cached=[500])
        await run.ended
        assert [when for when, _ in run.events] == pytest.approx([0.0, 0.75, 0.75, 0.79, 0.79])

    run_virtual(main())


def test_an_engine_of_a_roofline_has_its_sizes():
    engine = SimulatedEngine.of(A10G)
    assert (engine.context_length, engine.bytes_per_token) == (32_768, 2**17)
    assert SimulatedEngine.of(A10G, context_length=9).context_length == 9
    short = Roofline(HARDWARE["a10g"], MODELS["mistral-7b"], prefill_chunk=100)

    async def main() -> None:
        engine = SimulatedEngine.of(short)
        run = Run(engine, [250], 1)
        await run.ended
        assert engine.stats().steps == 3
        assert run.times[-1] == (short(0, 250), "Finished")

    run_virtual(main())


def test_a_setting_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="vocab must be at least 1, not 0"):
        SimulatedEngine(PLAIN, bytes_per_token=1, context_length=1, vocab=0)


async def traffic(engine: SimulatedEngine, requests: int, seed: int) -> list[Any]:
    """Poisson arrivals of the paper's kind: two documents, half of them cached, six tokens of answer."""
    generator = random.Random(seed)
    slots = asyncio.Semaphore(4)
    log: list[Any] = []

    async def one(number: int) -> None:
        lengths = [max(1, int(generator.expovariate(1 / 3700))) for _ in range(2)]
        cached = lengths[: generator.randrange(3)]
        output = generator.randrange(1, 12)
        abandoned = generator.random() < 0.05
        async with slots:
            run = Run(engine, [*lengths[len(cached) :], 40], output, cached)
            if abandoned:
                await asyncio.sleep(0.5)
                run.cancel()
            await run.ended
        log.append((number, run.events))

    async with asyncio.TaskGroup() as group:
        for number in range(requests):
            await asyncio.sleep(generator.expovariate(0.6))
            group.create_task(one(number))
    return log


def test_two_runs_with_one_seed_are_equal():
    logs = [repr(run_virtual(traffic(engine_of(A10G), 200, seed))) for seed in (1, 1, 2)]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.timing
def test_a_thousand_requests_a_second_and_more():
    def rate() -> float:
        gc.collect()
        begin = time.process_time()
        run_virtual(traffic(engine_of(A10G), 1000, 3))
        return 1000 / (time.process_time() - begin)

    assert max(rate() for _ in range(3)) > 1000


def test_the_service_runs_on_it_in_virtual_time(tiny_checkpoint, tiny_retriever):
    """The one that serves, unchanged: its timings are those of the cost."""
    cost = MeasuredCost(PolynomialCost(1000, 0), 0.1)

    async def answer_to(service: RagService) -> Answer:
        *_, answer = [event async for event in service.ask(Query("What do otters do?", max_tokens=5))]
        assert isinstance(answer, Answer)
        return answer

    async def main() -> list[Answer]:
        engine = SimulatedEngine(cost, bytes_per_token=8, context_length=4096, vocab=500)
        template = PromptTemplate.load(tiny_checkpoint, max_doc_tokens=64, max_question_tokens=32)
        cache = KnowledgeCache(80_000, 8, LRU(), cost=cost.prefill)
        service = RagService(RetrieverFinder(tiny_retriever, template), cache, engine, Limits(top_k=2, max_tokens=8))
        answers = [await answer_to(service) for _ in range(2)]
        await asyncio.sleep(5)  # idle: the books are recounted
        assert service.stats.audits == 1
        await answer_to(service)
        await asyncio.sleep(30)
        assert service.stats.audits == 1, "once a minute is enough"
        await asyncio.sleep(40)
        assert service.stats.audits == 2
        cache.check_integrity()
        return answers

    cold, warm = run_virtual(main())
    assert cold.finish_reason == warm.finish_reason == "length"
    assert cold.usage.computed_tokens == cold.usage.prompt_tokens > warm.usage.computed_tokens
    assert cold.token_ids == warm.token_ids
    for answer in (cold, warm):
        assert answer.timing.retrieval_ms == answer.timing.queue_ms == 0.0
        assert answer.timing.prefill_ms == answer.timing.ttft_ms == pytest.approx(answer.usage.computed_tokens)
        assert answer.timing.total_ms == pytest.approx(answer.timing.ttft_ms + 4 * 100)
