"""Converted files: titles and texts of each format, encodings, and what is refused with which reason."""

import codecs
import zipfile
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from retrieval.sources import converted as formats
from retrieval.sources.converted import CONVERTERS, convert
from retrieval.sources.unreadable import Unreadable
from tests.retrieval.sources.real_files import write_docx, write_pdf


def read(path: Path, fallback: str | None = None) -> tuple[str, str]:
    converted = convert(path, path.suffix, fallback)
    return converted.title, converted.text


def refusal(path: Path) -> str:
    with pytest.raises(Unreadable) as refused:
        read(path)
    assert refused.value.where == str(path)
    return refused.value.reason


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Leave policy\n\ntext", "Leave policy"),
        ("intro\n\n  # Deep  heading #\n", "Deep heading"),
        ("Title\r\n=====\r\n\r\ntext", "Title"),
        ("```\n# a comment\n```\n\n# The title\n", "The title"),
        ("## only a section\n\ntext #5\n#hash", ""),
        ('---\ntitle: "Front matter"\n---\n# Heading\n', "Front matter"),
        ("---\nauthor: me\n---\n# Heading\n", "Heading"),
        ("no heading", ""),
    ],
)
def test_titles_of_markdown(tmp_path: Path, text: str, title: str) -> None:
    file = tmp_path / "a.md"
    file.write_bytes(text.encode())
    assert read(file) == (title, text)


@pytest.mark.parametrize(
    "data",
    [
        "café".encode(),
        codecs.BOM_UTF8 + "café".encode(),
        codecs.BOM_UTF16_LE + "café".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "café".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "café".encode("utf-32-le"),
    ],
)
def test_byte_order_marks_and_utf_8(tmp_path: Path, data: bytes) -> None:
    for name in ("a.txt", "a.md", "a.html"):
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name) == ("", "café")


