"""Escapes: what documents, models and clients wrote, spelled so that no terminal or log obeys it."""

from __future__ import annotations

import re

# C0 but tab and newline, DEL, C1, separators of lines that editors obey, overrides of the direction of writing, and
# halves of surrogate pairs, which no encoding has
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_OBEYED_IN_A_LINE = re.compile(f"[\t\n]|{_OBEYED.pattern}")


def escaped(text: str) -> str:
    """The text with its control characters spelled, such as \\x1b for escape. Tabs and newlines stay.

    Each character is spelled for itself, so that a sequence which comes in two pieces is found in both.
    """
    return _OBEYED.sub(_spelled, text)


def one_line(text: str) -> str:
    """The text in one line: tabs and newlines are spelled as well. For names, titles, messages and lines of a log."""
    return _OBEYED_IN_A_LINE.sub(_spelled, text)


def _spelled(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
