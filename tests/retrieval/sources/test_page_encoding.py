"""The encoding that a page names and the one it is in: UTF-8 by another name, codes without a character, refusals."""

import codecs
from pathlib import Path

import pytest

from retrieval.sources.converted import convert
from retrieval.sources.unreadable import Unreadable


def text_of(tmp_path: Path, data: bytes, fallback: str | None = None) -> str:
    file = tmp_path / "a.html"
    file.write_bytes(data)
    return convert(file, ".html", fallback).text


LATIN = "<p>café</p>".encode("latin-1")


@pytest.mark.parametrize(
    ("data", "fallback", "text"),
    [
        (b"<meta charset=utf-8>" + LATIN, None, None),
        (b"<meta charset=utf-8>" + LATIN, "latin-1", "café"),
        (b"<meta charset=utf-16><p>page</p>", None, "page"),
        (b"<meta charset=utf-16>" + "<p>café</p>".encode(), None, "café"),
        (b'<meta name="description" content="the charset=koi8-r of pages">' + LATIN, None, None),
        (b'<meta name="description" content="the charset=koi8-r of pages">' + LATIN, "latin-1", "café"),
        (b'<meta content="text/html; charset=iso-8859-1" http-equiv=content-type>' + LATIN, None, "café"),
        (b"<meta charset=iso-8859-1><p>\x80 5</p>", None, "\u20ac 5"),  # as browsers read it
        (b"<!-- <meta charset=koi8-r> --><meta charset=latin-1>" + LATIN, None, "café"),
        (b'<?xml version="1.0" encoding="iso-8859-1"?>' + LATIN, None, "café"),
        (b"<meta charset=klingon><meta charset=latin-1>" + LATIN, None, "café"),
        (b"<meta charset=hex>" + LATIN, None, None),
        (b"<meta charset=unicode_escape><p>a\\n</p>", None, "a\\n"),
        (b"<meta charset=utf-7><p>+AGE-</p>", None, "+AGE-"),
        (b"<meta charset=x-user-defined>" + LATIN, None, None),
        (b"<meta charset=iso-2022-kr><p>page</p>", None, "page"),
        (b"<meta charset=x-sjis>" + "<p>\u2460</p>".encode("cp932"), None, "\u2460"),
        (b"<meta charset=gb2312>" + "<p>\u20ac</p>".encode("gb18030"), None, "\u20ac"),
        (b"<meta charset=shift_jis><p>\x82</p>", None, None),
        (b"<meta charset=shift_jis>" + LATIN, "latin-1", "café"),
        (b"<meta charset=shift_jis>" + "<p>\u65e5\u672c</p>".encode("cp932"), "latin-1", "\u65e5\u672c"),
        (codecs.BOM_UTF8 + b"<meta charset=koi8-r>" + "<p>café</p>".encode(), None, "café"),
        ("<p>\u65e5\u672c</p>".encode("utf-16-le"), "utf-16-le", "\u65e5\u672c"),
    ],
)
def test_no_encoding_of_a_page_is_guessed(tmp_path: Path, data: bytes, fallback: str | None, text: str | None) -> None:
    if text is None:
        with pytest.raises(Unreadable, match=": not "):
            text_of(tmp_path, data, fallback)
    else:
        assert text_of(tmp_path, data, fallback) == text


@pytest.mark.parametrize("fallback", [None, "latin-1"])
@pytest.mark.parametrize(
    "name", ["iso-8859-1", "windows-1252", "latin1", "us-ascii", "koi8-r", "windows-1251", "shift_jis"]
)
def test_a_page_in_utf_8_may_name_another_encoding(tmp_path: Path, name: str, fallback: str | None) -> None:
    words = "a \u201cquoted\u201d word, caf\u00e9, \U0001f600"
    assert text_of(tmp_path, f"<meta charset={name}><p>{words}</p>".encode(), fallback) == words
    declared = f'<?xml version="1.0" encoding="{name}"?><html><p>{words}</p></html>'
    assert text_of(tmp_path, declared.encode(), fallback) == words


@pytest.mark.parametrize(
    ("name", "encoding", "text"),
    [
        ("iso-2022-jp", "iso2022_jp", "\u65e5\u672c"),  # in bytes that are ASCII, and so UTF-8
        ("gbk", "gb18030", "\u8def\u697c"),  # GBK whose bytes are UTF-8 as well
        ("windows-1251", "cp1251", "\u0427\u0430\u0439"),
        ("iso-8859-1", "cp1252", "caf\u00e9 \u20ac"),
    ],
)
def test_a_page_that_is_in_the_encoding_it_names(tmp_path: Path, name: str, encoding: str, text: str) -> None:
    assert text_of(tmp_path, f"<meta charset={name}><p>".encode() + text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("name", "byte"),
    [
        *(("windows-1252", byte) for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D)),
        ("iso-8859-1", 0x81),
        ("windows-1250", 0x88),
        ("windows-1251", 0x98),
        ("windows-874", 0x99),
    ],
)
def test_codes_without_a_character_are_control_characters_as_in_browsers(tmp_path: Path, name: str, byte: int) -> None:
    page = f"<meta charset={name}><p>all ".encode() + bytes([byte]) + b" words</p>"
    assert text_of(tmp_path, page) == f"all {chr(byte)} words"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("X-SJIS", b"\x82", "not X-SJIS, as it says itself (incomplete multibyte sequence, byte 22)"),
        ("utf8", b"caf\xe9.", "not utf8, as it says itself (invalid continuation byte, byte 23)"),
        ("windows-1253", b"\xd2", "not windows-1253, as it says itself (character maps to <undefined>, byte 28)"),
        ("utf-16", b"\xe9.", "not utf-8, as it says itself (invalid continuation byte, byte 22)"),
    ],
)
def test_a_refusal_quotes_the_name_in_the_page(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(Unreadable) as refused:
        text_of(tmp_path, f"<meta charset={name}>".encode() + data)
    assert refused.value.reason == f"{said}; save it as UTF-8, or name its encoding, as in --encoding latin-1"
