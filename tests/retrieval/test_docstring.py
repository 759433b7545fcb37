"""The description of a docstring: without signature, sections and examples, and no longer than asked for."""

import pytest

from retrieval.docstring import description

NUMPY = """sum(a, axis=None)

Sum of array elements over a given axis.

Parameters
----------
a : array_like
    Elements to sum.
"""
GOOGLE = """Concatenates the given sequence of tensors in the given dimension.

All tensors must have the same shape, except in dim.

Args:
    tensors (sequence of Tensors): what is concatenated
"""
TORCH = """sort(input,
     dim=-1) -> (Tensor, LongTensor)

Sorts the elements of the input tensor in ascending order.

Example::

    >>> x = torch.randn(3, 4)
"""
SPHINX = """Take the items of a list one by one.

:param items: the list
:returns: an iterator
"""
DOCTEST = """Return the longest common sub-path of each path.

>>> commonpath(["a/b", "a/c"])
'a'
"""
BUILTIN = """str(object='') -> str
str(bytes_or_buffer[, encoding[, errors]]) -> str

Create a new string object from the given object.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NUMPY, "Sum of array elements over a given axis."),
        (GOOGLE, GOOGLE.partition("\n\nArgs")[0]),
        (TORCH, "Sorts the elements of the input tensor in ascending order."),
        (SPHINX, "Take the items of a list one by one."),
        (DOCTEST, "Return the longest common sub-path of each path."),
        (BUILTIN, "Create a new string object from the given object."),
    ],
    ids=["numpy", "google", "torch", "sphinx", "doctest", "builtin"],
)
def test_signature_and_sections_are_left_out(text: str, expected: str) -> None:
    assert description(text, 60) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Take a note: the arguments are read in order.\nReturns nothing, and has no examples at all.",
        "Call f(x) to see it.\n\nIt returns what g(x)\n\nwould have.",
        "This module parses arguments.\n\nArguments: those of the command line, in the order given there.",
    ],
)
def test_prose_that_resembles_a_section_or_a_signature_stays(text: str) -> None:
    assert description(text, 60) == text


def test_words_count_whatever_separates_them() -> None:
    text = "one two\n\n  three\tfour five-and-a-half, six seven"
    assert description(text, 4) == "one two\n\n  three\tfour"
    assert description(text, 7) == description(text, 70) == text


@pytest.mark.parametrize(
    "text", ["Alias.\n\nArgs:\n    a: the first of two numbers", ">>> 1 + 1\n2", "Args:\n    a: b"]
)
def test_a_docstring_with_hardly_a_description_is_described_by_its_beginning(text: str) -> None:
    assert description(text, 60) == text


def test_a_bracket_that_never_closes_costs_no_time() -> None:
    text = "f(" + "(a, b)\n" * 20_000
    assert description(text, 2) == "f((a, b)"
