"""Unreadable: a file, or a row of one, that no document can be made of, and why."""

from __future__ import annotations

from retrieval.errors import CorpusError


class Unreadable(CorpusError):
    """`where` names the file, and the row in it if it is about one; the reason says what is wrong and what helps."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{printable(where)}: {printable(reason)}")
        self.where = where
        self.reason = reason


def printable(text: str) -> str:
    """The text with control characters, and bytes of a file name that are not UTF-8, written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )
