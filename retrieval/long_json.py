"""Long JSON: a value parsed from pieces of its text, in little more memory than its longest string takes."""

import io
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

PIECE = 1 << 20  # characters of a string that are decoded at once; shorter strings are left to `json`
MOST_OUTLINE = 1 << 27  # characters of a value without its long strings: in memory, it takes many times as much

# The inside of a string, or as much of it as was read and may stand in JSON, without its closing quotation mark. It
# ends behind a whole character: neither within an escape, nor between the two escapes of a surrogate pair
_INSIDE = re.compile(
    r'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}"
    r"(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?=[^\\])|(?=\\[^u])|(?=\\u(?![dD][c-fC-F])[0-9a-fA-F]{4})))*+",
    re.DOTALL,
)
_LONGEST_ESCAPE = 12  # characters: a pair


def parse_pieces(pieces: Iterable[str]) -> Any:
    """The JSON value whose text is in `pieces`, as `json.loads` has it of the whole; ValueError if it is not JSON."""
    parser = _Parser(iter(pieces))
    outline = parser.outline()
    value = json.loads(outline)
    return _filled(value, parser.long) if parser.long else value


class _Parser:
    """Reads a text up to its end; `long` holds its long strings by the names that stand for them in the outline."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text = ""  # what was read and may still be needed
        self._next = 0  # where in it the rest begins
        self.long: dict[str, str] = {}

    def outline(self) -> str:
        """The text with a short name in place of each long string."""
        outline: list[str] = []
        length = 0
        while True:
            quote = self._text.find('"', self._next)
            if quote >= 0:
                outline.append(self._text[self._next : quote])
                self._next = quote + 1
                outline.append(f'"{self._string()}"')
                length += len(outline[-2]) + len(outline[-1])
            else:
                outline.append(self._text[self._next :])
                self._next = len(self._text)
                length += len(outline[-1])
                if not self._more():
                    return "".join(outline)
            if length > MOST_OUTLINE:
                raise ValueError(f"it holds more than {MOST_OUTLINE} characters in other fields than long texts")

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._text = self._text[self._next :] + piece
        self._next = 0
        return True

    def _string(self) -> str:
        """What stands for the string that begins here: itself if it is short, else a name."""
        whole: io.StringIO | None = None  # holds one copy of what was read so far, where a list would need two
        while True:
            match = _INSIDE.match(self._text, self._next)
            assert match is not None
            end = match.end()
            if self._text[end : end + 1] == '"':
                self._next = end + 1
                if whole is None:
                    return match[0]
                whole.write(_decoded(match[0]))
                name = uuid.uuid4().hex  # no string of the text's own
                self.long[name] = whole.getvalue()
                return name
            if self._text[end : end + 1] not in ("\\", ""):
                raise ValueError("Invalid control character in a string; write it as an escape")
            if len(self._text) - end > _LONGEST_ESCAPE:
                raise ValueError(f"Invalid escape {self._text[end : end + 2]} in a string")
            if end - self._next >= PIECE:
                whole = whole or io.StringIO()
                whole.write(_decoded(match[0]))
                self._next = end
            del match  # it holds the text that the next piece replaces
            if not self._more():
                raise ValueError("a string does not end")


def _decoded(inside: str) -> str:
    return str(json.loads(f'"{inside}"'))


def _filled(value: Any, long: dict[str, str]) -> Any:
    """The value with the long strings in place of their names."""
    if isinstance(value, str):
        return long.get(value, value)
    if isinstance(value, list):
        return [_filled(each, long) for each in value]
    if isinstance(value, dict):
        return {long.get(name, name): _filled(each, long) for name, each in value.items()}
    return value
