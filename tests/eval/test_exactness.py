"""Reuse is exact: greedy answers do not depend on what was cached, with the real model over the demo's questions."""

from pathlib import Path

import pytest

from eval.demo import QUESTION, table
from eval.exactness import TIE, Exactness, Generated, compare
from eval.props.question_set import read_questions
from ragcache.cli.config import ServeConfig
from tests.props.live import TOPICS

SHORT = {"max_doc_tokens": 100, "max_question_tokens": 32, "max_tokens": 8}
QUESTIONS = Path(__file__).parents[2] / "eval" / "questions" / "python.jsonl"


def test_answers_are_the_same_wherever_the_kv_comes_from(tiny_index: Path, tiny_folder: Path) -> None:
    """With the tiny model, and a device that holds one prompt, so that documents lie where they are said to lie."""
    questions = [f"What is known of the {name}?" for name in list(TOPICS)[:5]]
    config = ServeConfig(index=tiny_index, model=str(tiny_folder), threads=1, **SHORT)

    results = Exactness(config, questions, max_tokens=8).run(plain=2)

    for result in results:
        assert result.different == ()
        assert result.equal + result.ties == (2 if result.name == "plain transformers" else 5)
    by_name = {result.name: result for result in results}
    assert len(by_name) == 6
    warm = by_name["cache warm"]
    for name, tier in (("cache warm", "device"), ("from disk", "disk"), ("from host", "host")):
        assert by_name[name].cached_tokens[tier] > 2 * by_name[name].computed_tokens
        assert by_name[name].computed_tokens == warm.computed_tokens
    assert sum(by_name["cleared before each"].cached_tokens.values()) == 0
    assert by_name["cleared before each"].computed_tokens == by_name["cache warm"].computed_tokens + sum(
        warm.cached_tokens.values()
    )
    assert 0 < sum(by_name["cache on"].cached_tokens.values()) < sum(warm.cached_tokens.values())


@pytest.mark.full(proof="test_answers_are_the_same_wherever_the_kv_comes_from")
@pytest.mark.real
@pytest.mark.timeout(1500)
def test_fifty_answers_are_the_same_wherever_the_kv_comes_from(demo_index: Path) -> None:
    texts = [question.text for question in read_questions(QUESTIONS)]
    questions = [texts[number * len(texts) // 50] for number in range(50)]
    # one thread, because the other worker of the tier has the other core
    config = ServeConfig(index=demo_index, max_doc_tokens=100, max_tokens=8, threads=1)

    results = Exactness(config, questions, max_tokens=8).run(plain=5, cleared=10)

    for result in results:
        print(f"{result.name}: {result.equal} equal, {result.ties} ties")
        assert result.different == ()
    by_name = {result.name: result for result in results}
    assert [by_name[name].equal + by_name[name].ties for name in by_name] == [50, 50, 50, 50, 10, 5]
    # what was compared really was cached, and where it is said to have been, or really was not
    for name, tier in (("cache warm", "device"), ("from disk", "disk"), ("from host", "host")):
        assert by_name[name].cached_tokens[tier] > 4 * by_name[name].computed_tokens
        assert by_name[name].computed_tokens == by_name["cache warm"].computed_tokens
    assert sum(by_name["cleared before each"].cached_tokens.values()) == 0
    assert sum(by_name["cache on"].cached_tokens.values()) > 0


@pytest.mark.parametrize(
    ("reference", "other", "verdict"),
    [
        (Generated((1, 2), (1.0, 1.0)), Generated((1, 2), (1.0, 1.0)), "equal"),
        (Generated((1, 2), (1.0, TIE / 2)), Generated((1, 3), (1.0, TIE / 2)), "tie"),
        (Generated((1, 2), (1.0, 2 * TIE)), Generated((1, 3), (1.0, 2 * TIE)), "different"),
        (Generated((1,), (1.0,)), Generated((1, 3), (1.0, TIE / 2)), "tie"),
        (Generated((1,), (1.0,)), Generated((1, 3), (1.0, 1.0)), "different"),
        (Generated((1, 3), (1.0, 1.0)), Generated((1,), (1.0,)), "different"),
    ],
)
def test_answers_are_equal_up_to_a_tie_of_the_logits(reference: Generated, other: Generated, verdict: str) -> None:
    assert compare(reference, other) == verdict


def test_the_demo_asks_a_question_of_its_own_set() -> None:
    assert QUESTION in {question.text for question in read_questions(QUESTIONS)}


def test_the_demo_table_shows_where_the_prompt_came_from() -> None:
    def answer(ttft: float, cached: int) -> dict[str, object]:
        usage = {
            "prompt_tokens": 1500,
            "computed_tokens": 1500 - cached,
            "cached_tokens": {"device": cached, "host": 0, "disk": 0},
        }
        return {"timing": {"ttft_ms": ttft}, "usage": usage}

    lines = table([answer(2400.0, 0), answer(120.0, 1480)]).splitlines()
    assert [line.split()[-2:] for line in lines if "cache" in line or "computed" in line] == [
        ["0", "1,480"],
        ["1,500", "20"],
    ]
    assert "20.0 times sooner" in lines[-1]
