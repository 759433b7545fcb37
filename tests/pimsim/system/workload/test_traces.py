"""Documents and lengths out of files: every common spelling is read, what is wrong is named with its line."""

import collections
import gzip
import json
import random

import numpy as np
import pytest

from pimsim.errors import TraceError, WorkloadError
from pimsim.system.run.simulation import run
from pimsim.system.workload.popularity import popularity
from pimsim.system.workload.requests import Documents, earlier_documents, requests
from pimsim.system.workload.traces import document_lists, lengths
from tests.pimsim.props.systems import config

PLAIN = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50,396,109\n"
PASSAGES = '{"hash_ids": {"passages_ids": [4, 5, 4]}}\n{"hash_ids": {"passages_ids": []}}\n[7]\n{"documents": [8, 4]}\n'


def written(folder, content, name="trace"):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\n\n"),
        "\n\n" + PLAIN.rstrip(),
        PLAIN.replace("374", "374.0").replace("109", " 109 "),
        '"GeneratedTokens","TIMESTAMP, in UTC", "ContextTokens"\n"44","a,\nb","374"\n109,,396\n,,\n',
        "Model,GeneratedTokens,ContextTokens,Log\nm,44,374\nm,109,396,,\n",
    ],
)
@pytest.mark.parametrize("name", ["lengths.csv", "lengths.csv.gz"])
def test_lengths_are_read_in_any_spelling(tmp_path, text, name):
    assert lengths(written(tmp_path, text, name), 10) == [(374, 44), (396, 109)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"line 1: the header must name ContextTokens and GeneratedTokens once, not ''"),
        ("ContextTokens,Generated\n1,2\n", "line 1: the header"),
        ("ContextTokens,GeneratedTokens,ContextTokens\n1,2,3\n", "line 1: the header"),
        ("ContextTokens,GeneratedTokens\n", "no rows"),
        ("ContextTokens,GeneratedTokens\n400,many\n", "line 2: GeneratedTokens must be a whole number .*'many'"),
        ("ContextTokens,GeneratedTokens\n\n1,1\n400\n", "line 4: GeneratedTokens must be .* not ''"),
        ("ContextTokens,GeneratedTokens\n,4\n", "line 2: ContextTokens must be .* not ''"),
        ("ContextTokens,GeneratedTokens\n3.5,4\n", "line 2: ContextTokens must be .*'3.5'"),
        ("ContextTokens,GeneratedTokens\n3,0\n", "line 2: GeneratedTokens must be .*'0'"),
        ("ContextTokens,GeneratedTokens\nnan,4\n", "line 2: ContextTokens"),
        ("ContextTokens,GeneratedTokens\n1e300,4\n", "line 2: ContextTokens"),
        ("ContextTokens,GeneratedTokens\n" + "9" * 5000 + ",4\n", "line 2: ContextTokens .*…"),
        ("ContextTokens,GeneratedTokens\n" + "9" * 200_000 + ",4\n", "line 2: not CSV"),
        (b"ContextTokens,GeneratedTokens\n\xff,4\n", "cannot be read"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-12], "cannot be read"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:20] + b"\0" * 20, "cannot be read"),
    ],
)
def test_a_wrong_length_is_named_with_its_line(tmp_path, text, says):
    with pytest.raises(TraceError, match=says) as raised:
        lengths(written(tmp_path, text), 10)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("text", [PASSAGES, "\ufeff" + PASSAGES, PASSAGES.replace("\n", "\r\n\n"), PASSAGES.rstrip()])
@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_documents_are_read_in_any_spelling(tmp_path, text, name):
    assert document_lists(written(tmp_path, text, name), 10) == [(4, 5), (7,), (8, 4)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no line names documents"),
        ('{"passages": [1]}\n', "no line names documents; each is a list"),
        ('{"hash_ids": {"passages_ids": null}}\n', "no line names documents"),
        ('\n{"documents": ["four"]}\n', "line 2: documents must be whole numbers, not 'four'"),
        ("[1, null]\n", "line 1: documents must be whole numbers, not None"),
        ("[1.5]\n", "line 1: documents must be whole numbers, not 1.5"),
        ("[true]\n", "line 1: documents must be whole numbers, not True"),
        ('{"documents": 4}\n', "line 1: documents must be a list"),
        ("4\n", "line 1: documents must be a list"),
        ("[1]\n[2\n", "line 2: not JSON"),
        ("[" * 100_000 + "\n", "line 1: not JSON"),
    ],
)
def test_wrong_documents_are_named_with_their_line(tmp_path, text, says):
    with pytest.raises(TraceError, match=says) as raised:
        document_lists(written(tmp_path, text), 10)
    assert "\n" not in str(raised.value)


