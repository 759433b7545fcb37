"""Transcript: an answer's tokens, and their text piece by piece."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Transcript:
    """Collects the tokens of one answer. The pieces, joined, are `text`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.ids: list[int] = []
        self.margins: list[float] = []
        self.text = ""
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int, margin: float) -> str:
        """The text that `token` completes; "" while a character is incomplete."""
        self.ids.append(token)
        self.margins.append(margin)
        try:
            piece = self._stream.step(self._tokenizer, token) or ""
        except Exception:  # bytes that it took for text, and now that more follow, no longer does
            self._stream, piece = DecodeStream(skip_special_tokens=True), "\ufffd"
        self.text += piece
        return piece

    def finish(self) -> str:
        """What was held back for more tokens to come. Call once, when none will."""
        whole = self._tokenizer.decode(self.ids, skip_special_tokens=True)
        # where the stream and the whole disagree, what was said stands
        rest = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text += rest
        return rest
