"""How an answer is drawn, and where it ends."""

from ragcache.service.answer import Delta, Query
from tests.props.asking import OTTERS, ask, events_of, run, until


def test_an_answer_ends_before_a_stop_string(make_service):
    whole = run(ask(make_service(), max_tokens=16))
    assert len(whole.answer) > 8
    stop = whole.answer[5:8]
    before = whole.answer[: whole.answer.find(stop)]
    service = make_service(step_seconds=0.002)

    async def scenario():
        events = await events_of(service, Query(OTTERS, max_tokens=16, stop=("in no answer", stop)))
        await until(lambda: service.cache.balance().held == 0)
        return events

    events = run(scenario())
    answer = events[-1]
    assert (answer.answer, answer.finish_reason) == (before, "stop")
    assert "".join(event.text for event in events if isinstance(event, Delta)) == before
    assert answer.usage.completion_tokens < 16


def test_a_seed_makes_a_drawn_answer_again(make_service):
    service = make_service(max_tokens=12)
    drawn = [run(ask(service, temperature=1.5, seed=seed)).token_ids for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({run(ask(service, temperature=1.5)).token_ids for _ in range(3)}) > 1
