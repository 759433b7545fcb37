"""Page: the title and text of an HTML page, as Markdown, without what is no text of its own."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
from bs4.builder import LXMLTreeBuilder  # type: ignore[attr-defined]  # bs4 sets it where lxml is installed
from bs4.element import NavigableString, Tag
from markdownify import MarkdownConverter

# what a browser does not show, or shows without being text; the second only where it is closed, for else it may hold
# all that follows, which a browser shows
NOT_SHOWN = ["script", "style", "iframe", "input", "textarea"]
CLOSED = ["template", "noscript", "svg", "button", "select"]
AROUND = ["nav", "aside", "footer", "object"]  # what stands around a page's text, unless it holds all of it
HEADINGS = ["h1", "h2", "h3", "h4", "h5", "h6"]
MARK = "input"  # stands before each end tag of CLOSED and AROUND, for the parser does not tell which elements had one
MOST_DEPTH = 100  # markdownify calls itself for each level
_KEPT = re.compile(
    r"closes=\w+|colspan=[1-9][0-9]?|start=[0-9]{1,9}|shadowrootmode=(?i:open|closed)"
)  # attributes that count, and what is believed
_END_TAG = re.compile(rf"(?=</({'|'.join(CLOSED + AROUND)})[\s/>])", re.IGNORECASE)
_MARK_IN_TITLE = re.compile(rf"<{MARK} closes=\w+>")  # where tags are text
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
        soup = BeautifulSoup(marked, builder=_ShallowTree(), element_classes={Tag: _Element})
    for element in soup(NOT_SHOWN):
        element.clear(decompose=True)  # to take it out as well, its place among its neighbours had to be looked for
    for mark in soup(MARK, closes=CLOSED + around):
        # a shadow root takes the place of what is around it
        if (closed := _closed_by(mark)) is not None and not closed.has_attr("shadowrootmode"):
            closed.clear(decompose=True)
    for element in filter(len, soup(["form", *AROUND])):
        element.name = "div"  # so that what is in it is a paragraph
    for blanks in soup.find_all(string=_BLANKS):
        if isinstance(blanks, NavigableString) and blanks.find_parent("pre") is None:
            blanks.replace_with(_BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", blanks))
    named = (element.get_text(" ").strip() for element in (soup.title, soup.h1) if isinstance(element, Tag))
    title = _MARK_IN_TITLE.sub("", next(filter(None, named), ""))
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
    text = converter.convert_soup(next(filter(_has_text, soup("main")), soup))
    return title, re.sub(r"\n{3,}", "\n\n", text).strip()


def _has_text(main: Tag) -> bool:
    """Whether there is text beside headings, which stand alone where a script or another element has the text."""
    texts = (text for text in main.strings if isinstance(text, NavigableString) and not text.isspace())
    return any(text.find_parent(HEADINGS) is None for text in texts)


class _Element(Tag):
    def find_parent(self, name: str) -> Tag | None:  # type: ignore[override]
        """The nearest element around this one that has a name; markdownify looks for one from each element."""
        return next((parent for parent in self.parents if parent.name == name), None)


class _ShallowTree(LXMLTreeBuilder):
    """Nests elements no deeper than MOST_DEPTH: those within the deepest stand beside it, as in browsers.

    Attributes are kept only where they count, for they can take more memory than all else.
    """

    def __init__(self) -> None:
        super().__init__(huge_tree=True)  # a text may be longer than 10 MB
        self._open: list[str] = []

    def start(self, tag: str, attributes: Mapping[str, str], _namespaces: object = None) -> None:
        if len(self._open) >= MOST_DEPTH:
            super().end(self._open[-1])
        self._open.append(tag)
        super().start(tag, {name: value for name, value in attributes.items() if _KEPT.fullmatch(f"{name}={value}")})

    def end(self, tag: str) -> None:
        super().end(tag)
        self._open.pop()
        if len(self._open) >= MOST_DEPTH:
            super().start(self._open[-1], {})


class _Converter(MarkdownConverter):
    """Counts the items of lists, and knows the tables that have a head.

    MarkdownConverter looks through the whole list for each item, and through the table for each group of rows.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._items: Counter[int] = Counter()  # by the id of their list
        self._tables: set[int] = set()  # ids of those whose first row is converted

    def convert_li(self, item: Tag, text: str, parent_tags: set[str]) -> str:
        if item.parent is not None and item.parent.name == "ol":
            number = int(str(item.parent.get("start", "1"))) + self._items[id(item.parent)]
            self._items[id(item.parent)] += 1
            item = Tag(name="li", parent=Tag(name="ol", attrs={"start": str(number)}))
        begin = "" if item.parent is not None and item.parent.name in ("ol", "ul") else "\n"
        return begin + str(super().convert_li(item, text, parent_tags))  # type: ignore[misc]

    def convert_tr(self, row: Tag, text: str, **_: object) -> str:
        line = f"|{text}\n"
        table = id(row.find_parent("table"))
        cells = row(["td", "th"], recursive=False)
        if not cells or table in self._tables:
            return line
        self._tables.add(table)
        columns = sum(int(str(cell.get("colspan", "1"))) for cell in cells)
        ruler = f"|{' --- |' * columns}\n"
        is_head = all(cell.name == "th" for cell in cells) or (row.parent is not None and row.parent.name == "thead")
        return line + ruler if is_head else f"|{'  |' * columns}\n{ruler}{line}"


def _closed_by(mark: Tag) -> Tag | None:
    """The element that the end tag behind a mark has closed; None where the parser did not take it for its end."""
    node: Tag | None = mark
    while node is not None and node.next_sibling is None:
        node = node.parent
        if node is not None and node.name == mark["closes"]:
            return node
    return None
