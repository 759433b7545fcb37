"""Converted: the title and text of a file, as Markdown where the file has structure.

PDFium reads PDF, Beautiful Soup and markdownify read HTML, and what mammoth makes of DOCX is HTML.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import mammoth
import pypdfium2
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
from bs4.element import Comment, Declaration, ProcessingInstruction, Tag
from markdownify import MarkdownConverter

from retrieval.sources.encoding import decoded
from retrieval.sources.unreadable import Unreadable

NO_TEXT = ["script", "style", "template", "noscript", "svg", "iframe", "object", "nav", "aside", "footer", "form"]
# bytes of a page, and of the XML in a DOCX: their trees take tens of times as much memory
MOST_HTML = MOST_XML = 1 << 24
OLE = bytes.fromhex("d0cf11e0a1b11ae1")  # the container of encrypted documents and of .doc
DOCX_TITLE = "{http://purl.org/dc/elements/1.1/}title"
DOCX_STYLES = "p[style-name='Title'] => h1:fresh"
_HEADING = re.compile(r"^ {0,3}#[ \t]+(.+?)[ \t]*#*[ \t]*$|^(?=\S)(.+)\n=+[ \t]*$", re.MULTILINE)
_FENCED = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE | re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*\r?$", re.MULTILINE)
MARKDOWN_HEAD = 1 << 16  # characters in which a heading counts as the document's title


class Converted(NamedTuple):
    """What a file says. `title` may be empty; a text without a letter is refused later."""

    title: str
    text: str


def plain(path: Path, fallback: str | None) -> Converted:
    """The text of a file as it stands, without a title."""
    return Converted("", decoded(path, fallback))


def markdown(path: Path, fallback: str | None) -> Converted:
    """The text of a file as it stands. Its title is that of the front matter, else the first heading of level 1."""
    text = decoded(path, fallback)
    head = text[:MARKDOWN_HEAD]
    title = ""
    if front := _FRONT_MATTER.match(head):
        if named := _FRONT_TITLE.search(front[1]):
            title = named[1].strip("\"'")
        head = head[front.end() :]
    if not title and (heading := _HEADING.search(_FENCED.sub("", head.replace("\r\n", "\n")))):
        title = heading[1] or heading[2]
    return Converted(_line(title), text)


def html(path: Path, fallback: str | None) -> Converted:
    """A page as Markdown, without scripts, styles, navigation and forms; links are kept as their words."""
    if path.stat().st_size > MOST_HTML:
        raise Unreadable(str(path), f"longer than {MOST_HTML >> 20} MiB of HTML; split it")
    data = path.read_bytes()
    # a page may name its encoding itself; for one that does not, `decoded` decides
    declared = re.search(rb"<meta[^>]+charset|<\?xml[^>]+encoding", data[:4096], re.IGNORECASE)
    return _page(data if declared else decoded(path, fallback))


def _page(page: str | bytes) -> Converted:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML is meant to be read as HTML here
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)  # a page of one line
        soup = BeautifulSoup(page, "html.parser")
    for note in soup.find_all(string=lambda text: isinstance(text, (Comment, Declaration, ProcessingInstruction))):
        note.extract()
    for element in soup(NO_TEXT):
        element.decompose()
    heading = soup.title or soup.h1
    title = heading.get_text(" ") if isinstance(heading, Tag) else ""
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
    text = re.sub(r"\n{3,}", "\n\n", converter.convert_soup(body)).strip()
    return Converted(_line(title), text)


def docx(path: Path, _fallback: str | None) -> Converted:
    """A Word document as Markdown, without its pictures. Its title is its own property, else its first heading."""
    with path.open("rb") as file:
        if file.read(len(OLE)) == OLE:
            raise Unreadable(str(path), "encrypted, or in the format before DOCX; save it again without a password")
        with zipfile.ZipFile(file) as parts:
            unpacked = sum(part.file_size for part in parts.infolist() if part.filename.endswith((".xml", ".rels")))
            if unpacked > MOST_XML:
                raise Unreadable(str(path), f"unpacks to more than {MOST_XML >> 20} MiB of XML; split it")
            title = _docx_title(parts)
        file.seek(0)
        converted = mammoth.convert_to_html(file, style_map=DOCX_STYLES, convert_image=_no_image)
    page = _page(converted.value)
    return Converted(_line(title) or page.title, page.text)


def _docx_title(parts: zipfile.ZipFile) -> str:
    if "docProps/core.xml" not in parts.namelist():
        return ""
    element = ElementTree.fromstring(parts.read("docProps/core.xml")).find(DOCX_TITLE)
    return "" if element is None else element.text or ""


def _no_image(_image: object) -> list[object]:
    return []


def pdf(path: Path, _fallback: str | None) -> Converted:
    """The text of a PDF, pages apart by a blank line. Its title is that of its properties."""
    with pypdfium2.PdfDocument(path) as document:
        pages = []
        for number in range(len(document)):
            page = document[number]
            words = page.get_textpage()
            pages.append(_unwrapped(words.get_text_bounded()))
            words.close()
            page.close()
        title = document.get_metadata_value("Title")
    text = "\n\n".join(page for page in pages if page)
    if pages and not text:
        raise Unreadable(str(path), "its pages hold no text, only pictures; run text recognition (OCR) over it")
    return Converted(_line(title), text)


def _unwrapped(text: str) -> str:
    # PDFium marks a hyphen at the end of a line that belongs to no word
    return re.sub("[\ufffe\x02](?:\r?\n)?", "", text).replace("\r\n", "\n").replace("\0", "").strip()


def _line(title: str) -> str:
    return " ".join(title.split())


CONVERTERS: dict[str, Callable[[Path, str | None], Converted]] = {
    ".md": markdown,
    ".markdown": markdown,
    ".txt": plain,
    ".text": plain,
    ".rst": plain,
    ".html": html,
    ".htm": html,
    ".xhtml": html,
    ".pdf": pdf,
    ".docx": docx,
}


def convert(path: Path, kind: str, fallback: str | None) -> Converted:
    """The title and text of a file of a kind in CONVERTERS, in UTF-8, or in the encoding `fallback` if it is not.

    Raises Unreadable for a file that is empty, encrypted, damaged, or not of that kind.
    """
    try:
        path.open("rb").close()
        converted = CONVERTERS[kind](path, fallback)
    except Unreadable:
        raise
    except Exception as error:  # a parser raises what it likes for what is not as it should be
        if isinstance(error, OSError) and error.strerror is not None:
            raise Unreadable(str(path), f"cannot be read ({error.strerror})") from error
        if "password" in str(error).lower():
            raise Unreadable(str(path), "encrypted; save a copy without a password") from error
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise Unreadable(str(path), f"damaged, or not {kind[1:]} ({what})") from error
    if not converted.text.strip():
        raise Unreadable(str(path), "holds no text")
    try:
        converted.text.encode()
        converted.title.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which PDFs can hold
        clean = (part.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for part in converted)
        return Converted(*clean)
    return converted
