"""Word document: no element costs text, and a reference that leads nowhere costs nothing but itself."""

import functools
import io
import tempfile
import zipfile
from pathlib import Path

import pytest

from retrieval.sources.converted import convert
from tests.retrieval.sources.reading import read
from tests.retrieval.sources.real_files import write_docx

SPACES = {
    "m": "http://schemas.openxmlformats.org/officeDocument/2006/math",
    "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
    "wps": "http://schemas.microsoft.com/office/word/2010/wordprocessingShape",
    "a": "http://schemas.openxmlformats.org/drawingml/2006/main",
    "pic": "http://schemas.openxmlformats.org/drawingml/2006/picture",
    "wp": "http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing",
    "v": "urn:schemas-microsoft-com:vml",
}
TEXT_BOX = "<wps:txbx><w:txbxContent><w:p><w:r><w:t>kept</w:t></w:r></w:p></w:txbxContent></wps:txbx>"
DRAWN = (
    f"<w:drawing><wp:inline><a:graphic><a:graphicData>{TEXT_BOX}</a:graphicData></a:graphic></wp:inline></w:drawing>"
)


@functools.cache
def whole() -> bytes:
    """A Word document, whose first paragraph is one run."""
    with tempfile.TemporaryDirectory() as folder:
        return write_docx(Path(folder) / "whole.docx", "", "Heading", ("MARK", "Last.")).read_bytes()


def with_inside(path: Path, inside: str, **parts: str) -> Path:
    """A Word document with elements in place of the run of its first paragraph, and some parts replaced."""
    with zipfile.ZipFile(io.BytesIO(whole())) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "word/document.xml":
                text = data.decode().replace("<w:r><w:t>MARK</w:t></w:r>", inside)
                spaces = " ".join(
                    f'xmlns:{name}="{uri}"' for name, uri in SPACES.items() if f"xmlns:{name}=" not in text
                )
                data = text.replace("<w:document ", f"<w:document {spaces} ", 1).encode()
            new.writestr(name, parts.get(Path(name).stem, data))
    return path


RUN = "<w:r><w:t>kept</w:t></w:r>"


@pytest.mark.parametrize(
    "inside",
    [
        f'<w:fldSimple w:instr="DATE">{RUN}</w:fldSimple>',
        f'<w:bdo w:val="rtl">{RUN}</w:bdo>',
        f'<w:dir w:val="rtl"><w:bdo w:val="ltr">{RUN}</w:bdo></w:dir>',
        "<m:oMathPara><m:oMath><m:r><m:t>ke</m:t></m:r><m:r><m:t>pt</m:t></m:r></m:oMath></m:oMathPara>",
        f"<w:r><w:ruby><w:rubyPr/><w:rt><w:r><w:t>gone</w:t></w:r></w:rt><w:rubyBase>{RUN}</w:rubyBase></w:ruby></w:r>",
        f"<w:unheardOf>{RUN}</w:unheardOf>",
        f"<mc:AlternateContent><mc:Choice Requires='x'>{RUN}</mc:Choice></mc:AlternateContent>",
        f"<w:r>{DRAWN}</w:r>",
        f"<w:r><mc:AlternateContent><mc:Choice Requires='wps'>{DRAWN}</mc:Choice></mc:AlternateContent></w:r>",
        f"<mc:AlternateContent><mc:Choice Requires='x'>{RUN}</mc:Choice><mc:Fallback>{RUN}</mc:Fallback>"
        "</mc:AlternateContent>",
        f'<w:hyperlink r:id="zz">{RUN}</w:hyperlink>',
        f'{RUN}<w:r><w:footnoteReference w:id="77"/><w:endnoteReference/><w:commentReference/></w:r>',
        f'{RUN}<w:r><w:sym w:font="Wingdings" w:char="zz"/><w:sym/></w:r>',
        f'{RUN}<w:r><w:drawing><wp:inline><wp:docPr><a:hlinkClick r:id="zz"/></wp:docPr><a:graphic><a:graphicData>'
        '<pic:pic><pic:blipFill><a:blip r:embed="zz"/></pic:blipFill></pic:pic></a:graphicData></a:graphic>'
        "</wp:inline></w:drawing></w:r>",
        f'{RUN}<w:r><w:pict><v:shape><v:imagedata r:id="zz"/></v:shape></w:pict></w:r>',
        f"{RUN}<w:del><w:r><w:t>gone</w:t></w:r></w:del><w:moveFrom><w:r><w:t>gone</w:t></w:r></w:moveFrom>",
    ],
)
def test_no_element_and_no_reference_costs_text(tmp_path: Path, inside: str) -> None:
    title, text = read(with_inside(tmp_path / "a.docx", inside))
    assert title == "Heading"
    assert text.startswith("# Heading\n\nkept\n\nLast.\n\n")
    assert "left | right" in text
    assert text.count("kept") == 1
    assert "gone" not in text


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (
            f'<w:altChunk r:id="rId1"/>{RUN}',
            "holds a document within it, which is not read; save",
        ),
        (
            f'<w:subDoc r:id="rId1"/>{RUN}',
            "holds a document that it refers to, which is not read; save",
        ),
        (f'{RUN}<w:bookmarkStart/><w:r><w:fldChar w:fldCharType="end"/></w:r>', ""),
    ],
)
def test_documents_within_a_document_are_named(tmp_path: Path, inside: str, said: str) -> None:
    converted = convert(with_inside(tmp_path / "a.docx", inside), ".docx", None)
    assert converted.text.startswith("# Heading\n\nkept\n\nLast.")
    assert [each.reason[: len(said)] for each in converted.unread] == ([said] if said else [])


def test_a_damaged_part_of_a_document_costs_no_other(tmp_path: Path) -> None:
    converted = convert(with_inside(tmp_path / "a.docx", RUN, styles="<w:styles"), ".docx", None)
    assert "kept\n\nLast." in converted.text
    assert [each.reason for each in converted.unread] == ["its part word/styles.xml is damaged"]


def test_a_document_that_mammoth_fails_on_keeps_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("zz")

    monkeypatch.setattr("mammoth.convert_to_html", fail)
    converted = convert(write_docx(tmp_path / "a.docx", "", "Heading", ("One.", "Two.")), ".docx", None)
    assert converted.text == "Heading\n\nOne.\n\nTwo.\n\nleft\n\nright"
    assert [each.reason for each in converted.unread] == [
        "read without its headings, lists and tables, for it is damaged (KeyError: 'zz')"
    ]
