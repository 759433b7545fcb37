"""Converted: the title and text of a file, as Markdown where the file has structure.

PDFium reads PDF, lxml, Beautiful Soup and markdownify read HTML, and what mammoth makes of DOCX is HTML.
"""

from __future__ import annotations

import contextlib
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
from retrieval.sources.page import Page, page_of
from retrieval.sources.page_encoding import decoded_as, named_encoding
from retrieval.sources.unreadable import Unreadable
from retrieval.sources.word_document import word_document

MOST_HTML = MOST_XML = 1 << 24  # bytes of a page, and of the XML in a DOCX
MOST_TAGS = 400_000  # in them, where attributes of XML count too: trees take 1.5 KB and 0.1 ms for each
OLE = bytes.fromhex("d0cf11e0a1b11ae1")  # the container of encrypted documents and of .doc
DOCX_TITLE = "{http://purl.org/dc/elements/1.1/}title"
DOCX_STYLES = "p[style-name='Title'] => h1:fresh"
_HEADING = re.compile(r" {0,3}#[ \t]+(\S.*)")
_UNDERLINE = re.compile(r" {0,3}=+[ \t]*")  # makes a heading of the paragraph above
_NO_PARAGRAPH = re.compile(r"[ \t]*(?:[-*+>|<#]|\d{1,9}[.)][ \t]|$)")  # what begins a line of something else
# code and comments, where "#" begins no heading; a fence of code is closed by one that is no shorter
_ASIDE = re.compile(
    r"^ {0,3}(?:(?:(`{3,}+)(?=[^`\n]*$)|(~{3,}+)).*?(?:^ {0,3}(?:\1`*+|\2~*+)[ \t]*$|\Z)|<!--.*?(?:-->|\Z))",
    re.MULTILINE | re.DOTALL,
)
_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\r?\n(.*?)^(?:\1|\.\.\.)[ \t]*\r?$", re.MULTILINE | re.DOTALL)
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=](.*)$(?:\n(?:[ \t].*)?$)*", re.MULTILINE)  # and the lines that it folds
# a line of fields that are not quite YAML or TOML: a key, an item, a table, a comment, or the rest of a value
_FIELD = re.compile(
    r"(?P<key>[\w\"'][\w\"'. /-]{0,99}?[ \t]*(?::(?=\s|$)|=))|[ \t]|#|-[ \t]|[\]})]|\[\[?[\w.\"-]+\]\]?\s*$|$"
)
MARKDOWN_HEAD = 1 << 16  # characters in which a heading counts as the document's title, and fields are parsed
MOST_FRONT_MATTER = 1 << 20  # characters


class Converted(NamedTuple):
    """What a file says. `title` may be empty; `unread` names what in the file could not be read."""

    title: str
    text: str
    unread: tuple[Unreadable, ...] = ()


def plain(path: Path, fallback: str | None) -> Converted:
    """The text of a file as it stands, without a title."""
    return Converted("", decoded(path, fallback))


def markdown(path: Path, fallback: str | None) -> Converted:
    """The text of a file without its front matter, whose title it has, else that of the first heading of level 1."""
    text = decoded(path, fallback)
    if "\n" not in text:
        text = text.replace("\r", "\n")  # lines of old Macs
    title = ""
    front = _FRONT_MATTER.match(text, 0, MOST_FRONT_MATTER)
    named = _front_title(front[2], _toml_title if front[1] == "+++" else _yaml_title) if front else None
    if front and named is not None:
        title = named
        # fields are no text: a passage of them would win searches
        rest = text[front.end() :].lstrip("\r\n")
        text = text if not rest or rest.isspace() else rest
    head = text[:MARKDOWN_HEAD].replace("\r\n", "\n")
    return Converted(_line(title or _heading(_ASIDE.sub("", head))), text)


def _heading(head: str) -> str:
    """The first heading of level 1, empty if there is none."""
    paragraph: list[str] = []
    for line in head.split("\n"):
        if heading := _HEADING.fullmatch(line):
            return _without_closing(heading[1])
        if paragraph and _UNDERLINE.fullmatch(line):
            return " ".join(paragraph)
        if _NO_PARAGRAPH.match(line) or (not paragraph and line.startswith(("    ", "\t"))):
            paragraph = []
        else:
            paragraph.append(line)
    return ""


def _front_title(front: str, title_of: Callable[[str], str | None]) -> str | None:
    """The title in what may be front matter, empty if it has none; None if that is text between two rules."""
    lines = front.splitlines()
    if all(line.startswith("#") for line in lines):
        return ""  # no fields, or each in a comment
    if len(front) <= MARKDOWN_HEAD:
        with contextlib.suppress(ValueError, yaml.YAMLError, RecursionError):
            return title_of(front)
    # much of what stands there is not quite YAML, as in `title: Tea: a history`
    field = _FRONT_TITLE.search(front)
    if field is None:
        kinds = [_FIELD.match(line) for line in lines]
        return "" if all(kinds) and any(kind and kind["key"] for kind in kinds) else None
    try:
        return title_of(field[0])
    except (ValueError, yaml.YAMLError, RecursionError):
        return _as_written(field)


def _as_written(field: re.Match[str]) -> str:
    """The first line of a field of front matter, without quotation marks and a comment."""
    return re.split(r"\s#", field[1], maxsplit=1)[0].strip().strip("\"'")


