"""Text of an answer, token by token, whatever a tokenizer makes of the pieces."""

from tokenizers import Tokenizer, decoders, models

from ragcache.engine.torch.sampler import Sampler
from ragcache.service.answer import Answer, Delta, Query
from tests.props.asking import OTTERS, events_of, run


def test_text_that_a_tokenizer_takes_back_does_not_break_an_answer(make_service, monkeypatch):
    """Bytes that turn out not to be UTF-8 change text that was streamed already."""
    service = make_service()
    tokens = {}
    for byte in range(256):
        tokens[byte] = service.finder._template.tokenizer.token_to_id(_byte_letter(byte))
    strange = [0xC3, 0xA9, 0xE2, 0x82, 0xFF, 0x61, 0xF0, 0x9F, 0xA6, 0xA6, 0xE2, 0x82, 0x41, 0xC3]
    ids = iter([tokens[byte] for byte in strange] + [tokens[0x42]] * 2)
    monkeypatch.setattr(Sampler, "choose", lambda *_: (next(ids), 1.0))
    events = run(events_of(service, Query(OTTERS)))
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert answer.answer == bytes([*strange, 0x42, 0x42]).decode(errors="replace")
    assert "".join(e.text for e in events if isinstance(e, Delta)) == answer.answer


def test_a_tokenizer_that_contradicts_itself_does_not_break_an_answer(make_service, monkeypatch):
    """With byte fallback, as in Llama 2, one wrong byte makes a whole run of bytes no text, said or not."""
    service = make_service()
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256, "<unk>": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    ids = iter([256, 0xC3, 0xA9, 0xFF, *[256] * 12])
    monkeypatch.setattr(service.finder._template, "_template_tokenizer", tokenizer)
    monkeypatch.setattr(Sampler, "choose", lambda *_: (next(ids), 1.0))
    events = run(events_of(service, Query(OTTERS)))
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert "".join(e.text for e in events if isinstance(e, Delta)) == answer.answer
    assert answer.answer.startswith("aé\ufffd")
    assert answer.answer.endswith("aaaa")
    assert answer.usage.completion_tokens == 16


def _byte_letter(byte: int) -> str:
    """The letter that stands for a byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))
