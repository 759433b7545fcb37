"""Word document: a copy of a DOCX without its pictures, in which mammoth finds all of the text and nothing missing.

mammoth leaves out what it does not know, with all text in it, and fails as a whole where one reference leads nowhere.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

PREFIXES = {
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main": "w",
    "http://purl.oclc.org/ooxml/wordprocessingml/main": "w",
    "http://schemas.openxmlformats.org/officeDocument/2006/relationships": "r",
    "http://purl.oclc.org/ooxml/officeDocument/relationships": "r",
    "http://schemas.openxmlformats.org/officeDocument/2006/math": "m",
    "http://purl.oclc.org/ooxml/officeDocument/math": "m",
    "http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing": "wp",
    "http://schemas.openxmlformats.org/drawingml/2006/main": "a",
    "http://schemas.openxmlformats.org/markup-compatibility/2006": "mc",
    "http://schemas.openxmlformats.org/package/2006/relationships": "relationships",
    "urn:schemas-microsoft-com:vml": "v",
}
W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
NOTES = {"w:footnote": "w:footnoteReference", "w:endnote": "w:endnoteReference"}
BODIES = {"w:document", "w:footnotes", "w:endnotes", "w:comments"}  # what parts with text begin with
# what has text that mammoth reads, or is meant not to be read
READ = {
    *("w:body", "w:footnote", "w:endnote", "w:comment", "w:p", "w:r", "w:t", "w:tbl", "w:tr", "w:tc", "w:hyperlink"),
    *("w:sdt", "w:sdtContent", "w:customXml", "w:smartTag", "w:ins", "w:moveTo", "w:del", "w:moveFrom", "w:object"),
    *("w:pict", "w:txbxContent", "v:group", "v:rect", "v:roundrect", "v:shape", "v:textbox"),
    *("mc:AlternateContent", "mc:Fallback"),
}
LEFT_OUT = {"a:blip", "v:imagedata", "wp:docPr", "w:commentReference", "w:rt"}  # pictures, remarks, pronunciation
EMBEDDED = {"w:altChunk": "a document within it", "w:subDoc": "a document that it refers to"}
NEEDED = ("styles", "numbering", "footnotes", "endnotes")  # parts with text, or by which text is understood


class WordDocument(NamedTuple):
    """The copy, its `paragraphs` without their structure, and what in the document is not read."""

    copy: io.BytesIO
    paragraphs: list[str]
    unread: list[str]


def word_document(parts: zipfile.ZipFile) -> WordDocument:
    """The copy of a document whose parts are of XML that is not too long."""
    unread: list[str] = []
    roots = dict(_roots(parts, unread))
    notes = {
        (NOTES[_name(note)], _attribute(note, "w:id"))
        for root in roots.values()
        for note in root
        if _name(note) in NOTES and _attribute(note, "w:type") not in ("separator", "continuationSeparator")
    }
    paragraphs: list[str] = []
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as written:
        for part, root in roots.items():
            if _name(root) in BODIES:
                folder, _, name = part.rpartition("/")
                relationships = {each.get("Id") for each in roots.get(f"{folder}/_rels/{name}.rels", ())}
                _Mended(notes, relationships, unread).mend(root)
                paragraphs += [_text(each) for each in root.iter() if _name(each) == "w:p"]
            written.writestr(part, ElementTree.tostring(root, "utf-8"))
    copy.seek(0)
    return WordDocument(copy, [text for text in paragraphs if text.strip()], unread)


def _roots(parts: zipfile.ZipFile, unread: list[str]) -> Iterator[tuple[str, Element]]:
    """The names of the parts that are XML, and what they hold."""
    for name in parts.namelist():
        try:
            root = ElementTree.fromstring(parts.read(name))
        except (ElementTree.ParseError, zipfile.BadZipFile, zlib.error, ValueError, LookupError):
            if name.rpartition("/")[2].removesuffix(".xml") in NEEDED:
                unread.append(f"its part {name} is damaged")
            continue
        if _name(root) == "relationships:Relationships":
            root[:] = [each for each in root if {"Id", "Target", "Type"} <= set(each.keys())]
        yield name, root


class _Mended:
    def __init__(self, notes: set[tuple[str, str | None]], relationships: set[str | None], unread: list[str]) -> None:
        self._notes = notes
        self._relationships = relationships
        self._unread = unread

    def mend(self, element: Element) -> None:
        element[:] = [each for child in element for each in self._mended(child)]

    def _mended(self, element: Element) -> list[Element]:
        """What stands for an element."""
        name = _name(element)
        if name in LEFT_OUT or self._leads_nowhere(name, element):
            return []
        if name in EMBEDDED:
            self._unread.append(f"holds {EMBEDDED[name]}, which is not read; save it as a file of its own")
            return []
        if name in ("m:oMath", "m:oMathPara"):
            return [_run("".join(each.text or "" for each in element.iter() if _name(each) in ("m:t", "w:t")))]
        if name == "mc:AlternateContent" and not any(_name(child) == "mc:Fallback" for child in element):
            element[:] = element[:1]
            self.mend(element)
            return list(element)
        if name == "w:drawing":
            boxes = [each for each in element.iter() if _name(each) == "w:txbxContent"]
            element = Element(f"{W}pict") if boxes else element
            element.extend(boxes)
        self.mend(element)
        has_text = name not in READ and any(_name(each) in ("w:t", "w:txbxContent") for each in element.iter())
        return list(element) if has_text and name != "w:drawing" else [element]

    def _leads_nowhere(self, name: str, element: Element) -> bool:
        """Whether mammoth looks for something in vain here; a link becomes its words."""
        if name == "w:hyperlink":
            for key in [key for key in element.attrib if _prefixed(key) == "r:id"]:
                if element.get(key) not in self._relationships:
                    del element.attrib[key]
        if name in NOTES.values():
            return (name, _attribute(element, "w:id")) not in self._notes
        with contextlib.suppress(ValueError):
            if name == "w:sym":
                int(_attribute(element, "w:char") or "", 16)
            if name == "w:gridSpan":
                int(_attribute(element, "w:val") or "")
            return False
        return True


def _run(text: str) -> Element:
    run = Element(f"{W}r")
    ElementTree.SubElement(run, f"{W}t").text = text
    return run


def _text(paragraph: Element) -> str:
    blanks = {"w:tab": "\t", "w:br": "\n"}
    return "".join(
        each.text or "" if _name(each) == "w:t" else blanks.get(_name(each), "") for each in paragraph.iter()
    )


def _attribute(element: Element, name: str) -> str | None:
    return next((value for key, value in element.items() if _prefixed(key) == name), None)


def _name(element: Element) -> str:
    return _prefixed(element.tag)


def _prefixed(name: str) -> str:
    """A name with the prefix of its namespace, as "w:p"."""
    space, _, local = name.removeprefix("{").rpartition("}")
    return f"{PREFIXES.get(space, space)}:{local}" if space else local
