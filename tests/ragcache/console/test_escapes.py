"""Every character that a terminal or a log obeys is spelled, wherever it stands; all others stay as they are."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcache.console.escapes import escaped, one_line

WHOLE = {
    "\x1b]0;OWNED\x07": r"\x1b]0;OWNED\x07",
    "\x1b[2J": r"\x1b[2J",
    "\x1b]52;c;ZWNobw==\x07": r"\x1b]52;c;ZWNobw==\x07",  # OSC 52 writes the clipboard
    "\x9b31m": r"\x9b31m",  # CSI as one character of C1
    "a\x7fb\x08c\rd": r"a\x7fb\x08c\rd",
    "user\u202etxt.exe\u2069": r"user\u202etxt.exe\u2069",
    "half \ud83d of a pair": r"half \ud83d of a pair",
    "a\u2028b\u2029c\x85d": r"a\u2028b\u2029c\x85d",
}


@pytest.mark.parametrize(("text", "wanted"), WHOLE.items())
def test_what_a_terminal_obeys_is_spelled(text, wanted):
    assert escaped(text) == one_line(text) == wanted
    for cut in range(len(text) + 1):  # as an answer comes in pieces
        assert escaped(text[:cut]) + escaped(text[cut:]) == wanted


def test_lines_and_tabs_stay_in_answers_and_are_spelled_in_names():
    assert escaped("a\n\tb\r\n") == "a\n\tb\\r\n"
    assert one_line("a\n\tb\r\n") == r"a\n\tb\r\n"


def test_languages_and_pictures_stay():
    text = "Grüße, 水獺 עברית العربية 👩‍💻 🇩🇪 naïve"
    assert escaped(text) == one_line(text) == text


@given(st.text(st.characters(codec=None), max_size=40))
def test_nothing_that_is_left_is_a_control_or_a_line(text):
    for left in one_line(text):
        assert unicodedata.category(left) not in ("Cc", "Cs", "Zl", "Zp")
    assert one_line(text).splitlines() == ([one_line(text)] if text else [])
    one_line(text).encode()
