"""Profiles of searches: what was recorded comes back, for these documents or for others, and bad files are named."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragcache.cli.main import main
from ragcache.errors import ConfigError
from ragcache.replay.search_profile import SearchProfile, positions
from ragcache.replay.search_recording import record
from retrieval.embedder import Embedder
from retrieval.index import build_index
from retrieval.retriever import Retriever
from retrieval.staged_search import even_shares
from tests.props.budget import examples
from tests.props.small_replays import searches


def test_positions_are_those_of_the_last_stage():
    assert positions([[7, 9], [9, 4], [4, 9]]) == ((-1, 1), (1, 0), (0, 1))
    assert positions([[5, 7, 5 + 1], [1], [3, 1]]) == ((-1, -2, -3), (1,), (0, 1))
    assert positions([[3]]) == ((0,),)


@st.composite
def searched(draw: st.DrawFn, most: int = 6) -> list[list[int]]:
    """The stages of one search: rows of an index, each once a stage."""
    row = st.integers(0, 12)
    last = draw(st.lists(row, min_size=1, max_size=most, unique=True))
    return [*draw(st.lists(st.lists(row, max_size=len(last), unique=True), max_size=4)), last]


@given(stages=searched())
def test_the_recorded_documents_come_back(stages):
    profile = searches((0.5,) * len(stages), positions(stages))
    outside = []
    for row in (row for stage in stages for row in stage):
        if row not in stages[-1] and row not in outside:
            outside.append(row)
    shown_lists = profile.search(0, stages[-1], lambda j: outside[j - 1])
    assert [seconds for seconds, _ in shown_lists] == [0.5] * len(stages)
    assert [documents for _, documents in shown_lists] == stages


@given(stages=searched(), wanted=st.integers(0, 9))
def test_a_request_ends_with_its_documents_however_many(stages, wanted):
    profile = searches((0.5,) * len(stages), positions(stages))
    documents = [f"mine {number}" for number in range(wanted)]
    shown_lists = [shown for _, shown in profile.search(0, documents, lambda j: f"outsider {j}")]
    assert shown_lists[-1] == documents
    for shown in shown_lists:
        assert len(shown) <= wanted
        assert len(set(shown)) == len(shown)
        assert {name for name in shown if name.startswith("mine")} <= set(documents)


def test_fewer_and_more_documents_than_were_searched_for():
    profile = searches((0.1, 0.2), ((-1, 2, 0), (0, 1, 2)))
    assert profile.search(0, "ab", "-xyz".__getitem__) == [(0.1, ["x", "a"]), (0.2, ["a", "b"])]
    assert profile.search(0, "abcde", "-xyz".__getitem__) == [(0.1, [*"xcade"]), (0.2, [*"abcde"])]

    def outsider(which: int) -> str:
        raise AssertionError(f"a request for no documents is shown none, but {which} was asked for")

    assert profile.search(0, [], outsider) == [(0.1, []), (0.2, [])]


def test_searches_come_by_turns():
    profile = searches((0.1, 0.2), ((1, 0), (0, 1)), ((0, 1), (0, 1)))
    first = [profile.search(number, "ab", str)[0][1] for number in range(5)]
    assert first == [["b", "a"], ["a", "b"], ["b", "a"], ["a", "b"], ["b", "a"]]


def test_scaled_shows_the_same_later():
    profile = searches((0.1, 0.2), ((1, 0), (0, 1)))
    assert profile.scaled(10).stage_seconds == (1.0, 2.0)
    assert profile.scaled(10).lists == profile.lists


def test_settled_is_the_share_that_has_its_final_list_for_good():
    same, late, back = ((0, 1),) * 3, ((1, 0), (0, 1), (0, 1)), ((0, 1), (1, 0), (0, 1))
    assert list(searches((1, 1, 1), same, late, back, late).settled()) == [0.25, 0.75, 1.0]


def test_what_is_saved_is_loaded(tmp_path):
    profile = searches((0.1, 0.2), ((-1, 0), (0, 1)), ((1, 0), (0, 1)))
    profile.save(tmp_path / "s.json")
    assert SearchProfile.load(tmp_path / "s.json") == profile
    before = (tmp_path / "s.json").read_bytes()
    SearchProfile.load(tmp_path / "s.json").save(tmp_path / "s.json")
    assert (tmp_path / "s.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"search_profile": 2}, "{file} is not a search profile of version 1; record it anew"),
        ({"lists": ...}, "{file}: 'lists' is missing"),
        ({"machine": ...}, "{file}: 'machine' is missing"),
        ({"k": 0}, "{file}: 'k' is a number of 1 or more, not 0"),
        ({"k": True}, "{file}: 'k' is a number of 1 or more, not True"),
        ({"effort": "many"}, "{file}: 'effort' is a number of 1 or more, not 'many'"),
        ({"stage_seconds": []}, "{file}: 'stage_seconds' are one number of seconds a stage"),
        ({"stage_seconds": [0.1, -1]}, "{file}: 'stage_seconds' are one number of seconds a stage, each 0 or more"),
        ({"stage_seconds": [0.1, float("nan")]}, "{file}: 'stage_seconds' are one number of seconds a stage"),
        ({"stage_seconds": [0.1, "soon"]}, "{file}: a list of numbers has something else in it"),
        ({"stage_seconds": [0.1, 10**400]}, "{file}: a list of numbers has something else in it"),
        ({"stage_seconds": 3}, "{file}: a list of numbers has something else in it"),
        ({"stage_seconds": [1, 2, 3]}, "{file}: search 1 has 2 stages, the times 3"),
        ({"lists": []}, "{file}: 'lists' has no search"),
        ({"lists": [[[0, 1], [1, 0]]]}, "{file}: the last stage of search 1 shows [1, 0], not [0, 1]"),
        ({"lists": [[[0, 0], [0, 1]]]}, "{file}: search 1 shows [0, 0]: each document once, positions below 2"),
        ({"lists": [[[0, 2], [0, 1]]]}, "{file}: search 1 shows [0, 2]: each document once, positions below 2"),
        ({"lists": [[[0, 1.5], [0, 1]]]}, "{file}: a list of numbers has something else in it: 1.5 is not a position"),
        ({"lists": [5]}, "{file}: a list of numbers has something else in it"),
        ({"lists": [[{}, [0, 1]]]}, "{file}: a list of numbers has something else in it: {{}} is not a list"),
        (
            {"lists": [[[-1, -2, 0], [0, 1]]]},
            "{file}: search 1 shows [-1, -2, 0]: each document once, positions below 2, 2",
        ),
        ({"lists": [[[-9, 0], [0, 1]]]}, "{file}: search 1 has -9 among 1 documents outside its last stage"),
        ({"stage_seconds": "12"}, "{file}: a list of numbers has something else in it: '12' is not a list"),
        ({"stage_seconds": {"1": 2, "2": 3}}, "{file}: a list of numbers has something else in it"),
        ({"stage_seconds": ["0.1", 0.2]}, "{file}: a list of numbers has something else in it: '0.1' is not a number"),
        ({"stage_seconds": [True, 0.2]}, "{file}: a list of numbers has something else in it: True is not a number"),
        ({"machine": 5}, "{file}: 'machine' is a text, not 5"),
        ({"index_type": ["ivf"]}, "{file}: 'index_type' is a text, not ['ivf']"),
        ({"measured_at": None}, "{file}: 'measured_at' is a text, not None"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, changes, says):
    file = tmp_path / "s.json"
    searches((0.1, 0.2), ((1, 0), (0, 1))).save(file)
    row: dict[str, Any] = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in row.items() if value is not ...}))
    with pytest.raises(ConfigError) as error:
        SearchProfile.load(file)
    assert str(error.value).startswith(says.format(file=file))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'"text"', b"{", b"\xff\xfe", b'{"t": 1}', pytest.param(b"[" * 200_000, id="deep")]
)
def test_another_file_is_no_profile(tmp_path, content):
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(ConfigError, match="is not a search profile"):
        SearchProfile.load(tmp_path / "s.json")


def test_searches_of_fewer_stages_show_their_first_list_from_the_beginning():
    rows = {0: [([4, 5], 8)], 1: [([4, 6], 2), ([6, 5], 4), ([5, 6], 8)]}
    progress: list[int] = []
    profile = record(
        lambda vector: iter(rows[int(vector[0])]),
        np.array([[0.0], [1.0]]),
        index_type="ivf",
        indexed=9,
        on_progress=progress.append,
    )
    assert profile.lists == (((0, 1),) * 3, ((-1, 1), (1, 0), (0, 1)))
    assert (profile.k, profile.dim, profile.vectors, profile.effort) == (2, 1, 9, 8)
    assert len(profile.stage_seconds) == 3
    assert progress == [1, 1]


@pytest.fixture(scope="module")
def ivf(tmp_path_factory, tiny_corpus):
    """An index with lists enough to be probed stage by stage."""
    folder = tmp_path_factory.mktemp("profiled")
    rows = [json.loads(line) for line in tiny_corpus.read_text(encoding="utf-8").splitlines()]
    more = [
        {**row, "id": f"{row['id']}-{part}", "text": f"{row['text']} Part {part}."}
        for row in rows
        for part in range(20)
    ]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more), encoding="utf-8")
    build_index(folder / "docs.jsonl", folder / "ivf", "ivf", Embedder.load(threads=1), progress=False)
    return folder / "ivf"


def test_real_searches_are_recorded_as_they_are(tmp_path, ivf, capsys):
    questions = [f"What is special about {topic}?" for topic in ("otters", "a violin", "the tide", "rust", "owls")]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"question": text}) + "\n" for text in questions))
    out = tmp_path / "s.json"
    arguments = ["--index", ivf / "faiss.idx", "--questions", tmp_path / "q.jsonl", "--out", out]
    options = ["--top-k", "3", "--stages", "4", "--limit", "4", "--repeat", "2"]
    assert main(["profile-search", *map(str, arguments), *options]) == 0
    profile = SearchProfile.load(out)
    assert (profile.index_type, profile.vectors, profile.k, len(profile.lists)) == ("ivf", 320, 3, 4)
    assert len(profile.stage_seconds) == 4
    assert min(profile.stage_seconds) > 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4
    with Retriever.open(ivf, threads=1) as retriever:
        for number, question in enumerate(questions[:4]):
            final = [hit.row for hit in retriever.search(question, 3)]
            live = [[hit.row for hit in stage.hits] for stage in retriever.search_stages(question, 3, even_shares(4))]
            assert live[-1] == final
            outside = dict.fromkeys(row for stage in live for row in stage if row not in final)
            replayed = profile.search(number, final, lambda j, outside=outside: list(outside)[j - 1])
            assert [shown for _, shown in replayed][-len(live) :] == live


def test_a_flat_index_has_one_stage_and_that_is_said(tmp_path, tiny_index, capsys):
    (tmp_path / "q.jsonl").write_text('{"question": "Why do otters hold hands?"}\n')
    out = tmp_path / "s.json"
    arguments = ["--index", tiny_index, "--questions", tmp_path / "q.jsonl", "--out", out]
    assert main(["profile-search", *map(str, arguments)]) == 0
    profile = SearchProfile.load(out)
    assert (profile.index_type, profile.lists) == ("flat", (((0, 1),),))
    assert "searches of one stage (flat): they show nothing before they end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--top-k", "0"], "k is 0, but it must be from 1 to 320"),
        (["--top-k", "321"], "k is 321, but it must be from 1 to 320"),
        (["--stages", "0"], ""),
        (["--limit", "0"], "--repeat and --limit must be at least 1"),
        (["--repeat", "0"], "--repeat and --limit must be at least 1"),
        (["--questions", "no.jsonl"], "cannot read no.jsonl: No such file or directory"),
        (["--index", "no/faiss.idx"], "no: there is no index folder"),
        (["--out", "no/s.json"], "cannot write no/s.json: No such file or directory"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(tmp_path, ivf, capsys, options, says):
    (tmp_path / "q.jsonl").write_text('{"question": "Why?"}\n')
    arguments = ["--index", str(ivf), "--questions", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "s.json")]
    assert main(["profile-search", *arguments, *options]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"ragcache profile-search: {says}")
    assert not (tmp_path / "s.json").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "there are no questions to search for"), ('{"q": 1}', "'question' is missing"), ("x", "not valid JSON")],
)
def test_questions_that_are_none(tmp_path, ivf, capsys, text, says):
    (tmp_path / "q.jsonl").write_text(text)
    arguments = ["--index", str(ivf), "--questions", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "s.json")]
    assert main(["profile-search", *arguments]) == 1
    assert says in capsys.readouterr().err


@settings(max_examples=examples(50), deadline=None)
@given(shown_lists=st.lists(searched(most=1), min_size=1, max_size=5))
def test_any_recording_makes_a_profile(shown_lists):
    vectors = np.arange(len(shown_lists), dtype=float).reshape(-1, 1)
    profile = record(
        lambda vector: ((stage, 1) for stage in shown_lists[int(vector[0])]),
        vectors,
        index_type="ivf",
        indexed=13,
        repeat=1,
    )
    for number, stages in enumerate(shown_lists):
        assert len(profile.lists[number]) == max(map(len, shown_lists))
        assert profile.lists[number][-len(stages) :] == positions(stages)
