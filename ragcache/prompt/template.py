"""PromptTemplate: writes questions and documents as a prompt, in a model's chat format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from ragcache.errors import BadQuery, ModelError, QuestionTooLong
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.prompt import Prompt
from ragcache.reuse.arrangement import Group
from ragcache.tree.segment import Segment
from retrieval.corpus import Document
from retrieval.embedder import MAX_CHARACTERS_PER_TOKEN
from retrieval.joined import continuation, follows, reading_order

SYSTEM_PROMPT = (
    "You are a helpful assistant. Use the documents to answer the question in one short sentence. "
    "If they do not hold the answer, say so."
)
SEGMENTS_KEPT = 1024


class PromptTemplate:
    """Writes prompts in a model's chat format, segment by segment.

    Texts of users and documents are tokenised without special tokens, so none can end its turn or start another.
    """

    def __init__(self, tokenizer: Any, *, max_doc_tokens: int, max_question_tokens: int) -> None:
        """`tokenizer`: a `transformers` tokenizer with a backend of the `tokenizers` library."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(f"{type(tokenizer).__name__} has no fast tokenizer, which this service needs")
        self._template_tokenizer = _plain_copy(backend, specials_as_text=False)
        self._text_tokenizer = _plain_copy(backend, specials_as_text=True)
        self.max_doc_tokens = max_doc_tokens
        self.max_question_tokens = max_question_tokens
        before, after = _chat_frame(tokenizer)
        self.system = Segment.of("system prompt", self._template(before + "Documents:\n\n"))
        self._after = tuple(self._template(after))
        self._doc_end = self._text("\n\n")
        # popular documents come again and again, and tokenising one takes longer than looking up its KV
        self._document = lru_cache(maxsize=SEGMENTS_KEPT)(self._tokenised)
        if max_doc_tokens <= len(self._doc_end):
            raise BadQuery(f"max_doc_tokens must be over {len(self._doc_end)}", field="max_doc_tokens")

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, max_doc_tokens: int, max_question_tokens: int) -> PromptTemplate:
        """The template of a checkpoint's tokenizer; ModelError if it has none."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.location)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{checkpoint.name!r} has no tokenizer that can be loaded: {error}") from error
        return cls(tokenizer, max_doc_tokens=max_doc_tokens, max_question_tokens=max_question_tokens)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that turns generated ids back into text."""
        return self._template_tokenizer

    def check_question(self, question: str) -> None:
        """Raises BadQuery or QuestionTooLong for a question that no prompt can be built from."""
        if not question.strip():
            raise BadQuery("the question is empty", field="question")
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise BadQuery(
                "the question holds half of a surrogate pair, which is not text", field="question"
            ) from error
        limit = self.max_question_tokens
        # the first test keeps a huge text from the tokenizer
        count = limit + 1 if len(question) > limit * MAX_CHARACTERS_PER_TOKEN else len(self._text(question))
        if count > limit:
            raise QuestionTooLong(
                f"the question is longer than {limit} tokens ({len(question)} characters)",
                field="question",
                limit=limit,
            )

    @property
    def longest_document(self) -> int:
        """Characters of a document's text that a prompt can tell from a longer one, which it cuts."""
        return self.max_doc_tokens * MAX_CHARACTERS_PER_TOKEN + 1

    def document(self, document: Document) -> Segment:
        """The segment of a document, cut to `max_doc_tokens`."""
        longest = self.longest_document  # so that what is cut is not remembered
        return self._document(document.id, document.title[:longest], document.text[:longest])

    def _tokenised(self, label: str, title: str, text: str) -> Segment:
        whole = f"{title}\n{text}" if title else text
        head = whole[: self.max_doc_tokens * MAX_CHARACTERS_PER_TOKEN]
        tokens = self._text(head)
        room = self.max_doc_tokens - len(self._doc_end)
        truncated = len(head) < len(whole) or len(tokens) > room
        return Segment.of(label, tokens[:room] + self._doc_end, truncated)

    def question(self, question: str) -> tuple[int, ...]:
        """Token ids of everything behind the documents, up to where the answer starts."""
        return (*self._text(f"Question: {question.strip()}"), *self._after)

    def build(self, question: str, documents: Sequence[Document], *, room: int) -> Prompt:
        """The prompt, or BadQuery if it is longer than `room` tokens.

        `documents` come best first. Passages that follow one another in their text are joined, see `retrieval.joined`;
        the overlap is left out only where the prompt holds it already, so not behind a passage that was cut short. The
        label of a segment is the id of its document. Neighbours stay together where a prompt is arranged anew, and
        documents that are not `movable` where they are.
        """
        ending = self.question(question)
        runs: list[list[Segment]] = []  # of passages that follow one another
        movable: list[bool] = []
        length = len(self.system) + len(ending)
        before: Document | None = None
        for count, document in enumerate(reading_order(documents), 1):
            joins = before is not None and follows(before, document)
            if before is not None and joins and not runs[-1][-1].truncated:
                segment = self.document(continuation(before, document))
            else:
                segment = self.document(document)
            if joins:
                runs[-1].append(segment)
                movable[-1] &= document.movable
            else:
                runs.append([segment])
                movable.append(document.movable)
            before = document
            length += len(segment)
            if length > room:
                raise BadQuery(
                    f"{len(documents)} documents do not fit: system prompt, question and the first {count} "
                    f"take {length} tokens, {room} fit before the answer; ask for a smaller top_k, or "
                    "serve with a smaller --max-doc-tokens",
                    field="top_k",
                    limit=room,
                )
        groups = [Group(tuple(run), free) for run, free in zip(runs, movable, strict=True)]
        return Prompt.of([self.system], groups, ending)

    def _template(self, text: str) -> list[int]:
        return self._template_tokenizer.encode(text, add_special_tokens=False).ids

    def _text(self, text: str) -> list[int]:
        return self._text_tokenizer.encode(text, add_special_tokens=False).ids


def _plain_copy(backend: Tokenizer, *, specials_as_text: bool) -> Tokenizer:
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    copy.encode_special_tokens = specials_as_text
    return copy


def _chat_frame(tokenizer: Any) -> tuple[str, str]:
    """What the chat template puts before the documents, and behind the question."""
    mark = "\x00content\x00"
    if tokenizer.chat_template is None:
        return f"{tokenizer.bos_token or ''}{SYSTEM_PROMPT}\n\n", "\n\nAnswer:"
    turns = [
        [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": mark}],
        [{"role": "user", "content": f"{SYSTEM_PROMPT}\n\n{mark}"}],
    ]
    for messages in turns:  # some templates refuse a system turn
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception:  # a Jinja template raises what it likes
            continue
        if text.count(mark) == 1 and SYSTEM_PROMPT in text:
            before, after = text.split(mark)
            return before, after
    raise ModelError("the model's chat template renders neither a system and a user turn nor a user turn alone")
