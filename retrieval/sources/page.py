"""Page: the title and text of an HTML page, as Markdown, without what is no text of its own."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from typing import Any, NamedTuple

from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
from bs4.element import NavigableString, Tag
from markdownify import MarkdownConverter

# what a browser does not show, or shows without being text
NOT_SHOWN = ["script", "style", "template", "noscript", "svg", "iframe", "input", "button", "select", "textarea"]
AROUND = ["nav", "aside", "footer", "object"]  # what stands around a page's text, unless it holds all of it
MARK = "input"  # stands before each end tag of AROUND, for the parser does not tell which elements had one
_END_TAG = re.compile(rf"(?=</({'|'.join(AROUND)})[\s/>])", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t\r\n]{100,}")  # markdownify takes the square of their number


class Page(NamedTuple):
    """What a page says; both may be empty."""

    title: str
    text: str


def page_of(page: str) -> Page:
    """The title and text of a page."""
    title, text = _read(page, AROUND)
    return Page(title, text) if text else Page(*_read(page, []))


def _read(page: str, around: list[str]) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML is meant to be read as HTML here
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)  # a page of one line
        marked = _END_TAG.sub(lambda end: f"<{MARK} closes={end[1].lower()}>", page)
        soup = BeautifulSoup(marked, "lxml", huge_tree=True)  # a text in it may be longer than 10 MB
    for element in soup(NOT_SHOWN):
        element.clear(decompose=True)  # to take it out as well, its place among its neighbours had to be looked for
    for mark in soup(MARK, closes=around):
        if (closed := _closed_by(mark)) is not None:
            closed.clear(decompose=True)
    for element in filter(len, soup(["form", *AROUND])):
        element.name = "div"  # so that what is in it is a paragraph
    for blanks in soup.find_all(string=_BLANKS):
        if isinstance(blanks, NavigableString) and blanks.find_parent("pre") is None:
            blanks.replace_with(_BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", blanks))
    named = (element.get_text(" ").strip() for element in (soup.title, soup.h1) if isinstance(element, Tag))
    title = next(filter(None, named), "")
    for element in soup("title"):
        element.clear(decompose=True)
    converter = _Converter(
        heading_style="atx",
        bullets="-",
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    text = converter.convert_soup(soup.find("main") or soup)
    return title, re.sub(r"\n{3,}", "\n\n", text).strip()


class _Converter(MarkdownConverter):
    """Counts the items of a list; MarkdownConverter counts those before each of them, the square of their number."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._items: Counter[int] = Counter()  # by the id of their list

    def convert_li(self, item: Tag, text: str, parent_tags: set[str]) -> str:
        if item.parent is not None and item.parent.name == "ol":
            start = str(item.parent.get("start", ""))
            number = (int(start) if start.isdecimal() else 1) + self._items[id(item.parent)]
            self._items[id(item.parent)] += 1
            item = Tag(name="li", parent=Tag(name="ol", attrs={"start": str(number)}))
        return str(super().convert_li(item, text, parent_tags))  # type: ignore[misc]


def _closed_by(mark: Tag) -> Tag | None:
    """The element that the end tag behind a mark has closed; None where the parser did not take it for its end."""
    node: Tag | None = mark
    while node is not None and node.next_sibling is None:
        node = node.parent
        if node is not None and node.name == mark["closes"]:
            return node
    return None
