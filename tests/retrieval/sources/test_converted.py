"""Converted files: titles and texts of each format but Markdown, encodings, and what is refused with which reason."""

import codecs
import time
import zipfile
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from retrieval.sources import converted as formats
from retrieval.sources.converted import CONVERTERS, convert
from retrieval.sources.unreadable import Unreadable
from tests.retrieval.sources.reading import read, refusal
from tests.retrieval.sources.real_files import damaged, write_docx, write_pdf, write_scan


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


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<body><form id=aspnetForm><p>all</p><input value=x><button>go</button></form>", "all"),
        ("<p>one</p><form><select><option>x</select><p>two</p>", "one\n\ntwo"),
        *((f"<p>one</p><{name}>menu<p>two</p>", "one\n\nmenu\n\ntwo") for name in ("nav", "aside", "object", "footer")),
        ("<p>one</p><nav>menu</nav><aside><nav>menu</nav></aside><p>two</p>", "one\n\ntwo"),
        ("<aside>all there is</aside>", "all there is"),
        ("<p>one</p><NAV>menu</NAV >two", "one\n\ntwo"),
        ("<p>one</p><aside>" + "words " * 2000 + "</aside><p>two</p>", "one\n\ntwo"),
        ("<p>one</p><nav><ul><li>menu<li>more</nav><p>two</p>", "one\n\ntwo"),
        ("<p>one</p><nav>menu<p>two</p><footer>imprint</footer>", "one\n\nmenu\n\ntwo"),
        ("<p>one</p><nav><div>menu</nav><p>two</p>", "one\n\nmenu\n\ntwo"),
        ("<div><nav>menu</div></nav><p>two</p>", "menu\n\ntwo"),
        ("<p>one</p><nav>menu<nav-bar> two</nav-bar>", "one\n\nmenu two"),
        ("one <object>x</object>two<form></form> three", "one two three"),
        ("<p>a" * 2000, "\n\n".join("a" * 2000)),
        ("<ul>" + "<li>a" * 2000, "\n".join(["- a"] * 2000)),
        ("<ul><li>a<ul><li>b<li>c</ul><li>d</ul>", "- a\n  - b\n  - c\n- d"),
        ("<table><tr><th>a<th>b" + "<tr><td>1<td>2" * 2000, "| a | b |\n| --- | --- |\n" + "| 1 | 2 |\n" * 2000),
        ("<p>a\n  <b>b</b>   c</p><pre>d   e</pre>", "a\n**b** c\n\n```\nd   e\n```"),
    ],
)
def test_pages_whose_end_tags_are_left_out_or_that_stand_in_a_form(tmp_path: Path, page: str, text: str) -> None:
    (tmp_path / "a.html").write_text(page)
    assert read(tmp_path / "a.html")[1] == text.strip()


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>a</p></body><p>b</p></html><p>c", "a\n\nb\n\nc"),
        ("5 < 6 & 7\n\nline", "5 < 6 & 7\nline"),
        ("<meta charset=utf-8><p>a\0b</p><p>c", "a\ufffdb\n\nc"),  # as browsers read it
        (
            '<?xml version="1.0" encoding="utf-8"?><html><p>\u65e5\u672c \U0001f600</p></html>',
            "\u65e5\u672c \U0001f600",
        ),
        ("<p>a<svg><title>s</title><text>x</text></svg><math><mi>y</mi></math>", "ay"),
        ("<p>a<?php echo 1 ?><![CDATA[x]]><!-- b --><!DOCTYPE c><!d>e", "ae"),
        ("<p>&#xd800;&#0;&#x110000;a", "\ufffd\ufffd\ufffda"),
        ("<main><p>a</main><nav>menu<p>b", "a"),
        ("<main><nav>menu</nav></main>", "menu"),
        ("<ol start=3><li>a<li><li>b<ol><li>c</ol></ol><ol start=x><li>d</ol>", "3. a\n5. b\n   1. c\n\n1. d"),
        ("<p>" + "a" * 11_000_000 + "</p><p>end", "a" * 11_000_000 + "\n\nend"),
    ],
    ids=lambda value: value[:20],
)
def test_pages_at_the_limits_of_the_parser(tmp_path: Path, page: str, text: str) -> None:
    (tmp_path / "a.html").write_text(page)
    assert read(tmp_path / "a.html")[1] == text


@pytest.mark.timing
@pytest.mark.parametrize("part", ["<li>a", "</nav>", "<nav>a</nav>", "<a href=x>a", "<", "<tr><td>a"])
def test_pages_are_read_in_linear_time(tmp_path: Path, part: str) -> None:
    (tmp_path / "a.html").write_text("<p>one</p><ol>" + part * 10_000)
    began = time.monotonic()
    assert "one" in read(tmp_path / "a.html")[1]
    assert time.monotonic() - began < 5


def test_an_empty_page_is_refused(tmp_path: Path) -> None:
    for page in ("", " ", "<!-- x -->", "<title>T</title>", "<html></html>"):
        (tmp_path / "a.html").write_text(page)
        assert refusal(tmp_path / "a.html") == "holds no text"


def test_an_empty_title_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<title> </title><h1>Heading</h1>text")
    assert read(tmp_path / "a.html")[0] == "Heading"