def test_no_more_is_read_than_is_wanted_and_a_changed_file_is_read_again(tmp_path):
    assert len(lengths(written(tmp_path, PLAIN + "wrong,wrong\n"), 2)) == 2
    path = written(tmp_path, "[1.0]\n[2]\nwrong\n")
    assert document_lists(path, 2) == [(1,), (2,)]
    written(tmp_path, "[1]\n[3]\n[4]\n")
    assert document_lists(path, 2) == [(1,), (3,)]


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path):
    for field in ("workload__lengths_file", "workload__documents_file"):
        with pytest.raises(TraceError, match="none: cannot be read"):
            run(config(**{field: str(tmp_path / "none")}))
        with pytest.raises(TraceError, match="cannot be read"):
            run(config(**{field: str(tmp_path)}))


def test_popularity_is_that_of_the_trace(tmp_path):
    drawn = np.random.default_rng(3).zipf(1.5, 6000) + 1000
    text = "".join(json.dumps(sorted(set(drawn[i : i + 6].tolist()))) + "\n" for i in range(0, 6000, 6))
    described = config(workload__documents_file=written(tmp_path, text)).workload
    counted = popularity(described)
    counts = collections.Counter(document for line in text.splitlines() for document in json.loads(line))
    assert dict(zip(counted.documents.tolist(), counted.shares.tolist(), strict=True)) == pytest.approx(
        {document: count / counts.total() for document, count in counts.items()}
    )
    assert (np.diff(counted.shares) <= 0).all()
    documents, rng = Documents(described), random.Random(1)
    first = sum(documents.one(rng, []) == counted.documents[0] for _ in range(4000)) / 4000
    assert first == pytest.approx(counted.shares[0], abs=0.03)


def test_requests_follow_those_that_came_before_and_the_trace_begins_again(tmp_path):
    text = "".join(f"[{i}, {i + 1}]\n" if i % 2 else f"[{i}]\n" for i in range(5))
    described = config(
        workload__documents_file=written(tmp_path, text), workload__warm_requests=3, workload__requests=4
    )
    assert earlier_documents(described) == [[0], [1, 2], [2]]
    assert [request.documents for request in requests(described)] == [[3, 4], [4], [0], [1, 2]]


@pytest.mark.parametrize("every", [0, 16])
def test_requests_may_have_any_number_of_documents(tmp_path, every):
    text = "".join(json.dumps(list(range(3 * i, 3 * i + 1 + i * 5 % 14))) + "\n" for i in range(6))
    described = config(
        "heterrag-base",
        workload__documents_file=written(tmp_path, text),
        workload__retrieve_every=every,
        search__effort=2000.0,
    )
    outcome = run(described)
    needed = outcome.counts["prefilled_tokens"] - outcome.counts["wasted_tokens"]
    documents = sum(1 + i * 5 % 14 for i in range(6)) * described.workload.document_tokens
    prompts = documents + 6 * described.workload.question_tokens
    assert needed == prompts if not every else needed > prompts


def test_a_prompt_shorter_than_its_documents_is_them_and_told(tmp_path):
    rows = "ContextTokens,GeneratedTokens\n400,5\n2000,9\n"
    described = config("heterrag-base", workload__lengths_file=written(tmp_path, rows))
    of_documents = described.workload.documents * described.workload.document_tokens
    drawn = requests(described)
    assert [request.question for request in drawn] == [1, 2000 - of_documents] * 3
    assert [request.output for request in drawn] == [5, 9] * 3
    warnings = run(described).as_dict()["provenance"]["warnings"]
    assert any("3 prompts of the trace are shorter than their documents" in warning for warning in warnings)


def test_the_request_that_memory_cannot_hold_is_named(tmp_path):
    rows = "ContextTokens,GeneratedTokens\n400,5\n400,5\n90000000,9\n"
    with pytest.raises(WorkloadError, match=r"request 3 has 90000009 tokens and needs .* GB of KV, and .* GB are left"):
        run(config(workload__lengths_file=written(tmp_path, rows)))
