"""Real files: PDFs and DOCX as other programs write them."""

from pathlib import Path

import docx
import matplotlib as mpl
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, IndirectObject, NameObject


def write_pdf(path: Path, pages: list[list[str]], title: str = "", password: str | None = None) -> Path:
    """A PDF of pages of lines of ASCII text."""
    writer = PdfWriter()
    for lines in pages:
        page = writer.add_blank_page(600, 800)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
        stream.set_data(f"BT /F1 12 Tf 50 750 Td {shown} ET".encode("latin-1"))
        page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    with path.open("wb") as file:
        writer.write(file)
    return path


def damaged(path: Path, *pages: int) -> Path:
    """A PDF some of whose pages, counted from 1, lead to objects that do not exist."""
    writer = PdfWriter(clone_from=path)
    kids = writer.root_object["/Pages"]["/Kids"]
    for page in pages:
        kids[page - 1] = IndirectObject(9999 + page, 0, writer)
    with path.open("wb") as file:
        writer.write(file)
    return path


def write_scan(path: Path, pages: list[str | None]) -> Path:
    """A PDF of pages of a few words, of none (a blank page), or of a picture where there is None."""
    with mpl.rc_context({"pdf.fonttype": 42}), PdfPages(path) as file:
        for words in pages:
            figure = Figure(figsize=(2, 2))
            if words is None:
                figure.figimage([[0.0, 1.0], [1.0, 0.0]])
            else:
                figure.text(0.1, 0.5, words)
            file.savefig(figure)
    return path


def write_docx(path: Path, title: str = "", heading: str = "", paragraphs: tuple[str, ...] = ()) -> Path:
    """A Word document with a title among its properties, a heading, paragraphs and a table."""
    document = docx.Document()
    document.core_properties.title = title
    if heading:
        document.add_heading(heading, level=1)
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    if paragraphs:
        table = document.add_table(1, 2)
        table.rows[0].cells[0].text, table.rows[0].cells[1].text = "left", "right"
    document.save(str(path))
    return path
