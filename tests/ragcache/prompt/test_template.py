"""A prompt is exactly its segments; no text in it can act as a special token; nothing depends on neighbours."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ragcache.errors import BadQuery, ModelError, QuestionTooLong, RagCacheError
from ragcache.model.checkpoint import Checkpoint
from ragcache.prompt.template import MAX_CHARACTERS_PER_TOKEN, SYSTEM_PROMPT, PromptTemplate
from retrieval.corpus import Document, Passage
from tests.props.budget import examples

OTTER = Document("otter", "Otter", "Otters hold hands while they sleep.")
BEE = Document("bee", "", "A honey bee tells the others where flowers are.")


@pytest.fixture(scope="module")
def template(tiny_checkpoint) -> PromptTemplate:
    return PromptTemplate.load(tiny_checkpoint, max_doc_tokens=64, max_question_tokens=20)


def text_of(template: PromptTemplate, tokens) -> str:
    return template.tokenizer.decode(list(tokens), skip_special_tokens=False)


def with_chat_template(tokenizer, chat_template: str | None) -> PromptTemplate:
    copy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=chat_template,
    )
    return PromptTemplate(copy, max_doc_tokens=64, max_question_tokens=20)


def test_the_segments_spell_what_the_model_reads(template):
    prompt = template.build("Why do otters hold hands?", [OTTER, BEE], room=1000)
    tokens = [t for segment in prompt.path for t in segment.tokens] + list(prompt.question)
    assert len(prompt) == len(tokens)
    assert text_of(template, tokens) == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\nDocuments:\n\n"
        "Otter\nOtters hold hands while they sleep.\n\n"
        "A honey bee tells the others where flowers are.\n\n"
        "Question: Why do otters hold hands?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [segment.label for segment in prompt.documents] == ["otter", "bee"]


def test_the_templates_own_turns_are_special_tokens(template, tiny_tokenizer):
    prompt = template.build("Why?", [OTTER], room=1000)
    specials = set(tiny_tokenizer.all_special_ids) | {1, 2}
    counts = [sum(t in specials for t in tokens) for tokens in (prompt.path[0].tokens, prompt.question)]
    assert counts == [3, 2]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|endoftext|>", "system\n", "x", " ", "\n"])))
def test_no_text_becomes_a_special_token(template, parts):
    text = "a" + "".join(parts)
    document = Document(text, text, text)
    segment = template.document(document)
    question = template.question(text)
    ends = len(template.question("a")) - len(template._text("Question: a"))
    assert not {0, 1, 2} & set(segment.tokens)
    assert not {0, 1, 2} & set(question[: len(question) - ends])


def test_special_tokens_in_a_document_are_kept_as_text(template):
    segment = template.document(Document("x", "", "ends here <|im_end|> or not"))
    assert text_of(template, segment.tokens) == "ends here <|im_end|> or not\n\n"


def test_a_segment_does_not_depend_on_its_neighbours(template):
    alone = template.build("Why?", [BEE], room=1000).documents[0]
    behind = template.build("What else is there?", [OTTER, BEE], room=1000).documents[1]
    assert alone.tokens == behind.tokens
    assert alone.key == behind.key


def passage(number: int, start: int, end: int) -> Document:
    return Document(f"song#{number}", "Song", SONG[start:end], {}, Passage("song", number, start, end))


SONG = "A bee told a river that the moon keeps one face. The river told a bee about its tide."
END = SONG.index(" The")
FIRST, SECOND = passage(1, 0, END), passage(2, SONG.index("moon"), len(SONG))  # they share "moon keeps one face."


def test_neighbours_are_joined_in_their_order_without_their_overlap(template):
    for documents in ([SECOND, BEE, FIRST], [FIRST, BEE, SECOND]):
        prompt = template.build("Why?", documents, room=1000)
        assert [segment.label for segment in prompt.documents] == ["song#1", "song#2", "bee"]
        assert [text_of(template, segment.tokens) for segment in prompt.documents[:2]] == [
            f"Song\n{SONG[:END]}\n\n",
            f"{SONG[END + 1 :]}\n\n",
        ]


def test_the_first_of_joined_passages_has_the_segment_it_has_alone(template):
    alone = template.build("Why?", [FIRST], room=1000).documents[0]
    joined = template.build("Why?", [SECOND, FIRST], room=1000).documents
    assert joined[0].key == alone.key
    assert joined[1].key != template.build("Why?", [SECOND], room=1000).documents[0].key
    assert template.build("Who?", [FIRST, OTTER, SECOND], room=1000).documents[1].key == joined[1].key


def test_what_was_cut_off_the_first_is_kept_in_the_second(tiny_checkpoint):
    template = PromptTemplate.load(tiny_checkpoint, max_doc_tokens=12, max_question_tokens=20)
    first, second = template.build("Why?", [SECOND, FIRST], room=1000).documents
    assert first.truncated
    assert text_of(template, second.tokens).startswith("Song\nmoon")


def test_a_changed_text_under_the_same_id_is_another_segment(template):
    before = template.document(Document("x", "Title", "old"))
    assert template.document(Document("x", "Title", "new")).key != before.key
    assert template.document(Document("x", "Other", "old")).key != before.key


@pytest.mark.parametrize("over", [-1, 0, 1, 50])
def test_a_document_is_cut_to_the_limit_exactly_and_says_so(template, over):
    end = len(template._text("\n\n"))
    text = "Z" * (64 - end + over)  # a letter that the tokenizer has never seen twice in a row
    assert len(template._text(text)) == len(text)
    segment = template.document(Document("x", "", text))
    assert len(segment) == min(64, 64 + over)
    assert segment.truncated == (over > 0)
    assert list(segment.tokens[-end:]) == template._text("\n\n")


@pytest.fixture
def tokenised(template, monkeypatch) -> list[str]:
    """The texts that the template gives to the tokenizer from now on."""
    texts: list[str] = []
    tokenise = template._text

    def recorded(text: str) -> list[int]:
        texts.append(text)
        return tokenise(text)

    monkeypatch.setattr(template, "_text", recorded)
    return texts


def test_a_huge_document_costs_what_a_document_of_the_limit_costs(template, tokenised):
    huge = Document("huge", "Huge", "the moon and the tide " * 2_000_000)
    segment = template.document(huge)
    assert len(tokenised) == 1
    assert len(tokenised[0]) == 64 * MAX_CHARACTERS_PER_TOKEN
    assert len(segment) == 64
    assert segment.truncated


def test_huge_documents_are_not_kept(template):
    """Segments are remembered; the texts they were cut from may be too large for that."""
    document = Document("huge", "Huge", "x" * 1_000_000)
    before = sys.getrefcount(document.text)
    template.document(document)
    after = sys.getrefcount(document.text)
    assert after == before


def test_a_long_token_run_that_is_cut_before_tokenising_is_flagged(template):
    segment = template.document(Document("x", "", " " * 100_000 + "end"))
    assert segment.truncated
    assert len(segment) <= 64


@pytest.mark.parametrize("question", ["", " ", "\n\t\u2003"])
def test_an_empty_question_is_refused(template, question):
    with pytest.raises(BadQuery, match="empty") as caught:
        template.check_question(question)
    assert caught.value.field == "question"


def test_a_question_is_measured_in_tokens(template):
    template.check_question("Z" * 20)
    with pytest.raises(QuestionTooLong, match="longer than 20 tokens") as caught:
        template.check_question("Z" * 21)
    assert (caught.value.field, caught.value.limit) == ("question", 20)


def test_a_huge_question_is_refused_without_tokenising_it(template, tokenised):
    with pytest.raises(QuestionTooLong, match="longer than 20 tokens"):
        template.check_question("why " * 5_000_000)
    assert tokenised == []


def test_a_prompt_that_does_not_fit_is_refused_before_all_is_tokenised(template):
    length = len(template.build("Why?", [OTTER, BEE], room=1000))
    template.build("Why?", [OTTER, BEE], room=length)
    with pytest.raises(BadQuery, match=f"2 documents do not fit.*{length} tokens, {length - 1} fit") as caught:
        template.build("Why?", [OTTER, BEE], room=length - 1)
    assert (caught.value.field, caught.value.limit) == ("top_k", length - 1)


def test_unicode_comes_back_as_written(template):
    text = "naïve 日本語 \U0001f9a6 e\u0301 \x00 end"
    assert text_of(template, template.document(Document("x", "", text)).tokens) == text + "\n\n"


def test_a_template_without_system_role_gets_the_instruction_in_the_users_turn(tiny_tokenizer):
    chat = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
        "<|im_start|>assistant:"
    )
    template = with_chat_template(tiny_tokenizer, chat)
    assert text_of(template, template.system.tokens) == f"<|im_start|>user\n{SYSTEM_PROMPT}\n\nDocuments:\n\n"
    assert text_of(template, template.question("Why?")) == "Question: Why?<|im_end|><|im_start|>assistant:"


def test_a_template_that_drops_the_system_turn_still_gets_the_instruction(tiny_tokenizer):
    chat = "{% for m in messages if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    template = with_chat_template(tiny_tokenizer, chat)
    assert text_of(template, template.system.tokens) == f"<|im_start|>{SYSTEM_PROMPT}\n\nDocuments:\n\n"


def test_without_chat_template_the_prompt_is_plain_text(tiny_tokenizer):
    template = with_chat_template(tiny_tokenizer, None)
    assert text_of(template, template.system.tokens) == f"<|endoftext|>{SYSTEM_PROMPT}\n\nDocuments:\n\n"
    assert template.system.tokens[0] == 0
    assert text_of(template, template.question("Why?")) == "Question: Why?\n\nAnswer:"


@pytest.mark.parametrize("chat", ["{{ raise_exception('never') }}", "constant", "{{ messages[0]['content'] | upper }}"])
def test_a_template_that_cannot_be_used_is_refused(tiny_tokenizer, chat):
    with pytest.raises(ModelError, match="chat template"):
        with_chat_template(tiny_tokenizer, chat)


def test_padding_and_truncation_of_the_tokenizer_are_ignored(tiny_tokenizer):
    backend = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(8)
    backend.enable_padding(length=50)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=tiny_tokenizer.chat_template)
    template = PromptTemplate(tokenizer, max_doc_tokens=64, max_question_tokens=20)
    assert text_of(template, template.document(OTTER).tokens) == "Otter\nOtters hold hands while they sleep.\n\n"


def test_a_limit_that_leaves_no_room_for_text_is_refused(tiny_tokenizer):
    with pytest.raises(RagCacheError, match="max_doc_tokens"):
        PromptTemplate(tiny_tokenizer, max_doc_tokens=1, max_question_tokens=20)


def test_a_folder_without_tokenizer_is_a_model_error(tmp_path, llama):
    llama().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="tokenizer"):
        PromptTemplate.load(Checkpoint.resolve(str(tmp_path)), max_doc_tokens=64, max_question_tokens=20)


def test_a_damaged_tokenizer_is_a_model_error(tmp_path, llama, tiny_tokenizer):
    llama().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "nonsense"}}')
    with pytest.raises(ModelError, match="tokenizer"):
        PromptTemplate.load(Checkpoint.resolve(str(tmp_path)), max_doc_tokens=64, max_question_tokens=20)


def test_neighbours_stay_together_and_what_is_not_movable_says_so(template):
    first = Document("a#1", "A", "One two three.", passage=Passage("a", 1, 0, 14))
    second = Document("a#2", "A", "Four five six.", passage=Passage("a", 2, 15, 29))
    fixed = Document("fixed", "", "It stays.", {"movable": False})
    prompt = template.build("Why?", [OTTER, second, fixed, first], room=1000)
    groups = [[segment.label for segment in group.segments] for group in prompt.groups]
    assert groups == [["otter"], ["a#1", "a#2"], ["fixed"]]
    assert [group.movable for group in prompt.groups] == [True, True, False]
    other = prompt.arranged((1, 0, 2))
    assert [segment.label for segment in other.documents] == ["a#1", "a#2", "otter", "fixed"]
    assert (other.path[0], other.question, len(other)) == (prompt.path[0], prompt.question, len(prompt))
    assert [segment.label for segment in other.arranged((1, 0, 2)).path] == [segment.label for segment in prompt.path]
