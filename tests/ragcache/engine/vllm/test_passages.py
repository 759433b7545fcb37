"""A prompt's segments are whole blocks, spell it from its first token on, and end where documents do, rounded down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcache.engine.vllm.wire.passages import BadBoundaries, lengths_of, passages


@given(st.lists(st.integers(1, 60), max_size=6), st.integers(0, 40), st.sampled_from([1, 4, 16]))
def test_segments_spell_the_documents_in_whole_blocks(lengths, question, block):
    tokens = list(range(sum(lengths) + question))
    segments = passages(tokens, lengths, block, 32)
    assert [token for segment in segments for token in segment.tokens] == tokens[: sum(lengths) // block * block]
    assert all(len(segment) % block == 0 for segment in segments)
    ends = {sum(lengths[: n + 1]) // block * block for n in range(len(lengths))}
    end = 0
    for segment in segments:
        end += len(segment)
        assert end in ends


@pytest.mark.parametrize(
    ("tokens", "block", "chunk", "sizes"),
    [
        (100, 16, 32, [32, 32, 32]),
        (100, 16, 40, [32, 32, 32]),
        (100, 16, 8, [16] * 6),
        (10, 16, 32, []),
        (64, 16, 32, [32, 32]),
    ],
)
def test_without_boundaries_it_is_cut_into_chunks(tokens, block, chunk, sizes):
    assert [len(segment) for segment in passages(list(range(tokens)), None, block, chunk)] == sizes


def test_a_document_shares_its_segment_only_behind_the_same_tokens():
    one = passages([1] * 6 + [2] * 8, [6, 8], 4, 32)
    other = passages([1] * 5 + [9] + [2] * 8, [6, 8], 4, 32)
    assert one[0].key == other[0].key  # the block that both have whole
    assert one[1].key != other[1].key


@pytest.mark.parametrize("params", [None, {}, {"other": 1}, "text", 7])
def test_a_request_may_say_nothing_of_boundaries(params):
    assert lengths_of(params, 10) is None


@pytest.mark.parametrize("lengths", ["ab", [0], [-1, 5], [1.0], [True], [11], [5, 6], {"a": 1}, None])
def test_nonsense_is_refused(lengths):
    with pytest.raises(BadBoundaries):
        lengths_of({"segments": lengths}, 10)


def test_boundaries_are_taken_as_they_are():
    assert lengths_of({"segments": [4, 6]}, 10) == [4, 6]
    assert lengths_of({"segments": []}, 10) == []
