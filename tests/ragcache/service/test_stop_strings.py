"""An answer ends before the first stop string in it, wherever the tokens end, and says nothing that it takes back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ragcache.prompt.detokenizer import Detokenizer

ALPHABET = "abé🦦"
# a token a byte, and some that are several characters and parts of them
MERGES = ["a", "b", "ab", "aba", "ba", "bb"]


def _tokenizer() -> tuple[Tokenizer, dict[bytes, int]]:
    """A byte-level tokenizer, and its tokens by their bytes."""
    letters = dict(zip(pre_tokenizers.ByteLevel.alphabet(), range(256), strict=True))
    vocabulary = letters | {text: 300 + n for n, text in enumerate(MERGES) if text not in letters}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.decoder = decoders.ByteLevel()
    ids = {}
    for byte in {byte for character in ALPHABET for byte in character.encode()}:
        ids[bytes([byte])] = vocabulary[_letter(byte)]
    for text in MERGES:
        ids[text.encode()] = vocabulary[text]
    return tokenizer, ids


def _letter(byte: int) -> str:
    """The letter that stands for a byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


TOKENIZER, IDS = _tokenizer()


def tokens_of(*pieces: str | bytes) -> list[int]:
    return [IDS[piece.encode() if isinstance(piece, str) else piece] for piece in pieces]


def cut(whole: str, stop: list[str]) -> tuple[str, bool]:
    """The definition, on the whole text."""
    starts = [start for start in map(whole.find, stop) if start >= 0]
    return (whole[: min(starts)], True) if starts else (whole, False)


def transcribed(tokens: list[int], stop: list[str]) -> tuple[Detokenizer, str]:
    """The detokenizer of an answer that ends with its tokens, or when it says so; its pieces, joined."""
    detokenizer, pieces = Detokenizer(TOKENIZER, stop), ""
    for token in tokens:
        pieces += detokenizer.add(token, 1.0)
        assert detokenizer.text == pieces
        if detokenizer.stopped:
            break
    pieces += detokenizer.finish()
    assert detokenizer.text == pieces
    return detokenizer, pieces


@given(
    st.lists(st.sampled_from(sorted(IDS)), max_size=24),
    st.lists(st.text(ALPHABET + "\ufffd", min_size=1, max_size=5), max_size=4),
)
@example([b"a", b"b", b"a"], ["bab", "a"])
@example([b"aba", b"b"], ["ababb", "ba"])
@example(["é".encode()[:1], "é".encode()[1:]], ["é"])
@example(["é".encode()[:1]], ["\ufffd"])
def test_the_text_is_what_a_search_of_the_whole_would_leave(pieces, stop):
    tokens = [IDS[piece] for piece in pieces]
    whole = TOKENIZER.decode(tokens)
    detokenizer, text = transcribed(tokens, stop)
    assert (text, detokenizer.stopped) == cut(whole, stop)


@given(st.lists(st.sampled_from(MERGES), max_size=24), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_nothing_is_held_back_longer_than_it_must(pieces, stop):
    detokenizer = Detokenizer(TOKENIZER, stop)
    for count, piece in enumerate(pieces, 1):
        detokenizer.add(IDS[piece.encode()], 1.0)
        if detokenizer.stopped:
            return
        held = "".join(pieces[:count])[len(detokenizer.text) :]
        assert len(held) < max(map(len, stop), default=1)


def test_text_is_held_back_while_it_may_be_the_beginning_of_a_stop():
    detokenizer = Detokenizer(TOKENIZER, ["abb"])
    said = [detokenizer.add(token, 1.0) for token in tokens_of("b", "ab", "aba", "b")]
    assert said == ["b", "", "ab" + "ab", ""]
    assert not detokenizer.stopped
    assert detokenizer.finish() == "ab"
    assert detokenizer.text == "bababab"


def test_the_piece_before_the_stop_is_said_and_its_tokens_are_kept():
    detokenizer = Detokenizer(TOKENIZER, ["bb"])
    tokens = tokens_of("a", "ab", "ba")
    assert [detokenizer.add(token, 1.0) for token in tokens] == ["a", "a", ""]
    assert detokenizer.stopped
    assert detokenizer.text == "aa"
    assert detokenizer.ids == tokens
    assert detokenizer.add(IDS[b"a"], 1.0) == detokenizer.finish() == ""
    assert detokenizer.ids == tokens


def test_the_stop_that_begins_first_wins_even_if_another_is_complete_before_it():
    stop = ["abab", "ba"]
    detokenizer = Detokenizer(TOKENIZER, stop)
    detokenizer.add(IDS[b"aba"], 1.0)
    assert (detokenizer.text, detokenizer.stopped) == ("", False)
    detokenizer.add(IDS[b"b"], 1.0)
    assert (detokenizer.text, detokenizer.stopped) == ("", True)
    detokenizer, _ = transcribed(tokens_of("aba", "a"), stop)
    assert (detokenizer.text, detokenizer.stopped) == ("a", True)
    detokenizer, _ = transcribed(tokens_of("aba"), stop)
    assert (detokenizer.text, detokenizer.stopped) == ("a", True), "the answer ended meanwhile"


@pytest.mark.parametrize("stop", [["é"], ["🦦"], ["é🦦", "🦦"]])
def test_a_stop_of_several_bytes_is_found_across_tokens(stop):
    pieces = [bytes([byte]) for byte in "aé🦦b".encode()]
    detokenizer, text = transcribed(tokens_of(*pieces), stop)
    assert (text, detokenizer.stopped) == cut("aé🦦b", stop)


def test_without_stops_every_piece_is_said_at_once():
    detokenizer = Detokenizer(TOKENIZER)
    assert [detokenizer.add(token, 1.0) for token in tokens_of("aba", "b")] == ["aba", "b"]


def test_an_empty_stop_is_refused():
    with pytest.raises(ValueError, match="at least one character"):
        Detokenizer(TOKENIZER, ["a", ""])
