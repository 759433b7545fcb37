"""Converted: the title and text of a file, as Markdown where the file has structure.

PDFium reads PDF, lxml, Beautiful Soup and markdownify read HTML, and what mammoth makes of DOCX is HTML.
"""

from __future__ import annotations

import re
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import mammoth
import pypdfium2
import yaml

from retrieval.sources.encoding import decoded
from retrieval.sources.page import page_of
from retrieval.sources.page_encoding import named_encoding
from retrieval.sources.unreadable import Unreadable

# bytes of a page, and of the XML in a DOCX: their trees take tens of times as much memory
MOST_HTML = MOST_XML = 1 << 24
OLE = bytes.fromhex("d0cf11e0a1b11ae1")  # the container of encrypted documents and of .doc
DOCX_TITLE = "{http://purl.org/dc/elements/1.1/}title"
DOCX_STYLES = "p[style-name='Title'] => h1:fresh"
_HEADING = re.compile(r"^ {0,3}#[ \t]+(\S.*)$|^(?=\S)(.+)\n=+[ \t]*$", re.MULTILINE)
_FENCED = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\r?\n(.*?)^(?:\1|\.\.\.)[ \t]*\r?$", re.MULTILINE | re.DOTALL)
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=](.*)$", re.MULTILINE)
MARKDOWN_HEAD = 1 << 16  # characters in which a heading counts as the document's title


class Converted(NamedTuple):
    """What a file says. `title` may be empty; `unread` names a part of the file that could not be read."""

    title: str
    text: str
    unread: Unreadable | None = None


def plain(path: Path, fallback: str | None) -> Converted:
    """The text of a file as it stands, without a title."""
    return Converted("", decoded(path, fallback))


def markdown(path: Path, fallback: str | None) -> Converted:
    """The text of a file without its front matter, whose title it has, else that of the first heading of level 1."""
    text = decoded(path, fallback)
    title = ""
    front = _FRONT_MATTER.match(text, 0, MARKDOWN_HEAD)
    fields = front and _fields(front[2], tomllib.loads if front[1] == "+++" else yaml.safe_load)
    if front and fields is not None:
        named = fields.get("title")
        title = "" if named is None or isinstance(named, dict | list) else str(named)
        # fields are no text: a passage of them would win searches
        rest = text[front.end() :].lstrip("\r\n")
        text = text if not rest or rest.isspace() else rest
    head = text[:MARKDOWN_HEAD].replace("\r\n", "\n")
    if not title and (heading := _HEADING.search(_FENCED.sub("", head))):
        title = _without_closing(heading[1]) if heading[1] else heading[2]
    return Converted(_line(title), text)


def _fields(front: str, parse: Callable[[str], object]) -> dict[str, object] | None:
    """The fields of what may be front matter; None if it is text between two rules."""
    try:
        fields = parse(front)
        return fields if isinstance(fields, dict) else None
    except (ValueError, yaml.YAMLError, RecursionError, LookupError, TypeError, AttributeError):
        # much of what stands there is not quite YAML, as in `title: Tea: a history`
        named = _FRONT_TITLE.search(front)
        return {"title": named[1].strip().strip("\"'")} if named else None


def _without_closing(heading: str) -> str:
    """The words of a heading that may end in number signs, as in "# Tea #", which "# C#" does not."""
    heading = heading.rstrip()
    words = heading.rstrip("#")
    return words.rstrip() if words == "" or words[-1] in " \t" else heading


def html(path: Path, fallback: str | None) -> Converted:
    """A page as Markdown, without scripts, styles, navigation and controls; links are kept as their words."""
    if path.stat().st_size > MOST_HTML:
        raise Unreadable(str(path), f"longer than {MOST_HTML >> 20} MiB of HTML; split it")
    page = page_of(_html_text(path, fallback))
    return Converted(_line(page.title), page.text)


def _html_text(path: Path, fallback: str | None) -> str:
    """The page in the encoding of its byte order mark, else in the one that it names; else `decoded` decides."""
    data = path.read_bytes()
    named = named_encoding(data)
    if named is None:
        return decoded(path, fallback)
    try:
        return data.decode(named)
    except UnicodeDecodeError as error:
        if fallback is None:
            raise Unreadable(
                str(path),
                f"not {named}, as it says itself ({error.reason}, byte {error.start + 1}); save it as UTF-8, or name "
                "its encoding, as in --encoding latin-1",
            ) from error
    return decoded(path, fallback)


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
    page = page_of(converted.value)
    return Converted(_line(title) or _line(page.title), page.text)


def _docx_title(parts: zipfile.ZipFile) -> str:
    if "docProps/core.xml" not in parts.namelist():
        return ""
    try:
        element = ElementTree.fromstring(parts.read("docProps/core.xml")).find(DOCX_TITLE)
    except (ElementTree.ParseError, zipfile.BadZipFile, zlib.error, ValueError, LookupError):
        return ""  # the text may be whole
    return "" if element is None else element.text or ""


def _no_image(_image: object) -> list[object]:
    return []


def pdf(path: Path, _fallback: str | None) -> Converted:
    """The text of a PDF, pages apart by a blank line. Its title is that of its properties."""
    pages, pictures = [], 0
    with pypdfium2.PdfDocument(path) as document:
        for number in range(len(document)):
            page = document[number]
            words = page.get_textpage()
            pages.append(_unwrapped(words.get_text_bounded()))
            words.close()
            pictures += not pages[-1] and next(page.get_objects([pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]), None) is not None
            page.close()
        title = document.get_metadata_value("Title")
    text = "\n\n".join(page for page in pages if page)
    if pages and not text:
        raise Unreadable(str(path), "its pages hold no text, only pictures; run text recognition (OCR) over it")
    unread = None
    if pictures:
        where = f"{path} ({pictures} of {len(pages)} pages)"
        unread = Unreadable(where, "pictures without text; run text recognition (OCR) over it")
    return Converted(_line(title), text, unread)


def _unwrapped(text: str) -> str:
    # PDFium marks a hyphen that parts a word at the end of a line: the word is joined
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
    if not converted.text or converted.text.isspace():
        raise Unreadable(str(path), "holds no text")
    try:
        converted.text.encode()
        converted.title.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which PDFs can hold
        return Converted(_whole_characters(converted.title), _whole_characters(converted.text), converted.unread)
    return converted


def _whole_characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
