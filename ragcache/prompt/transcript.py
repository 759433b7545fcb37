"""Transcript: an answer's tokens, and their text piece by piece, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Transcript:
    """Collects the tokens of one answer. The pieces, joined, are `text`.

    The text ends before the stop string that begins first in it; which of several that begin there is all the same.
    What may become a stop string is held back until that is known; a complete one waits while another may still have
    begun before it. `ids` keeps all tokens, those of the stop string too. ValueError for an empty stop string.
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

        Once `stopped`, tokens that were on their way already are not taken in.
        """
        if self.stopped:
            return ""
        self.ids.append(token)
        self.margins.append(margin)
        try:
            piece = self._stream.step(self._tokenizer, token) or ""
        except Exception:  # bytes that it took for text, and now that more follow, no longer does
            self._stream, piece = DecodeStream(skip_special_tokens=True), "\ufffd"
        return self._release(piece, last=False)

    def finish(self) -> str:
        """What was held back for more tokens to come. Call once, when none will; it may find the stop string."""
        if self.stopped:
            return ""
        whole, said = self._tokenizer.decode(self.ids, skip_special_tokens=True), self.text + self._held
        # where the stream and the whole disagree, what was said stands
        rest = whole[len(said) :] if whole.startswith(said) else ""
        return self._release(rest, last=True)

    def _release(self, piece: str, *, last: bool) -> str:
        """Takes in decoded text; returns what of all that was held can be said."""
        self._held += piece
        held = self._held
        found = min((at for at in map(held.find, self._stop) if at >= 0), default=len(held))
        maybe = len(held) if last else self._first_beginning(held)
        self.stopped = found < len(held) and found <= maybe
        said = held[: min(found, maybe)]
        self._held = "" if self.stopped or last else held[len(said) :]
        self.text += said
        return said

    def _first_beginning(self, held: str) -> int:
        """Where the first stop string begins that `held` may end in the middle of; its length if none does."""
        longest = max(map(len, self._stop), default=1)
        for at in range(max(0, len(held) - longest + 1), len(held)):
            if any(len(held) - at < len(stop) and stop.startswith(held[at:]) for stop in self._stop):
                return at
        return len(held)
