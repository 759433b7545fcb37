"""Encoding: how the text in a file is encoded, by its byte order mark or by being valid UTF-8."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path
from typing import IO

from retrieval.corpus import unpacked
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
    """The encoding that a file's byte order mark names; None without one. A .gz file is looked at unpacked."""
    with path.open("rb") as file:
        return _marked(unpacked(path, file).read(HEAD))


def encoding_of(path: Path, fallback: str | None) -> str:
    """The encoding to open a text file with: that of its byte order mark, else UTF-8, else `fallback`.

    A .gz file is looked at unpacked, as far as it can be. Raises Unreadable for a file that holds a NUL early on where
    the fallback is not an encoding with NULs in plain text, and for one that is not UTF-8 where there is no fallback.
    """
    with path.open("rb") as packed:
        file = unpacked(path, packed)
        head = file.read(HEAD)
        marked = _marked(head)
        if marked is not None:
            return marked
        if b"\0" in head:
            if fallback is None or b"\0" not in "a".encode(fallback):
                raise Unreadable(str(path), "binary, not text")
            return fallback  # UTF-16 or UTF-32
        return _utf_8_or(path, head, file, fallback)


def _marked(head: bytes) -> str | None:
    return next((encoding for mark, encoding in MARKS if head.startswith(mark)), None)


def _utf_8_or(path: Path, head: bytes, file: IO[bytes], fallback: str | None) -> str:
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
    except (EOFError, zlib.error, gzip.BadGzipFile):
        pass  # the packed file is damaged from here on: reading it tells
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