def test_encodings_with_nuls_can_be_given(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le"):
        (tmp_path / "a.txt").write_bytes("café".encode(encoding))
        assert read(tmp_path / "a.txt", encoding) == ("", "café")
        assert refusal(tmp_path / "a.txt") == "binary, not text"
    (tmp_path / "b.txt").write_bytes("café, in UTF-8".encode())
    assert read(tmp_path / "b.txt", "utf-16-le")[1] == "café, in UTF-8"
    (tmp_path / "c.txt").write_bytes(b"ELF\0\xff")
    with pytest.raises(Unreadable, match="binary, not text"):
        read(tmp_path / "c.txt", "latin-1")
    with pytest.raises(Unreadable, match="not utf-16-le"):
        read(tmp_path / "c.txt", "utf-16-le")


@pytest.mark.filterwarnings("error")
def test_html_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_HTML", 1 << 20)
    (tmp_path / "huge.html").write_text("<p>x</p>" * (1 << 18))
    assert refusal(tmp_path / "huge.html") == "longer than 1 MiB of HTML; split it"


def test_pdf(tmp_path: Path) -> None:
    file = write_pdf(tmp_path / "a.pdf", [["Page one.", "Second line."], [], ["Page three."]], title="A  report")
    assert read(file) == ("A report", "Page one.\nSecond line.\n\nPage three.")


def test_pages_of_pictures_are_counted(tmp_path: Path) -> None:
    file = write_scan(tmp_path / "a.pdf", ["words", None, None, ""])
    converted = convert(file, ".pdf", None)
    assert converted.text == "words"
    assert [str(part) for part in converted.unread] == [
        f"{file} (2 of 4 pages): pictures without text; run text recognition (OCR) over it"
    ]


def test_damaged_pages_cost_no_other(tmp_path: Path) -> None:
    file = damaged(write_pdf(tmp_path / "a.pdf", [["One."], ["Two."], ["Three."]]), 2)
    assert convert(file, ".pdf", None).text == "One.\n\nThree."
    assert [str(part) for part in convert(file, ".pdf", None).unread] == [f"{file} (1 of 3 pages): damaged"]
    scan = damaged(write_scan(tmp_path / "b.pdf", ["words", None, "more"]), 3)
    assert [str(part) for part in convert(scan, ".pdf", None).unread] == [
        f"{scan} (1 of 3 pages): damaged",
        f"{scan} (1 of 3 pages): pictures without text; run text recognition (OCR) over it",
    ]
    assert refusal(damaged(write_pdf(tmp_path / "c.pdf", [["One."], []]), 1)).startswith(
        "its pages are damaged (1 of 2) or hold neither text nor "
    )
    assert refusal(damaged(write_pdf(tmp_path / "d.pdf", [["One."], ["Two."]]), 1, 2)) == "all of its pages are damaged"


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
    ocr = "run text recognition (OCR) over it"
    blank = write_pdf(tmp_path / "blank.pdf", [[], []])
    assert refusal(blank) == f"its pages hold neither text nor pictures; if they show words, {ocr}"
    assert refusal(write_scan(tmp_path / "scan.pdf", [None])) == f"its pages hold no text, only pictures; {ocr}"
    (tmp_path / "text.pdf").write_text("just text")
    assert refusal(tmp_path / "text.pdf").startswith("damaged, or not pdf (")


def test_docx(tmp_path: Path) -> None:
    file = write_docx(tmp_path / "a.docx", "Property", "Day one", ("Bring your badge.", "Sit down."))
    title, text = read(file)
    assert title == "Property"
    assert text.startswith("# Day one\n\nBring your badge.\n\nSit down.\n\n")
    assert "left | right" in text
    assert read(write_docx(tmp_path / "b.docx", "", "Day two"))[0] == "Day two"


def test_docx_whose_properties_are_damaged(tmp_path: Path) -> None:
    whole = write_docx(tmp_path / "a.docx", "Property", "Day one")
    with zipfile.ZipFile(whole) as parts, zipfile.ZipFile(tmp_path / "b.docx", "w") as copy:
        for name in parts.namelist():
            copy.writestr(name, b"<broken" if name == "docProps/core.xml" else parts.read(name))
    assert read(tmp_path / "b.docx") == ("Day one", "# Day one")


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


def test_docx_is_bounded_whatever_the_names_of_its_parts(tmp_path: Path) -> None:
    whole = write_docx(tmp_path / "a.docx", "", "Heading")
    with zipfile.ZipFile(whole) as parts, zipfile.ZipFile(tmp_path / "b.docx", "w", zipfile.ZIP_DEFLATED) as copy:
        for name in parts.namelist():
            data = parts.read(name).replace(b"word/document.xml", b"word/document.bin")
            copy.writestr(name.replace("document.xml", "document.bin") if name.startswith("word/doc") else name, data)
        copy.writestr("mammoth/style-map", "p => h1\n" * 3_000_000)  # which is not looked at
        copy.writestr("word/media/image.png", b"\x89PNG" + b"\0" * formats.MOST_XML)
    assert read(tmp_path / "b.docx") == ("Heading", "# Heading")
    with zipfile.ZipFile(tmp_path / "b.docx", "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("word/other.bin", b"\n <a>" + b" " * formats.MOST_XML)
    assert refusal(tmp_path / "b.docx") == "unpacks to more than 16 MiB of XML; split it"


@pytest.mark.parametrize("xml", ["<a/>", '<a b="" c=""/>', "<a></a>"])
def test_docx_of_very_many_tags_is_refused_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xml: str
) -> None:
    file = write_docx(tmp_path / "a.docx", "", "Heading")
    with zipfile.ZipFile(file, "a") as parts:
        monkeypatch.setattr(formats, "MOST_TAGS", 60_000)
        assert read(file) == ("Heading", "# Heading")
        parts.writestr("word/more.xml", xml * 60_000)
    assert refusal(file) == "holds more than 60,000 tags and attributes of XML; split it"


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    for suffix in CONVERTERS:
        assert refusal(tmp_path / f"gone{suffix}") == "cannot be read (No such file or directory)"
