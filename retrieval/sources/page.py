"""Page: the title and text of an HTML page, as Markdown, without what is no text of its own."""

from __future__ import annotations

import codecs
import re
import string
import warnings
from typing import Any, NamedTuple

from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
from bs4.element import Declaration, NavigableString, ProcessingInstruction, Tag
from bs4.filter import SoupStrainer
from markdownify import MarkdownConverter

from retrieval.sources.encoding import HEAD, MARKS

# what a browser does not show, or shows without being text
NOT_SHOWN = ["script", "style", "template", "noscript", "svg", "iframe", "input", "button", "select", "textarea"]
AROUND = ["nav", "aside", "footer", "object"]  # what stands around a page's text, unless it holds all of it
# what names mean to browsers, which read more than the standard of that name has
MEANT = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
BLOCKS = set(
    re.findall(
        r"\w+",
        "address article aside blockquote body caption dd details div dl dt fieldset figure footer form h1 h2 h3 h4 h5 "
        "h6 header hr li main nav ol p pre section table td th tr ul",
    )
)
CELLS = {"td", "th"}
# elements whose end tag may be left out: which of them end where another begins, and what they do not end outside
NOTHING: tuple[set[str], set[str]] = (set(), set())
ENDED_BY = {
    **{name: ({"p"}, BLOCKS - {"p"}) for name in BLOCKS},
    "li": ({"li"}, {"ul", "ol", "menu"}),
    **dict.fromkeys(["dt", "dd"], ({"dt", "dd"}, {"dl"})),
    **dict.fromkeys(CELLS, (CELLS, {"tr", "table"})),
    "tr": ({"tr"}, {"table"}),
    **dict.fromkeys(["thead", "tbody", "tfoot"], ({"thead", "tbody", "tfoot"}, {"table"})),
}
PLAIN = (
    string.ascii_letters + string.digits + "&<=>\"'~{}" + r"\n\u0041"
)  # with what Python's own escapes would read otherwise
_XML = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)""")
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s"';,]+)""", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\r\n]{100,}")  # markdownify takes the square of their number


class Page(NamedTuple):
    """What a page says; both may be empty."""

    title: str
    text: str


def named_encoding(data: bytes) -> str | None:
    """The encoding that a page without a byte order mark names, as Python calls it; None if it names none.

    A page in UTF-16 or UTF-32 could not be read as far as that name: one that names them is in UTF-8. Names of no
    encoding, or of one in which plain English is not ASCII, do not count.
    """
    head = data[:HEAD]
    if any(head.startswith(mark) for mark, _ in MARKS):
        return None
    if xml := _XML.match(head):
        return _known(xml[1].decode("ascii", "replace"))
    for meta in BeautifulSoup(head.decode("latin-1"), "html.parser", parse_only=SoupStrainer("meta"))("meta"):
        name = str(meta.get("charset", ""))
        if not name and str(meta.get("http-equiv", "")).strip().lower() == "content-type":
            content = _CHARSET.search(str(meta.get("content", "")))
            name = content[1] if content else ""
        if name and (known := _known(name)):
            return known
    return None


def _known(name: str) -> str | None:
    try:
        found = codecs.lookup(name.strip()).name
        if found.startswith(("utf-16", "utf-32", "utf-8")):
            return "utf-8"
        plain = PLAIN.encode("ascii").decode(found) == PLAIN
    except (LookupError, ValueError):  # not a codec of text; ValueError also for a NUL in the name
        return None
    return MEANT.get(found, found) if plain else None


class _Soup(BeautifulSoup):
    """A tree that ends elements as browsers do where their end tags may be left out; `closed` are ids of the others."""

    closed: set[int]

    def reset(self) -> None:
        super().reset()
        self.closed = set()

    def handle_starttag(self, name: str, *args: Any, **options: Any) -> Tag | None:
        ended, outside = ENDED_BY.get(name, NOTHING)
        for tag in reversed(self.tagStack) if ended else ():
            if tag.name in ended:
                super().handle_endtag(tag.name)
            if tag.name in ended or tag.name in outside:
                break
        return super().handle_starttag(name, *args, **options)

    def handle_endtag(self, name: str, nsprefix: str | None = None) -> None:
        if name in AROUND:
            self.closed.update([id(tag) for tag in reversed(self.tagStack) if tag.name == name][:1])
        super().handle_endtag(name, nsprefix)


def page_of(page: str) -> Page:
    """The title and text of a page."""
    title, text = _read(page, AROUND)
    return Page(title, text) if text else Page(*_read(page, []))


def _read(page: str, around: list[str]) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML is meant to be read as HTML here
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)  # a page of one line
        soup = _Soup(page, "html.parser")
    for note in soup.find_all(string=lambda text: isinstance(text, (Declaration, ProcessingInstruction))):
        note.extract()
    for element in soup(NOT_SHOWN):
        element.clear(decompose=True)  # to take it out as well, its place among its neighbours had to be looked for
    for element in soup(AROUND):
        # one without an end tag has all that follows in it
        if element.decomposed:
            continue
        if element.name in around and id(element) in soup.closed:
            element.clear(decompose=True)
        else:
            element.name = "div"
    for form in soup("form"):
        form.name = "div"  # so that what is in it is a paragraph
    for blanks in soup.find_all(string=_BLANKS):
        if isinstance(blanks, NavigableString) and blanks.find_parent("pre") is None:
            blanks.replace_with(_BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", blanks))
    named = (element.get_text(" ").strip() for element in (soup.title, soup.h1) if isinstance(element, Tag))
    title = next(filter(None, named), "")
    body = soup.find("main") or soup.body or soup
    if isinstance(soup.title, Tag):
        soup.title.decompose()  # of a page without <body>
    converter = MarkdownConverter(
        heading_style="atx",
        bullets="-",
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    return title, re.sub(r"\n{3,}", "\n\n", converter.convert_soup(body)).strip()
