"""Page encoding: the encoding that an HTML page says it is in, as browsers understand it."""

from __future__ import annotations

import codecs
import re

import webencodings
from bs4 import BeautifulSoup
from bs4.filter import SoupStrainer

from retrieval.sources.encoding import HEAD, MARKS

_XML = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)""")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s"';,]+)""", re.IGNORECASE)


def named_encoding(data: bytes) -> str | None:
    """The encoding that a page without a byte order mark names, as Python calls it; None if it names none.

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
        if known := _known(name):
            return known
    return None


def _known(name: str) -> str | None:
    """The codec of Python for an encoding that browsers know, by a name of theirs or of Python's."""
    try:
        encoding = webencodings.lookup(name) or webencodings.lookup(codecs.lookup(name).name)
        codec = codecs.lookup(encoding.codec_info.name).name if encoding else None
    except (LookupError, ValueError):  # ValueError for a NUL in the name
        return None
    if codec == "gbk":
        return "gb18030"  # which browsers read it as
    return "utf-8" if codec and codec.startswith(("utf-16", "utf-32")) else codec
