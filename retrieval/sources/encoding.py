"""Encoding: how the text in a file is encoded, by its byte order mark or by being valid UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

from retrieval.sources.unreadable import Unreadable

MARKS = [  # longest first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
HEAD = 8 << 10  # bytes in which a NUL tells that a file is not text
BLOCK = 1 << 20


def marked_encoding(path: Path) -> str | None:
    """The encoding that a file's byte order mark names; None without one. Raises Unreadable for a binary file."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise Unreadable(str(path), "binary, not text")
    return None


def encoding_of(path: Path, fallback: str | None) -> str:
    """The encoding to open a text file with: that of its byte order mark, else UTF-8, else `fallback`.

    Raises Unreadable for a file that holds a NUL early on, or that is not UTF-8 where there is no fallback.
    """
    marked = marked_encoding(path)
    if marked is not None:
        return marked
    with path.open("rb") as file:
        head = file.read(HEAD)
        decoder = codecs.getincrementaldecoder("utf-8")()
        done = 0
        try:
            block = head
            while block:
                decoder.decode(block)
                done += len(block)
                block = file.read(BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            if fallback is not None:
                return fallback
            raise Unreadable(
                str(path),
                f"not UTF-8 (byte {max(0, done - len(decoder.getstate()[0])) + error.start + 1}); save it as UTF-8, or "
                "name its encoding, as in --encoding latin-1",
            ) from error
    return "utf-8"


def decoded(path: Path, fallback: str | None) -> str:
    """The whole text of a file, without its byte order mark and with its line ends as they are; see `encoding_of`."""
    encoding = encoding_of(path, fallback)
    try:
        with path.open(encoding=encoding, newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise Unreadable(
            str(path), f"not {encoding} ({error.reason}, byte {error.start + 1}); save it as UTF-8"
        ) from error
