"""Detokenizer: an answer's tokens, and their text piece by piece, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """Collects the tokens of one answer. The pieces, joined, are `text`.

    The text ends before the stop string that begins first in it. Text that may become part of a stop string is held
    back until that is decided; a complete one is held back too, while another may still have begun before it. `ids`
    keeps all tokens, those of the stop string too. Raises ValueError for an empty stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if "" in stop:
            raise ValueError("a stop string has at least one character")
        self.ids: list[int] = []
        self.margins: list[float] = []
        self.text = ""
        self.stopped = False
        self._stop = tuple(stop)
        self._held = ""  # decoded, behind `text`
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int, margin: float) -> str:
        """The text that `token` completes; "" while a character or a stop string may be incomplete.

        Once `stopped`, further tokens are ignored: they were on their way already.
        """
        if self.stopped:
            return ""
        self.ids.append(token)
        self.margins.append(margin)
        try:
            piece = self._stream.step(self._tokenizer, token) or ""
        except Exception:  # bytes that the stream took for text, and that with this token no longer are
            self._stream, piece = DecodeStream(skip_special_tokens=True), "\ufffd"
        return self._release(piece, last=False)

    def finish(self) -> str:
        """The text that was held back in case more tokens came. Call once, when none will; it may end in a stop."""
        if self.stopped:
            return ""
        whole, streamed = self._tokenizer.decode(self.ids, skip_special_tokens=True), self.text + self._held
        # where the stream and the whole disagree, the stream stands: its text has been sent
        rest = whole[len(streamed) :] if whole.startswith(streamed) else ""
        return self._release(rest, last=True)

    def _release(self, piece: str, *, last: bool) -> str:
        """Takes in decoded text. Returns the part of all held text that can be sent."""
        self._held += piece
        held = self._held
        stop = min((start for start in map(held.find, self._stop) if start >= 0), default=len(held))
        undecided = len(held) if last else self._first_beginning(held)
        self.stopped = stop < len(held) and stop <= undecided
        released = held[: min(stop, undecided)]
        self._held = "" if self.stopped or last else held[len(released) :]
        self.text += released
        return released

    def _first_beginning(self, held: str) -> int:
        """Start of the first stop string that `held` may end in the middle of; the length of `held` if none."""
        longest = max(map(len, self._stop), default=1)
        for start in range(max(0, len(held) - longest + 1), len(held)):
            if any(len(held) - start < len(stop) and stop.startswith(held[start:]) for stop in self._stop):
                return start
        return len(held)
