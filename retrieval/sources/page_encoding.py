"""Page encoding: the encoding that an HTML page says it is in, as browsers understand it."""

from __future__ import annotations

import codecs
import contextlib
import re
from typing import NamedTuple

import webencodings
from bs4 import BeautifulSoup
from bs4.filter import SoupStrainer

from retrieval.sources.encoding import HEAD, MARKS

_XML = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)""")
SEVERAL_BYTES = {"big5hkscs", "cp932", "cp949", "euc_jp", "gb18030", "iso2022_jp"}  # for a character, on the web
_AS_CONTROL = "ragcache-control-characters"  # the name of a handler of errors
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s"';,]+)""", re.IGNORECASE)


class NamedEncoding(NamedTuple):
    """An encoding by the name in the page, and by that of Python's codec for what browsers take it for."""

    name: str
    codec: str


def named_encoding(data: bytes) -> NamedEncoding | None:
    """The encoding that a page without a byte order mark names; None if it names none.

    A page in UTF-16 or UTF-32 could not be read as far as that name: one that names them is in UTF-8. Names that mean
    nothing to browsers do not count.
    """
    head = data[:HEAD]
    if any(head.startswith(mark) for mark, _ in MARKS):
        return None
    if xml := _XML.match(head):
        return _known(xml[1].decode("ascii"))
    for meta in BeautifulSoup(head.decode("latin-1"), "lxml", parse_only=SoupStrainer("meta"))("meta"):
        name = str(meta.get("charset", ""))
        if not name and str(meta.get("http-equiv", "")).strip().lower() == "content-type":
            content = _CHARSET.search(str(meta.get("content", "")))
            name = content[1] if content else ""
        if known := _known(name.strip()):
            return known
    return None


def _known(name: str) -> NamedEncoding | None:
    """An encoding that browsers know, by a name of theirs or of Python's."""
    try:
        encoding = webencodings.lookup(name) or webencodings.lookup(codecs.lookup(name).name)
        codec = codecs.lookup(encoding.codec_info.name).name if encoding else None
    except (LookupError, ValueError):  # ValueError for a NUL in the name
        return None
    if codec == "gbk":
        return NamedEncoding(name, "gb18030")  # which browsers read it as
    if codec and codec.startswith(("utf-16", "utf-32")):
        return NamedEncoding("utf-8", "utf-8")
    return NamedEncoding(name, codec) if codec else None


def decoded_as(codec: str, data: bytes) -> str:
    """The text of a page that names an encoding; raises UnicodeDecodeError if it is not in it.

    A page in UTF-8 is read as that where the encoding has one byte for each character: many say latin-1 because their
    template does, and text in such an encoding is not valid UTF-8 by chance.
    """
    if codec not in SEVERAL_BYTES:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8")
    return data.decode(codec, _AS_CONTROL)


def _as_control(error: UnicodeError) -> tuple[str, int]:
    """The control character that a code from 80 to 9F is on the web if its encoding has no character for it."""
    if isinstance(error, UnicodeDecodeError) and error.encoding == "charmap":
        code = error.object[error.start]
        if 0x80 <= code < 0xA0:
            return chr(code), error.start + 1
    raise error


codecs.register_error(_AS_CONTROL, _as_control)
