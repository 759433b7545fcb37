"""A replay in virtual time, against times worked out by hand: a millisecond a prompt token, nothing else takes time."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from ragcache.engine.simulated.hardware import HARDWARE
from ragcache.engine.simulated.roofline import Roofline
from ragcache.errors import BadQuery, ConfigError, DeadlineExceeded, EngineError, Overloaded
from ragcache.model.shape import MODELS
from ragcache.replay.finder import SimulatedFinder
from ragcache.replay.replay import Replay, Served
from ragcache.replay.run import simulate
from ragcache.replay.service import SimulatedSettings
from ragcache.replay.virtual_time import run_virtual
from ragcache.replay.workload import TimedRequest, Workload
from tests.props.small_replays import LINK, PREFILL, QUESTION, SYSTEM, TOKEN, replayed, searches, served, workload

MICROSECOND = 1e-6  # to which the service rounds its times


def near(seconds: float) -> Any:
    return pytest.approx(seconds, abs=1.5 * MICROSECOND)


def test_one_request_takes_its_prompt_and_its_tokens():
    roofline = Roofline(HARDWARE["a10g"], MODELS["mistral-7b"])
    report = replayed(workload((2.0, "ab"), output=3))
    (only,) = served(report)
    assert only.ttft == only.prefill == near(0.230)
    assert (only.queue, only.search, only.search_overlap) == (0, 0, 0)
    assert (only.prompt_tokens, only.computed_tokens, only.output_tokens) == (230, 230, 3)
    decodes = roofline.decode(1, 230) + roofline.decode(1, 231)
    assert only.total == near(0.230 + decodes)
    figures = report.as_dict()
    assert figures["seconds"] == near(2.0 + only.total)  # from the start, and not from the first arrival
    assert figures["time_per_output_token"]["mean"] == near(decodes / 2)
    assert figures["throughput"]["output_tokens_per_second"] == pytest.approx(3 / (2.0 + only.total), abs=1e-6)


def test_two_requests_share_what_they_begin_with():
    report = replayed(workload((0.0, "ab"), (1.0, "ac"), (2.0, "ba")))
    times = [each.ttft for each in served(report)]
    # b and then a is another KV than a and then b: only the system prompt is the same
    assert times == [near(0.230), near(0.120), near(0.220)]
    assert [each.cached_documents for each in served(report)] == [0, 1, 0]
    figures = report.as_dict()
    assert figures["tokens"] == {
        "prompt": 690, "computed": 570, "device": 120, "host": 0, "disk": 0, "output": 3,
    }  # fmt: skip
    assert figures["hits"] == {
        "document_ratio": near(1 / 6),
        "token_ratio": near(120 / 690),
        "prefill_seconds_saved": near(0.120),
        "prefill_seconds_uncached": near(0.690),
    }


def test_who_comes_during_a_long_prefill_waits_for_its_end():
    long, short = ("l", 970), ("s", 70)
    requests = Workload(tuple(TimedRequest(time, (doc,), QUESTION, 1) for time, doc in ((0.0, long), (0.4, short))))
    report = replayed(requests, max_batch=1)
    assert [(each.queue, each.ttft) for each in served(report)] == [
        (0, near(1.0)),
        (near(0.6), near(0.6 + 0.09)),  # but the system prompt is there
    ]
    assert report.as_dict()["queueing"]["most_in_flight"] == 2
    # beside each other: of the second step's 512 tokens the long one takes 488, and the short one the other 24
    beside = served(replayed(requests, max_batch=2, share_in_flight=False))
    assert [each.queue for each in beside] == [0, near(0.512 - 0.4)]
    assert beside[1].ttft == near(1.1 - 0.4)
    # the system prompt is being computed: there by the end of the first step, when the second has begun, of 488 tokens
    sharing = served(replayed(requests, max_batch=2))
    assert [each.queue for each in sharing] == [0, near(1.0 - 0.4)]
    assert sharing[1].ttft == near(1.09 - 0.4)
    assert beside[0].ttft == near(0.512 + 0.512)


def test_the_papers_example_of_reordering():
    """Two documents, room for one, six alternating requests: no hit in order, four of six reordered."""
    requests = workload(*[(0.0, letter) for letter in "ababab"])
    room = SYSTEM + 100 + QUESTION

    def hits(window: int) -> tuple[list[int | None], float]:
        report = replayed(requests, device_cache=room, policy="lru", reorder_window=window)
        return [each.cached_documents for each in served(report)], report.as_dict()["hits"]["document_ratio"]

    assert hits(0) == ([0] * 6, 0.0)
    assert hits(32) == ([0, 0, 1, 1, 1, 1], near(4 / 6))


def test_what_the_device_gave_up_comes_back_from_the_host_at_the_speed_of_the_link():
    requests = workload((0.0, "a"), (10.0, "b"), (20.0, "a"), size=1000)
    room = SYSTEM + 1000 + QUESTION
    move = 1000 * TOKEN / LINK
    first, second, third = served(replayed(requests, device_cache=room, host_cache=5000))
    assert first.ttft == near(1.030)
    # a leaves for the host before b has its memory
    assert (second.queue, second.prefill) == (near(move), near(1.020))
    # and b leaves before a comes: one link, one move at a time
    assert (third.queue, third.prefill) == (near(2 * move), near(QUESTION / 1000))
    assert (third.device_tokens, third.host_tokens) == (SYSTEM, 1000)
    without = served(replayed(requests, device_cache=room))
    assert [each.ttft for each in without] == [near(1.030), near(1.020), near(1.020)]


def test_the_system_prompt_and_the_documents_may_be_missing():
    nothing = simulate(workload((0.0, ""), (1.0, "")), SimulatedSettings(), system_tokens=0, prefill=PREFILL)
    assert [each.ttft for each in served(nothing)] == [near(QUESTION / 1000)] * 2
    profile = searches((0.1, 0.1), ((-1, -2), (0, 1)))
    answers = served(replayed(workload((0.0, ""), (1.0, "")), profile=profile, speculate=True))
    assert [(each.search, each.documents, each.cached_documents) for each in answers] == [(near(0.2), 0, 0)] * 2


def test_documents_shown_on_the_way_are_distinct_and_drawn_by_the_seed():
    profile = searches((0.1, 0.1), ((-2, -1, -3, -4), (0, 1, 2, 3)))
    requests = workload(*[(0.0, pair) for pair in ("abcd", "efgh", "aaef", "aijk")])

    def shown(seed: int) -> list[str]:
        async def main() -> list[str]:
            finder = SimulatedFinder(requests, system_tokens=SYSTEM, searches=profile, seed=seed)
            stages = [stage async for stage in finder.find("0", 4, 10_000, staged=True)]
            return [document.id for document in stages[0].documents]

        return run_virtual(main())

    for seed in range(20):
        first = shown(seed)
        assert len(set(first)) == 4
        assert not set(first) & set("abcd")
        assert first == shown(seed)
    assert len({tuple(shown(seed)) for seed in range(20)}) > 1


SAME, OTHER_ORDER = ((0, 1),) * 3, ((1, 0), (0, 1), (0, 1))
STAGES = (0.1, 0.2, 0.3)


def test_a_search_takes_the_time_of_its_stages():
    profile = searches(STAGES, SAME)
    first, second = served(replayed(workload((0.0, "ab"), (0.1, "cd")), profile=profile))
    assert (first.search, first.ttft) == (near(0.6), near(0.6 + 0.230))
    # one search at a time: 0.5 s of waiting, and the engine is idle again by then
    assert (second.search, second.ttft) == (near(0.5 + 0.6), near(0.5 + 0.6 + 0.220))
    assert first.search_overlap == first.speculations == 0


def test_speculation_computes_while_the_search_goes_on():
    report = replayed(workload((0.0, "ab")), profile=searches(STAGES, SAME), speculate=True)
    (only,) = served(report)
    assert (only.ttft, only.search, only.search_overlap) == (near(0.6), near(0.6), near(0.5))
    assert (only.speculations, only.speculation_used, only.wasted_tokens) == (1, True, 0)
    figures = report.as_dict()
    assert figures["speculation"] == {"started": 1, "used": 1, "wasted_tokens": 0}
    assert figures["search"]["not_overlapped"]["mean"] == near(0.1)


def test_a_wrong_guess_costs_no_more_than_its_step():
    report = replayed(workload((0.0, "ab"), size=400), profile=searches(STAGES, OTHER_ORDER), speculate=True)
    (only,) = served(report)
    # begun at 0.1 s with b and a; at 0.3 s the list is another; at 0.612 s, when the search is over, the step of 512
    # tokens ends. The system prompt and b are kept, the beginning of a was for nothing. Then 820 tokens are computed
    assert (only.speculations, only.speculation_used, only.search_overlap) == (1, False, 0)
    assert only.ttft == near(0.612 + 0.820)
    assert only.wasted_tokens == 512 - SYSTEM - 400


def test_by_tree_the_order_is_that_of_what_is_cached_or_being_computed():
    report = replayed(workload((0.0, "ab"), (1.0, "ba"), (2.0, "cb"), (2.01, "bc")), order="tree", max_batch=2)
    times = [each.ttft for each in served(report)]
    # the last one counts on b and c, which the one before it begins at that time behind b's node
    assert times[:3] == [near(0.230), near(0.020), near(0.220)]
    assert [each.cached_documents for each in served(report)][:2] == [0, 2]
    assert sum(each.computed_tokens for each in served(report)) == 230 + 20 + 220 + 20


def test_by_tree_a_guess_in_another_order_is_no_wrong_guess():
    profile = searches(STAGES, OTHER_ORDER)
    (only,) = served(replayed(workload((0.0, "ab"), size=400), profile=profile, speculate=True, order="tree"))
    assert (only.speculations, only.speculation_used, only.wasted_tokens) == (1, True, 0)
    assert only.ttft == near(0.1 + 0.830)


def test_lists_and_times_of_the_searches_come_by_turns():
    profile = searches(STAGES, SAME, OTHER_ORDER)
    requests = workload(*[(number * 10.0, pair) for number, pair in enumerate(("ab", "cd", "ef", "gh"))])
    report = replayed(requests, profile=profile, speculate=True)
    # with 230 tokens the wrong guess has ended, at 0.33 s, before the search has
    assert [each.speculations for each in served(report)] == [1, 2, 1, 2]
    assert all(each.speculation_used for each in served(report))


def test_requests_that_come_to_nothing_are_counted_and_told():
    requests = workload((0.0, "a"), (0.0, "b"), (0.01, "c"), (5.0, "d"), size=1000)
    report = replayed(requests, max_waiting=1, timeout_ms=1500)
    assert [outcome.how for outcome in report.outcomes] == ["answered", "expired", "overloaded", "answered"]
    expired, refused = report.outcomes[1:3]
    assert expired.ended == near(1.5)
    assert refused.ended == refused.arrived == near(0.01)
    assert "the limit is 1" in refused.message
    assert report.as_dict()["outcomes"] == {"answered": 2, "expired": 1, "overloaded": 1}
    assert report.as_dict()["ttft"]["mean"] == near((1.030 + 1.020) / 2)  # of those that were answered


def test_a_request_that_never_fits_is_rejected_alone():
    requests = Workload(
        (
            TimedRequest(0.0, (("small", 100),), QUESTION, 1),
            TimedRequest(1.0, (("large", 5000),), QUESTION, 1),
            TimedRequest(2.0, (("small", 100),), QUESTION, 1),
        )
    )
    report = replayed(requests, device_cache=1000)
    assert [outcome.how for outcome in report.outcomes] == ["answered", "rejected", "answered"]
    assert "the device cache has 125 MiB" in report.outcomes[1].message
    assert "request 2 rejected: the prompt and 1 more tokens need" in report.table()


def test_a_replay_of_which_nothing_is_answered_has_a_report():
    report = replayed(workload((0.0, "a"), size=1000), timeout_ms=1)
    figures = report.as_dict()
    assert figures["ttft"] == {"mean": None, "p50": None, "p95": None, "p99": None}
    assert (figures["throughput"]["requests_per_second"], figures["hits"]["token_ratio"]) == (0, 0)
    assert figures["hits"]["document_ratio"] is None
    assert "1 expired" in report.table()


def test_equal_arguments_give_equal_reports_and_other_seeds_others():
    rows = [(0.0, "".join(sorted({chr(97 + number * number % 23), chr(97 + number % 11)}))) for number in range(300)]
    requests = workload(*rows, output=4)
    profile = searches(STAGES, SAME, ((-1, 0), (1, 0), (0, 1)), ((-1, -2), (0, -1), (0, 1)))
    options = {"profile": profile, "speculate": True, "max_batch": 4, "reorder_window": 32, "device_cache": 1200}

    def run(seed: int) -> dict[str, Any]:
        return replayed(requests.with_rate(1.5, seed), seed=seed, host_cache=1000, **options).as_dict()

    first, again, other = run(1), run(1), run(2)
    assert json.dumps(first) == json.dumps(again)
    assert first["ttft"] != other["ttft"]
    assert first["speculation"]["used"] > 0
    assert first["tokens"]["host"] > 0
    tokens = first["tokens"]
    assert tokens["computed"] + tokens["device"] + tokens["host"] + tokens["disk"] == tokens["prompt"]


def test_progress_is_told_request_by_request():
    progress: list[int] = []
    replayed(workload(*[(0.0, "a")] * 7), on_progress=progress.append)
    assert progress == [1] * 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hardware": "b200"}, "there is no hardware 'b200'; known are a10g, h100"),
        ({"model": "gpt"}, "there is no model 'gpt'; known are mistral-7b"),
        ({"policy": "best"}, "there is no policy 'best'; known are lru"),
        ({"admission": "never"}, "admission is one of always, competes, not 'never'"),
        ({"max_batch": 0}, "max_batch must be at least 1, not 0"),
        ({"reorder_window": -1}, "reorder_window must be at least 0, not -1"),
        ({"policy": "none", "host_cache": 1 << 30}, "a host cache or a disk cache has no use where no KV is kept"),
        ({"device_cache": 5}, "device_cache is 5 bytes; one token of mistral-7b takes 131072"),
        ({"model": "llama2-70b"}, "the weights of llama2-70b take 128.5 GiB"),
        ({"hardware": "this-cpu"}, "this-cpu has no figure for float16"),
    ],
)
def test_what_cannot_be_simulated_is_said(settings, message):
    with pytest.raises(ConfigError) as error:
        simulate(workload((0.0, "a")), SimulatedSettings(**settings), system_tokens=SYSTEM)
    assert message in str(error.value)


def test_without_a_cache_every_request_computes_all_of_its_prompt():
    report = replayed(workload((0.0, "ab"), (1.0, "ab")), policy="none")
    assert [each.ttft for each in served(report)] == [near(0.230)] * 2
    assert report.as_dict()["tokens"]["device"] == 0


def test_the_machine_is_described_when_nothing_was_measured():
    requests = workload((0.0, "ab"), size=3000)
    report = simulate(requests, SimulatedSettings(), system_tokens=SYSTEM)
    roofline = Roofline(HARDWARE["a10g"], MODELS["mistral-7b"])
    assert served(report)[0].ttft == near(roofline(0, 6000 + SYSTEM + QUESTION))
    config = report.as_dict()["config"]
    assert config["device_cache"] == roofline.kv_capacity()
    assert (config["hardware"], config["model"], config["policy"]) == ("a10g", "mistral-7b", "pgdsf")
    assert PREFILL(0, 6030) != roofline(0, 6030)


class Canned:
    """An asker that answers by the request's number: after a second, or not at all."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        self.errors = errors
        self.asked: list[tuple[float, int]] = []

    async def ask(self, number: int, request: TimedRequest) -> Served:
        self.asked.append((asyncio.get_running_loop().time(), number))
        await asyncio.sleep(1.0)
        if number in self.errors:
            raise self.errors[number]
        tokens = sum(size for _, size in request.documents)
        return Served(1.0, 1.0, 0.0, 0.0, 0.0, 1.0, tokens, tokens, 0, 0, 0, 1, 1, None, 0, False, 0)