def test_other_encodings_are_named_or_given(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("caf\u00e9 ".encode("latin-1") * 9)
    assert refusal(file) == "not UTF-8 (byte 4); save it as UTF-8, or name its encoding, as in --encoding latin-1"
    assert read(file, "latin-1") == ("", "café " * 9)
    late = tmp_path / "late.txt"
    late.write_bytes(b"a" * (3 << 20) + b"\xe9 end")
    assert refusal(late).startswith(f"not UTF-8 (byte {(3 << 20) + 1})")
    split = tmp_path / "split.txt"
    split.write_bytes(b"a" * ((8 << 10) - 1) + "é".encode() * (1 << 20))  # characters across the blocks
    assert len(read(split, "latin-1")[1]) == (8 << 10) - 1 + (1 << 20)
    broken = tmp_path / "b.txt"
    broken.write_bytes(codecs.BOM_UTF16_LE + b"a\0\x00\xd8a\0")
    assert refusal(broken).startswith("not utf-16 (")


def test_binary_and_blank_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ELF\0\1\2")
    assert refusal(tmp_path / "a.txt") == "binary, not text"
    (tmp_path / "b.md").write_text(" \n\n")
    assert refusal(tmp_path / "b.md") == "holds no text"


PAGE = """<html><head><title>Rockets &amp;
 fuel</title><style>p {}</style></head><body><nav>menu</nav><script>run()</script>
<h1>Rockets</h1><p>They burn <a href="http://example.org/">kerosene_1</a> * <img src="x.png" alt="picture"></p>
<h2>Kinds</h2><ul><li>one</li><li>two</li></ul><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<footer>imprint</footer></body></html>"""


def test_html_becomes_markdown_without_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    title, text = read(tmp_path / "a.html")
    assert title == "Rockets & fuel"
    assert text.startswith("# Rockets\n\nThey burn kerosene_1 *")
    assert "## Kinds\n\n- one\n- two" in text
    assert "| 1 | 2 |" in text
    for gone in ("menu", "run()", "imprint", "p {}", "http:", "picture", "Rockets & fuel"):
        assert gone not in text


def test_html_of_other_kinds(tmp_path: Path) -> None:
    for name, data, expected in [
        ("main.html", b"<p>around</p><main><h1>Inside</h1><p>text</p></main>", ("Inside", "# Inside\n\ntext")),
        ("meta.htm", '<meta charset="latin-1"><p>café</p>'.encode("latin-1"), ("", "café")),
        ("x.xhtml", b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><p>x</p></html>', ("", "x")),
        ("bare.html", b"<title>T</title>words <b>and", ("T", "words **and**")),
    ]:
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name) == expected


@pytest.mark.filterwarnings("error")
def test_html_that_no_tree_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep.html").write_text("<div>" * 20_000 + "x")
    assert refusal(tmp_path / "deep.html").startswith("damaged, or not html (")
    monkeypatch.setattr(formats, "MOST_HTML", 1 << 20)
    (tmp_path / "huge.html").write_text("<p>x</p>" * (1 << 18))
    assert refusal(tmp_path / "huge.html") == "longer than 1 MiB of HTML; split it"


def test_pdf(tmp_path: Path) -> None:
    file = write_pdf(tmp_path / "a.pdf", [["Page one.", "Second line."], [], ["Page three."]], title="A  report")
    assert read(file) == ("A report", "Page one.\nSecond line.\n\nPage three.")


def test_pdf_of_another_program(tmp_path: Path) -> None:
    with mpl.rc_context({"pdf.fonttype": 42}):
        figure = Figure()
        figure.text(0.1, 0.5, "Grüße from a plot")
        figure.savefig(tmp_path / "a.pdf")
    assert "Grüße from a plot" in read(tmp_path / "a.pdf")[1]


def test_pdfs_that_cannot_be_read(tmp_path: Path) -> None:
    encrypted = write_pdf(tmp_path / "secret.pdf", [["secret"]], password="p")
    assert refusal(encrypted) == "encrypted; save a copy without a password"
    assert read(write_pdf(tmp_path / "open.pdf", [["readable"]], password=""))[1] == "readable"
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    assert refusal(tmp_path / "broken.pdf").startswith("damaged, or not pdf (Failed to load document")
    cut = write_pdf(tmp_path / "cut.pdf", [["some text"] * 40] * 5)
    cut.write_bytes(cut.read_bytes()[:300])
    assert refusal(cut).startswith("damaged, or not pdf (")
    assert "run text recognition" in refusal(write_pdf(tmp_path / "scan.pdf", [[], []]))
    (tmp_path / "text.pdf").write_text("just text")
    assert refusal(tmp_path / "text.pdf").startswith("damaged, or not pdf (")


def test_docx(tmp_path: Path) -> None:
    file = write_docx(tmp_path / "a.docx", "Property", "Day one", ("Bring your badge.", "Sit down."))
    title, text = read(file)
    assert title == "Property"
    assert text.startswith("# Day one\n\nBring your badge.\n\nSit down.\n\n")
    assert "left | right" in text
    assert read(write_docx(tmp_path / "b.docx", "", "Day two"))[0] == "Day two"


def test_docx_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.docx"
    file.write_bytes(b"PK\3\4 no archive")
    assert refusal(file).startswith("damaged, or not docx (")
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr("hello.txt", "an archive of something else")
    assert refusal(file).startswith("damaged, or not docx (")
    file.write_bytes(formats.OLE + b"\0" * 512)
    assert refusal(file) == "encrypted, or in the format before DOCX; save it again without a password"
    assert refusal(write_docx(tmp_path / "blank.docx")) == "holds no text"
    whole = write_docx(tmp_path / "b.docx", "", "Heading")
    whole.write_bytes(whole.read_bytes()[:-200])
    assert refusal(whole).startswith("damaged, or not docx (")
    with zipfile.ZipFile(tmp_path / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("word/document.xml", b" " * (formats.MOST_XML + 1))
    assert refusal(tmp_path / "bomb.docx") == "unpacks to more than 16 MiB of XML; split it"


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    for suffix in CONVERTERS:
        assert refusal(tmp_path / f"gone{suffix}") == "cannot be read (No such file or directory)"
