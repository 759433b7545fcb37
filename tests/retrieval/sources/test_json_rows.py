"""Rows of JSON: the same as in JSON lines, read in pieces, and none lost by a wrong one before it."""

import json
from pathlib import Path

import pytest

from retrieval.sources import json_rows
from tests.retrieval.sources.row_files import read


def test_json_is_a_list_an_object_or_several(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text, ids in [
        ('  [{"id": 1, "text": "x"}, {"id": 2, "text": "y"}] ', ["1", "2"]),
        ('{"id": 1, "text": "x",\n "more": {"a": 1.5}}', ["1"]),
        ('{"id": 1, "text": "x"}\n{"id": 2, "text": "y"}', ["1", "2"]),
        ('[{"id": 1, "text": "x"}][{"id": 2, "text": "y"}]', ["1", "2"]),
    ]:
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            file.write_text(text, encoding=encoding)
            documents, said = read(file)
            assert ([document.id for document in documents], said) == (ids, [])


GOOD, LAST = '{"id": 1, "text": "x"}', '{"id": 3, "text": "z"}'


@pytest.mark.parametrize(
    ("text", "ids", "reasons"),
    [
        (f'[{GOOD}, {{"id":', ["1"], ["2: not JSON", "3: not JSON (the list does not end)"]),
        (f"[{GOOD}, oops]", ["1"], ["2: not JSON"]),
        (f"[{GOOD}", ["1"], ["2: not JSON (the list does not end)"]),
        (f"[{GOOD}, oops, {LAST}]", ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": }}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "a \\x ] }} b"}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": [1}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "y,\n "k": 1}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "y\\\n"}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "one\ntwo"}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD},\n {{"id": 2,\n  "text": "y\n }},\n {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f"[{GOOD},, }} ,{LAST}]", ["1", "3"], ["2: not JSON", "3: not JSON"]),
        (f"[{GOOD}, " + "[" * 3000 + "]" * 3000 + f", {LAST}]", ["1", "3"], ["2: not JSON (nested too deep)"]),
        (f"[{GOOD}, [1], {LAST}]", ["1", "3"], ["2: the row is a JSON array"]),
        (f"{GOOD} {{oops}} {LAST}", ["1", "3"], ["2: not JSON"]),
        (f"{GOOD} oops {LAST}", ["1", "3"], ["2: not JSON"]),
        (f"{GOOD}] {LAST}", ["1", "3"], ["2: not JSON"]),
    ],
)
def test_a_wrong_row_of_json_costs_no_other(tmp_path: Path, text: str, ids: list[str], reasons: list[str]) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    documents, said = read(file)
    assert [document.id for document in documents] == ids
    assert len(said) == len(reasons)
    for line, reason in zip(said, reasons, strict=True):
        assert line.startswith(f"a.json:{reason}")


@pytest.mark.parametrize(
    "value", ["18446744073709551615", "-9223372036854775809", "NaN", "-Infinity", "1e400", "1.5", '"\\ud800"', "[[]]"]
)
def test_json_and_json_lines_read_the_same_values(tmp_path: Path, value: str) -> None:
    row = f'{{"id": 1, "text": "x", "more": {value}}}'
    (tmp_path / "a.json").write_text(f"[{row}, {LAST}]")
    (tmp_path / "a.jsonl").write_text(f"{row}\n{LAST}\n")
    documents, said = read(tmp_path / "a.json")
    assert [document.id for document in documents] == ["1", "3"]
    assert said == []
    assert repr(documents) == repr(read(tmp_path / "a.jsonl")[0])  # NaN is not equal to itself


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_rows_of_json_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(json_rows, "PIECE", piece)
    rows = [{"id": n, "text": 'a "b" \\ ] } , é\n' * n, "k": [{"a": [1.5, None]}, "\U0001f600"]} for n in range(1, 9)]
    file = tmp_path / "a.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=2), "".join(json.dumps(row) for row in rows)):
        file.write_text(text)
        documents, said = read(file)
        assert said == []
        assert [(int(each.id), each.text, each.extra["k"]) for each in documents] == [
            (row["id"], row["text"], row["k"]) for row in rows
        ]


def test_half_pairs_and_deep_nesting_are_named(tmp_path: Path) -> None:
    half, deep = '{"id": 2, "text": "\\ud800"}', '{"id": 2, "text": "y", "k": ' + "[" * 100 + "]" * 100 + "}"
    for row, reason in [(half, "2: 'text' holds half of a surrogate pair"), (deep, "2: holds lists and objects more")]:
        (tmp_path / "a.json").write_text(f"[{GOOD}, {row}, {LAST}]")
        (tmp_path / "a.jsonl").write_text(f"{GOOD}\n{row}\n{LAST}\n")
        for name in ("a.json", "a.jsonl"):
            documents, said = read(tmp_path / name)
            assert [document.id for document in documents] == ["1", "3"]
            assert len(said) == 1
            assert said[0].startswith(f"{name}:{reason}")
