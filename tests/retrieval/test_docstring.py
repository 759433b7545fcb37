"""The lead of a docstring: its words in order, without markup, as many as asked for."""

import pytest

from retrieval.docstring import lead


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Sum of array elements.\n\nParameters\n----------\na : array_like",
            "Sum of array elements. Parameters a array like",
        ),
        ("Returns a :class:`~torch.Tensor`, or :func:`the sum <torch.sum>`.", "Returns a torch.Tensor, or the sum"),
        ("sort(input, dim=-1) -> (Tensor, LongTensor)", "sort input, dim 1 Tensor, LongTensor"),
        (">>> x = torch.randn(3)\n>>> for y in x:\n...     print(y)", "x torch.randn 3 for y in x print y"),
        ("It's 3.14, isn't it? `True`: **yes**.", "It's 3.14, isn't it? True yes"),
        ("ünïcödé 猫 and 😀", "ünïcödé 猫 and"),
        ("one\ttwo\r\n\n  three", "one two three"),
        ("+---+\n| - |\n+---+", ""),
        ("", ""),
    ],
)
def test_markup_is_left_out_and_words_stay(text: str, expected: str) -> None:
    assert lead(text, 60) == expected


def test_it_has_no_more_words_than_asked_for() -> None:
    text = "one_two, (three) four ... five"
    assert [lead(text, words) for words in (1, 2, 3)] == ["one", "one two,", "one two, three"]
    assert lead(text, 5) == lead(text, 500) == "one two, three four five"


def test_a_bracket_that_never_closes_costs_no_time() -> None:
    assert lead(":class:`" + "a`" * 100_000 + "(((" * 100_000 + " b", 3).startswith("a")
