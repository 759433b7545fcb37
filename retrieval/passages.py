"""Passages: documents cut at headings, paragraphs and sentences into pieces that the embedder reads to their ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from semantic_text_splitter import MarkdownSplitter

from retrieval.corpus import Document, Passage
from retrieval.embedder import MAX_CHARACTERS_PER_TOKEN, Embedder
from retrieval.errors import RetrievalError

DEFAULT_TOKENS, DEFAULT_OVERLAP = 256, 32
LEAST_TOKENS = 16
# characters that the splitter is given at once, for it holds the structure of all that it is given in memory
WINDOW_CHARACTERS = 1 << 16
USUAL_CHARACTERS_PER_TOKEN = 6
TITLE_SHARE = 4  # a title has at most a quarter of a passage
# a splitter has a fixed capacity: the room for titles is rounded up to a multiple of this part of a passage, so that at
# most this number of splitters is made
SPLITTERS = 16
SERVED_TOKENS = 1024  # what `serve` reads of a document unless --max-doc-tokens says otherwise
# a gap in the text, where it is cut in any case: the splitter takes the square of the length of blank lines in a row
_GAP = re.compile(r"(?<!\s)\s{512,}+")
_NUMBERED = re.compile(r"(.*#)([1-9][0-9]{0,8})", re.DOTALL)


class PassageSplitter:
    """Cuts documents into passages of at most `tokens` tokens, as the embedder counts them when it embeds a passage.

    That includes its special tokens and the title, which every passage repeats. Consecutive passages share up to
    `overlap` tokens: whole sentences or words, so there may be none. A document that fits is left as it is. Passages
    of document "a" are called "a#1", "a#2" …; where another document of the corpus has such an id, "a##1" ….

    A document that does not fit only because of its title stays whole, and its title is shortened to what fits.

    `documents` counts the documents so far, and `longer` those that were cut.
    """

    def __init__(self, embedder: Embedder, tokens: int | None = None, overlap: int | None = None) -> None:
        """`tokens` is 256 if None, or what the embedder reads if that is less; `overlap` is 32, or an eighth if less.

        Raises RetrievalError for fewer than 16 tokens, more than the embedder reads, or an overlap of half a passage.
        """
        self.tokens = min(DEFAULT_TOKENS, embedder.max_tokens) if tokens is None else tokens
        if not LEAST_TOKENS <= self.tokens <= embedder.max_tokens:
            raise RetrievalError(
                f"passages of {self.tokens} tokens are not possible: embedder {embedder.name!r} reads "
                f"{embedder.max_tokens}; choose from {LEAST_TOKENS} to {embedder.max_tokens}"
            )
        self.overlap = min(DEFAULT_OVERLAP, self.tokens // 8) if overlap is None else overlap
        if not 0 <= self.overlap < self.tokens // 2:
            raise RetrievalError(
                f"an overlap of {self.overlap} tokens is not possible in passages of {self.tokens}; "
                f"choose from 0 to {self.tokens // 2 - 1}"
            )
        self.documents = self.longer = 0
        self._tokenizer = embedder.tokenizer
        self._room = self.tokens - len(self._tokenizer.encode("").ids)  # of the special tokens
        self._splitter = cache(self._made_splitter)
        self._numbered: set[str] = set()  # ids of whole documents that look like those of passages
        self._cut: dict[str, int] = {}  # passages by their ids without the number

    def __call__(self, document: Document) -> Iterator[Document]:
        """The passages of a document, in order, or the document itself."""
        self.documents += 1
        if self._fits(document):
            yield self._whole(document)
            return
        title = self._short_title(document.title, self._room // TITLE_SHARE)
        spans = self._spans(document.text, title)
        if len(spans) < 2:
            yield self._whole(replace(document, title=self._fitting_title(document, title)))
            return
        self.longer += 1
        stem = self._stem(document.id, len(spans))
        for number, (start, end) in enumerate(spans, start=1):
            where = Passage(document.id, number, start, end)
            yield Document(f"{stem}{number}", title, document.text[start:end], document.extra, where)

    def _whole(self, document: Document) -> Document:
        numbered = _NUMBERED.fullmatch(document.id)
        if numbered is None:
            return document
        if int(numbered[2]) > self._cut.get(numbered[1], 0):
            self._numbered.add(document.id)
            return document
        # its id is that of another document's passage: it becomes the only passage of itself
        where = Passage(document.id, 1, 0, len(document.text))
        return Document(f"{self._stem(document.id, 1)}1", document.title, document.text, document.extra, where)

    def _stem(self, document_id: str, count: int) -> str:
        """What the ids of a document's passages begin with, so that none is taken."""
        stem = f"{document_id}#"
        while stem in self._cut or (
            self._numbered and any(f"{stem}{number}" in self._numbered for number in range(1, count + 1))
        ):
            stem += "#"
        self._cut[stem] = count
        return stem

    def _fits(self, document: Document) -> bool:
        if len(document.text) > self.tokens * MAX_CHARACTERS_PER_TOKEN:
            return False
        embedded = Embedder.passage(document)
        usual = self._room * USUAL_CHARACTERS_PER_TOKEN
        if len(embedded) > 2 * usual and self._count(embedded[:usual]) > self._room:
            return False  # as of most long texts, a part of it is too long already
        return self._count(embedded) <= self._room

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def _fitting_title(self, document: Document, short: str) -> str:
        """The longest title beside which the text fits, or `short`, beside which it does."""
        title = self._short_title(document.title, self._room - self._count(document.text))
        return title if len(title) > len(short) and self._fits(replace(document, title=title)) else short

    def _short_title(self, title: str, longest: int) -> str:
        """The title, or as many of its first words as are shorter than `longest` tokens."""
        if longest < 1:
            return ""
        head = title[: longest * MAX_CHARACTERS_PER_TOKEN]
        offsets = self._tokenizer.encode(head, add_special_tokens=False).offsets
        if len(offsets) <= longest - 1:  # one is for the full stop behind it
            return head
        head = head[: offsets[longest - 1][0]]
        return (head.rpartition(" ")[0] or head).rstrip()

    def _spans(self, text: str, title: str) -> list[tuple[int, int]]:
        """Starts and ends of the passages, in characters of the text."""
        taken = self._count(f"{title}. ") if title.strip() else 0
        step = max(1, self._room // SPLITTERS)
        splitter = self._splitter(self._room - -(-taken // step) * step)
        longest = self.tokens * MAX_CHARACTERS_PER_TOKEN
        spans = []
        first = 0
        while first < len(text):
            window = text[first : first + WINDOW_CHARACTERS]
            gap = _GAP.search(window)
            pieces = splitter.chunk_indices(window[: gap.start()] if gap else window)
            last = first + (gap.end() if gap else len(window))
            if not gap and last < len(text) and len(pieces) > 1:
                # the last one may go on behind the window: it is cut again at the head of the next
                last = first + pieces.pop()[0]
            for offset, piece in pieces:
                for start in range(0, len(piece), longest):
                    part = piece[start : start + longest]
                    if part.strip():
                        spans.append((first + offset + start, first + offset + start + len(part)))
            first = last
        return spans

    def _made_splitter(self, capacity: int) -> MarkdownSplitter:
        overlap = min(self.overlap, capacity - 1)
        return MarkdownSplitter.from_huggingface_tokenizer(self._tokenizer, capacity, overlap=overlap)


class WholeDocuments:
    """Leaves every document whole, and counts the `documents` and those whose ends cannot be found or read.

    `longer` have more tokens than the embedder reads, `unread` more than `serve` reads by default, as the embedder
    counts them.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.documents = self.longer = self.unread = 0
        self.tokens = embedder.max_tokens
        self._tokenizer = embedder.tokenizer

    def __call__(self, document: Document) -> Iterator[Document]:
        """The document itself."""
        self.documents += 1
        most = MAX_CHARACTERS_PER_TOKEN * max(self.tokens, SERVED_TOKENS)
        if len(document.text) > most:
            count = most
        else:
            count = len(self._tokenizer.encode_batch_fast([Embedder.passage(document)])[0].ids)
        self.longer += count > self.tokens
        self.unread += count > SERVED_TOKENS
        yield document