def _yaml_title(front: str) -> str | None:
    """The title in YAML as it is written there, so `007` stays that; None if there are no fields."""
    fields = yaml.compose(front, yaml.SafeLoader)
    if not isinstance(fields, yaml.MappingNode):
        return None
    titles = [value for key, value in fields.value if key.value == "title" and isinstance(value, yaml.ScalarNode)]
    return titles[-1].value if titles and not titles[-1].tag.endswith(":null") else ""


def _toml_title(front: str) -> str | None:
    """The title in TOML; what is not a string, as it is written there."""
    title = tomllib.loads(front).get("title", "")
    if isinstance(title, dict | list):
        return ""
    if isinstance(title, str):
        return title
    field = _FRONT_TITLE.search(front)
    return _as_written(field) if field else str(title)


def _without_closing(heading: str) -> str:
    """The words of a heading that may end in number signs, as in "# Tea #", which "# C#" does not."""
    heading = heading.rstrip()
    words = heading.rstrip("#")
    return words.rstrip() if words == "" or words[-1] in " \t" else heading


def html(path: Path, fallback: str | None) -> Converted:
    """A page as Markdown, without scripts, styles, navigation and controls; links are kept as their words."""
    if path.stat().st_size > MOST_HTML:
        raise Unreadable(str(path), f"longer than {MOST_HTML >> 20} MiB of HTML; split it")
    text = _html_text(path, fallback)
    if text.count("<") > MOST_TAGS:
        raise Unreadable(str(path), f"holds more than {MOST_TAGS:,} tags; split it")
    page = page_of(text)
    return Converted(_line(page.title), page.text)


def _html_text(path: Path, fallback: str | None) -> str:
    """The page in the encoding of its byte order mark, else in the one that it names; else `decoded` decides."""
    data = path.read_bytes()
    named = named_encoding(data)
    if named is None:
        return decoded(path, fallback)
    try:
        return decoded_as(named.codec, data)
    except UnicodeDecodeError as error:
        try:
            return decoded(path, fallback)
        except Unreadable:
            raise Unreadable(
                str(path),
                f"not {named.name}, as it says itself ({error.reason}, byte {error.start + 1}); save it as UTF-8, or "
                "name its encoding, as in --encoding latin-1",
            ) from error


def docx(path: Path, _fallback: str | None) -> Converted:
    """A Word document as Markdown, without its pictures. Its title is its own property, else its first heading."""
    with path.open("rb") as file:
        if file.read(len(OLE)) == OLE:
            raise Unreadable(str(path), "encrypted, or in the format before DOCX; save it again without a password")
        with zipfile.ZipFile(file) as parts:
            xml = [part for part in parts.infolist() if _is_xml(parts, part)]  # whatever its name
            if sum(part.file_size for part in xml) > MOST_XML:
                raise Unreadable(str(path), f"unpacks to more than {MOST_XML >> 20} MiB of XML; split it")
            if sum(_tags_and_attributes(parts, part) for part in xml) > MOST_TAGS:
                raise Unreadable(str(path), f"holds more than {MOST_TAGS:,} tags and attributes of XML; split it")
            title = _docx_title(parts)
            word = word_document(parts)
    unread = word.unread
    try:
        converted = mammoth.convert_to_html(
            word.copy, style_map=DOCX_STYLES, convert_image=_no_image, include_embedded_style_map=False
        )
        page = page_of(converted.value)
    except Exception as error:  # what it raises for a document that is not as it should be has no class of its own
        if not word.paragraphs:
            raise
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        unread = [*unread, f"read without its headings, lists and tables, for it is damaged ({what})"]
        page = Page("", "\n\n".join(word.paragraphs))
    return Converted(
        _line(title) or _line(page.title), page.text, tuple(Unreadable(str(path), each) for each in unread)
    )


def _is_xml(parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    try:
        with parts.open(part) as content:
            return content.read(64).lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] in (b"<", b"")
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
        return False  # what needs this part says so


def _tags_and_attributes(parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> int:
    try:
        xml = parts.read(part)
    except (zipfile.BadZipFile, zlib.error):
        return 0  # what needs this part says so
    return xml.count(b"<") + xml.count(b"=")


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
    texts, pictures, damaged = [], 0, 0
    with pypdfium2.PdfDocument(path) as document:
        pages = len(document)
        for number in range(pages):
            try:
                text, picture = _pdf_page(document, number)
            except pypdfium2.PdfiumError:
                damaged += 1
            else:
                texts.append(text)
                pictures += picture
        title = document.get_metadata_value("Title")
    text = "\n\n".join(filter(None, texts))
    if pages and damaged == pages:
        raise Unreadable(str(path), "all of its pages are damaged")
    if pages and not text:
        or_ = f"are damaged ({damaged} of {pages}) or " if damaged else ""
        holds = "no text, only pictures;" if pictures else "neither text nor pictures; if they show words,"
        raise Unreadable(str(path), f"its pages {or_}hold {holds} run text recognition (OCR) over it")
    counts = [(damaged, "damaged"), (pictures, "pictures without text; run text recognition (OCR) over it")]
    unread = (Unreadable(f"{path} ({count} of {pages} pages)", what) for count, what in counts if count)
    return Converted(_line(title), text, tuple(unread))


def _pdf_page(document: pypdfium2.PdfDocument, number: int) -> tuple[str, bool]:
    """The text of a page, and whether it is pictures alone."""
    page = document[number]
    words = page.get_textpage()
    text = _unwrapped(words.get_text_bounded())
    words.close()
    picture = not text and next(page.get_objects([pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]), None) is not None
    page.close()
    return text, picture


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
