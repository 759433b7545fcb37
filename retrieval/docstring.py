"""Docstring: its words, without the markup of reStructuredText, doctests and code."""

import re

ROLE = re.compile(r":[a-z:]+:`~?\.?([^`<]*)[^`]*`")  # :class:`~torch.Tensor` and the like; what stays is the name
PROMPT = re.compile(r"^\s*(?:>>>|\.\.\.) ?", re.MULTILINE)
MARKS = re.compile(r"[^\w\s.,'?]+|_+")  # brackets, quotes, operators, rules; an underscore joins words
LONELY = re.compile(r"(?<!\w)[.,'?]+|[.,']{2,}")  # what sentences and numbers do not need


def lead(text: str, words: int) -> str:
    """The first `words` words of a docstring, separated by single spaces, without markup.

    Markup is a third of a docstring's tokens and says little about its subject, so the words that fit into as many
    tokens say more without it.
    """
    text = PROMPT.sub("", ROLE.sub(r"\1", text))
    return " ".join(LONELY.sub(" ", MARKS.sub(" ", text)).split()[:words])
