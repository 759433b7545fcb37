"""JSON rows: the values of a list, or those that follow one another, parsed one by one from a text of any length.

The standard library parses each row, so that a row means what it means in JSON lines, and a wrong one costs no other.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from retrieval.long_json import parse_pieces

PIECE = 1 << 16  # characters that are read at once; a longer row is parsed in pieces
LONG_ROW_PIECES = 16  # as much at once as `parse_pieces` decodes at once
_BLANK = re.compile(r"[ \t\r\n]*+")
_UP_TO_MARK = re.compile(r'[^"\[\]{},]*+')
_UP_TO_BRACKET = re.compile(r'[^"\[\]{}]*+')
_IN_STRING = re.compile(r'(?:[^"\\\n]++|\\[^\n])*+')
# no string of JSON goes on behind the end of a line: where the next line looks like this, its closing mark is missing
_OUTSIDE = re.compile(r'[ \t]*+(?:"[^"\\\n]*+"[ \t]*+:|[}\]][ \t,}\]]*+(?:\r?\n|\Z))')
_OPENING = {"}": "{", "]": "["}


def json_rows(read: Callable[[int], str]) -> Iterator[tuple[Any, str]]:
    """The rows of the text that `read` gives in pieces, each with ""; of one that is not JSON, None and the reason.

    A list's rows are its elements. What `read` raises ends the iteration.
    """
    return _Reader(read).rows()


class _Reader:
    def __init__(self, read: Callable[[int], str]) -> None:
        self._read = read
        self._text = ""  # what was read and may still be needed
        self._next = 0  # where in it the rest begins
        self._ended = False

    def rows(self) -> Iterator[tuple[Any, str]]:
        while mark := self._mark():
            if mark == "[":
                self._next += 1
                yield from self._list()
            else:
                yield self._row(in_list=False)

    def _list(self) -> Iterator[tuple[Any, str]]:
        if self._mark() == "]":
            self._next += 1
            return
        while True:
            if not self._mark():
                yield None, "the list does not end"
                return
            yield self._row(in_list=True)
            # a row in a list ends before one of these, or with the text
            if self._mark() == "]":
                self._next += 1
                return
            if self._mark() == ",":
                self._next += 1

    def _more(self, pieces: int = 1) -> bool:
        if not self._ended:
            piece = self._read(pieces * PIECE)
            self._ended = not piece
            self._text = self._text[self._next :] + piece
            self._next = 0
        return not self._ended

    def _mark(self) -> str:
        """The next character that is not white space, which is skipped; "" at the end."""
        while True:
            self._next = _end(_BLANK, self._text, self._next)
            if self._next < len(self._text):
                return self._text[self._next]
            if not self._more():
                return ""

    def _row(self, in_list: bool) -> tuple[Any, str]:
        if len(self._text) - self._next < PIECE:
            self._more()
        try:
            value, end = json.JSONDecoder().raw_decode(self._text, self._next)
        except (ValueError, RecursionError):
            pass  # it is wrong, or goes on in the next piece
        else:
            behind = _end(_BLANK, self._text, end)
            if self._text[behind : behind + 1] in (",", "]") if in_list else self._text[end - 1] in "}]":
                self._next = end
                return value, ""
        pieces = self._pieces(in_list)
        try:
            return parse_pieces(pieces), ""
        except UnicodeDecodeError:  # from `read`
            raise
        except (ValueError, RecursionError) as error:
            collections.deque(pieces, maxlen=0)  # the rest of the row
            return None, "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))

    def _pieces(self, in_list: bool) -> Iterator[str]:
        """The text of the next row, whether it is JSON or not, up to where its brackets and strings are closed."""
        opened = ""
        in_string = begun = False
        while True:
            pattern = _IN_STRING if in_string else _UP_TO_BRACKET if opened else _UP_TO_MARK
            end = _end(pattern, self._text, self._next)
            mark = self._text[end : end + 1]
            if not mark or (mark == "\\" and end + 1 == len(self._text)):  # the text goes on, perhaps amid an escape
                yield self._taken(end)
                if not self._more(LONG_ROW_PIECES):
                    yield self._taken(len(self._text))
                    return
                continue
            begun = begun or bool(self._text[self._next : end].strip())
            if mark == '"':
                in_string = not in_string
            elif in_string:
                in_string = mark != "\n" or not _OUTSIDE.match(self._text, end + 1)
            elif mark in _OPENING and _OPENING[mark] in opened:
                opened = opened[: opened.rfind(_OPENING[mark])]
            elif mark == "]" and in_list:
                yield self._taken(end)  # it closes the list
                return
            elif mark == "," and in_list and not opened:
                yield self._taken(end)
                return
            elif mark in "{[":
                if begun and not opened and not in_list:
                    yield self._taken(end)  # the next row
                    return
                opened += mark
            begun = True
            yield self._taken(end + 1)
            if not in_list and not opened and not in_string:
                return

    def _taken(self, end: int) -> str:
        taken = self._text[self._next : end]
        self._next = end
        return taken


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where the match of a pattern that always matches ends."""
    match = pattern.match(text, start)
    assert match is not None
    return match.end()
