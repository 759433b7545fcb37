"""JSON rows: the values of a list, or those that follow one another, parsed one by one from a text of any length.

The standard library parses each row, so that a row means what it means in JSON lines. A wrong row ends where its
brackets and strings are closed, or before a line that begins as rows do, whichever comes first.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from retrieval.long_json import parse_pieces

PIECE = 1 << 16  # characters that are read at once
LONG_ROW_PIECES = 16  # a row that is longer is parsed in pieces, as long as `parse_pieces` decodes at once
MOST_INDENT = 200  # characters before a row on its line
LONGEST_TOKEN = 12  # characters before the end of a text where what is wrong may only be cut: a pair of escapes
_BLANK = re.compile(r"[ \t\r\n]*+")
_UP_TO_MARK = re.compile(r'[^"\[\]{},\n]*+')
_UP_TO_BRACKET = re.compile(r'[^"\[\]{}\n]*+')
_IN_STRING = re.compile(r'(?:[^"\\\n]++|\\[^\n])*+')
# no string of JSON goes on behind the end of a line: where the next line looks like this, its closing mark is missing
_OUTSIDE = re.compile(r'[ \t]*+(?:"[^"\\\n]{0,99}+"[ \t]*+:|[}\]][ \t,}\]]*+(?:\n|\Z))')
# a line that begins a row: that may stand behind a comma, or close the row before it
_ROW = re.compile(r"([ \t]*+)(?:[}\]][ \t]*+)?+,?+[ \t]*+(?=\{)")
_LOOK_AHEAD = 1024  # characters of a line that these two are matched with
_OPENING = {"}": "{", "]": "["}


def json_rows(read: Callable[[int], str]) -> Iterator[tuple[Any, str]]:
    """The rows of the text that `read` gives in pieces, each with ""; of one that is not JSON, None and the reason.

    A list's rows are its elements. Lines end in "\\n". Raises ValueError where a wrong row, or the list, has no end:
    what follows cannot be told apart from it. What `read` raises ends the iteration, too.
    """
    return _Reader(read).rows()


class _Reader:
    def __init__(self, read: Callable[[int], str]) -> None:
        self._read = read
        self._text = ""  # what was read and may still be needed
        self._next = 0  # where in it the rest begins
        self._ended = False
        self._indent = 0  # characters before the row on the line that the last row on a new line began on
        self._wrong = False  # the row that is read
        self._open = False  # brackets, or a string, of the last row that `_pieces` gave

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
                raise ValueError("the list does not end")
            yield self._nested_list() if self._mark() == "[" else self._row(in_list=True)
            mark = self._mark()
            if mark in ("]", ","):
                self._next += 1
            if mark == "]":
                return

    def _more(self, pieces: int = 1) -> bool:
        if not self._ended:
            piece = self._read(pieces * PIECE)
            self._ended = not piece
            self._text = self._text[self._next :] + piece
            self._next = 0
        return not self._ended

    def _look_ahead(self, characters: int) -> None:
        while len(self._text) - self._next < characters and self._more():
            pass

    def _mark(self) -> str:
        """The next character that is not white space, which is skipped; "" at the end."""
        blank = ""
        while True:
            end = _end(_BLANK, self._text, self._next)
            blank = (blank + self._taken(end))[-MOST_INDENT:]
            if self._next < len(self._text):
                break
            if not self._more():
                return ""
        if "\n" in blank:
            self._indent = len(blank) - blank.rindex("\n") - 1
        return self._text[self._next]

    def _row(self, in_list: bool) -> tuple[Any, str]:
        self._look_ahead(PIECE)
        reason = ""
        while not reason:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._next)
            except json.JSONDecodeError as error:
                # else the text may go on where it seems to be wrong
                sure = len(self._text) - error.pos > LONGEST_TOKEN and not error.msg.startswith("Unterminated string")
                reason = error.msg if sure or self._ended else ""
            except ValueError as error:  # a number of too many digits
                reason = str(error)
            except RecursionError:
                reason = "nested too deep"
            else:
                behind = _end(_BLANK, self._text, end)
                mark = self._text[behind : behind + 1]
                if (not in_list or mark in ",]{") if mark else self._ended:  # a comma may be missing
                    self._next = end
                    return value, ""
                reason = "Extra data" if mark else ""
            if not reason:
                length = len(self._text) - self._next
                if length >= LONG_ROW_PIECES * PIECE:
                    return self._long_row(in_list)
                self._more(max(1, length // PIECE))
        return self._rest(self._pieces(in_list), in_list, reason)

    def _nested_list(self) -> tuple[list[Any], str]:
        """Skips a list in a list: it is not a row, and where its bracket is a stray one, rows follow."""
        self._rest(self._pieces(in_list=True), True, "a list in a list does not end")
        return [], ""

    def _long_row(self, in_list: bool) -> tuple[Any, str]:
        pieces = self._pieces(in_list)
        try:
            return parse_pieces(pieces), ""
        except UnicodeDecodeError:  # from `read`
            raise
        except RecursionError:
            reason = "nested too deep"
        except ValueError as error:
            reason = getattr(error, "msg", str(error))
        return self._rest(pieces, in_list, reason)

    def _rest(self, pieces: Iterator[str], in_list: bool, reason: str) -> tuple[None, str]:
        """Skips what is left of a wrong row."""
        self._wrong = True
        collections.deque(pieces, maxlen=0)
        self._wrong = False
        if not self._mark() and (in_list or self._open):
            raise ValueError(reason)
        return None, reason

    def _pieces(self, in_list: bool) -> Iterator[str]:
        """The text of the next row, whether it is JSON or not."""
        opened = ""
        in_string = begun = closed = False
        self._open = True
        while True:
            pattern = _IN_STRING if in_string else _UP_TO_BRACKET if opened else _UP_TO_MARK
            end = _end(pattern, self._text, self._next)
            mark = self._text[end : end + 1]
            begun = begun or end > self._next
            if not mark or (mark == "\\" and end + 1 == len(self._text)):  # the text goes on, perhaps amid an escape
                yield self._taken(end)
                if not self._more(LONG_ROW_PIECES):
                    yield self._taken(len(self._text))
                    break
                continue
            if mark == "\n":
                yield self._taken(end + 1)
                if self._wrong or in_string:
                    self._look_ahead(_LOOK_AHEAD)
                    row = _ROW.match(self._text, self._next)
                    if row is not None and len(row[1]) <= self._indent:
                        self._next = row.end()
                        opened, in_string = "", False
                        break
                    in_string = in_string and not _OUTSIDE.match(self._text, self._next)
                continue
            if mark == '"':
                in_string = not in_string
            elif in_string:
                pass  # a backslash before the end of a line
            elif mark in _OPENING and opened:
                if _OPENING[mark] in opened:
                    opened = opened[: opened.rfind(_OPENING[mark])]
                    closed = not opened
            elif in_list and mark in ",]":
                yield self._taken(end)
                break
            elif mark in "{[":
                is_value = self._text[self._next : end].rstrip().endswith(":")
                if not opened and not is_value and (closed if in_list else begun):
                    yield self._taken(end)  # the next row
                    break
                opened += mark
            begun = True
            yield self._taken(end + 1)
            if closed and not in_list:
                break
        self._open = bool(opened) or in_string

    def _taken(self, end: int) -> str:
        taken = self._text[self._next : end]
        self._next = end
        return taken


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where the match of a pattern that always matches ends."""
    match = pattern.match(text, start)
    assert match is not None
    return match.end()