def canned(asker: Canned, requests: Workload, started: float = 0.0) -> tuple[Replay, list[Any]]:
    async def main() -> tuple[Replay, list[Any]]:
        await asyncio.sleep(started)
        replay = Replay(requests, asker)
        return replay, await replay.run()

    return run_virtual(main())


def test_requests_are_sent_at_their_times_whether_or_not_others_are_answered():
    asker = Canned({})
    replay, outcomes = canned(asker, workload((0.0, "a"), (0.25, "b"), (0.25, "c"), (7.0, "d")), started=3.0)
    assert asker.asked == [(3.0, 0), (3.25, 1), (3.25, 2), (10.0, 3)]
    assert [(outcome.number, outcome.arrived, outcome.ended) for outcome in outcomes] == [
        (0, 0.0, 1.0), (1, 0.25, 1.25), (2, 0.25, 1.25), (3, 7.0, 8.0),
    ]  # fmt: skip
    assert replay.most_in_flight == 3


def test_each_error_is_an_outcome_of_its_own():
    errors = [Overloaded("o"), DeadlineExceeded("d"), BadQuery("b", field="question"), EngineError("e")]
    _, outcomes = canned(Canned(dict(enumerate(errors))), workload(*[(0.0, "a")] * 5))
    assert [(outcome.how, outcome.message) for outcome in outcomes] == [
        ("overloaded", "o"), ("expired", "d"), ("rejected", "b"), ("failed", "e"), ("answered", ""),
    ]  # fmt: skip


def test_a_bug_is_no_outcome():
    asker = Canned({1: ZeroDivisionError()})
    with pytest.raises(ZeroDivisionError):
        canned(asker, workload((0.0, "a"), (0.1, "b"), (9.0, "c")))  # it ends while the last is still to be sent
    assert [number for _, number in asker.asked] == [0, 1]


def test_a_replay_that_is_cancelled_leaves_nothing_running():
    async def main(make: Callable[[], Replay]) -> int:
        task = asyncio.get_running_loop().create_task(make().run())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    requests = workload((0.0, "a"), (0.1, "b"), (50.0, "c"))
    assert run_virtual(main(lambda: Replay(requests, Canned({})))) == 1
