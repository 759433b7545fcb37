"""Rows of JSON: the same as in JSON lines, read in pieces, and none lost by a wrong one before it."""

import collections
import io
import json
import re
import time
import tracemalloc
from pathlib import Path

import pytest

from retrieval import long_json
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
        (f'[{GOOD}, {{"id":', ["1"], ["2: not JSON from this row on (Expecting value)"]),
        (f"[{GOOD}, oops]", ["1"], ["2: not JSON"]),
        (f"[{GOOD}", ["1"], ["2: not JSON from this row on (the list does not end)"]),
        (f"[{GOOD}, oops, {LAST}]", ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": }}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "a \\x ] }} b"}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": [1}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "y,\n "k": 1}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "y\\\n"}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "one\ntwo"}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f'[{GOOD},\n {{"id": 2,\n  "text": "y\n }},\n {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f"[{GOOD},, }} ,{LAST}]", ["1", "3"], ["2: not JSON", "3: not JSON"]),
        (f'[{GOOD}, {{"k": ' + "[" * 3000 + "]" * 3000 + f"}}, {LAST}]", ["1", "3"], ["2: not JSON (nested too deep)"]),
        (f"[{GOOD}, " + "[" * 3000 + "]" * 3000 + f", {LAST}]", ["1", "3"], ["2: the row is a JSON array"]),
        (f"[{GOOD}, [1], {LAST}]", ["1", "3"], ["2: the row is a JSON array"]),
        (f"{GOOD} {{oops}} {LAST}", ["1", "3"], ["2: not JSON"]),
        (f"{GOOD} oops {LAST}", ["1", "3"], ["2: not JSON"]),
        (f"{GOOD}] {LAST}", ["1", "3"], ["2: not JSON"]),
        (f"{GOOD} {{oops: ", ["1"], ["2: not JSON from this row on"]),
        (f'{GOOD} "id": 2, "text": "y"}} {LAST}', ["1", "3"], ["2: the row is a JSON string", "3: not JSON"]),
        (f'[{GOOD}, {{"id": 2, "text": "y"], "k": 1}}, {LAST}]', ["1", "3"], ["2: not JSON"]),
        (f"[{GOOD} {LAST}]", ["1", "3"], []),
        (f'[{GOOD}, {{"id": {"9" * 5000}, "text": "y"}}, {LAST}]', ["1", "3"], ["2: holds an integer of more digits"]),
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


LAYOUTS = {
    "a list, a row a line": ("[\n", ",\n", "\n]"),
    "a list, commas first": ("[", "\n,", "]\n"),
    "a list, indented": ("[\n  ", ",\n  ", "\n]"),
    "a list, closed and opened on a line": ("[", ", ", "]"),
    "one after another": ("", "\n", "\n"),
}
DAMAGES = {  # what they replace in a row, and by what
    "cut": (r'"text 2".*?(?=\n}|$)', '"te'),
    "no closing quotation mark": ('"text 2"', '"text 2'),
    "no opening quotation mark": ('"text 2"', 'text 2"'),
    "a stray quotation mark": ('"text 2"', '"te"xt 2"'),
    "two quotation marks": ('"text 2"', '"text 2""'),
    "no closing brace": ("}", ""),
    "no opening brace": ("{", ""),
    "a stray closing brace": ("}", "}}"),
    "a stray closing bracket": ("}", "]}"),
    "a stray opening brace": ("{", "{{"),
    "a list never closed": (r'("a"\s*)]', r"\1"),
    "a stray opening bracket": ("{", "[{"),
    "a bracket for a brace": ("{", "["),
    "a raw line end": ("text 2", r"text\n\n2"),
    "code with raw line ends": ("text 2", r"main()\n {\n  2\n }\n"),
    "an escape that is none": ("text 2", r"text \\x"),
}


def damaged(layout: str, damage: str, count: int = 50) -> str:
    """Rows of which the second is damaged."""
    indented = {"a list, indented": "  ", "a list, closed and opened on a line": ""}
    rows = []
    for number in range(1, count + 1):
        row = json.dumps(
            {"id": number, "text": f"text {number}", "tags": ["a"]}, indent=2 if layout in indented else None
        )
        rows.append(row.replace("\n", "\n" + indented.get(layout, "")))
    rows[1] = re.sub(*DAMAGES[damage], rows[1], count=1, flags=re.DOTALL)
    first, between, last = LAYOUTS[layout]
    return first + between.join(rows) + last


@pytest.mark.parametrize("piece", [7, 1 << 16])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_behind_a_damaged_row_the_line_that_begins_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, damage: str, piece: int
) -> None:
    monkeypatch.setattr(json_rows, "PIECE", piece)
    monkeypatch.setattr(json_rows, "LONG_ROW_PIECES", (1 << 20) // piece)
    file = tmp_path / "a.json"
    file.write_text(damaged(layout, damage))
    documents, said = read(file)
    others = [document.id for document in documents if document.id != "2"]  # what is wrong may stand behind a row
    assert others == ["1", *map(str, range(3, 51))]
    assert 1 <= len(said) <= 5  # code in a row may look like rows


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("form", [("[", ", ", "]"), ("", " ", "")])
def test_on_a_single_line_rows_are_read_on_or_said_to_be_lost(
    tmp_path: Path, damage: str, form: tuple[str, str, str]
) -> None:
    rows = [json.dumps({"id": n, "text": f"text {n}", "tags": ["a"]}) for n in range(1, 51)]
    rows[1] = re.sub(*DAMAGES[damage], rows[1], count=1, flags=re.DOTALL)
    file = tmp_path / "a.json"
    file.write_text(form[0] + form[1].join(rows) + form[2])
    documents, said = read(file)
    others = [document.id for document in documents if document.id != "2"]
    expected = ["1", *map(str, range(3, 51))]
    assert said
    assert others == (expected[: len(others)] if "not JSON from this row on" in said[-1] else expected)


@pytest.mark.parametrize("value", ['{"text": "no"}', '[{"text": "no"}]', '[[{"text": "no"}]]'])
@pytest.mark.parametrize("form", ["[{}, {}, {}]", "{}\n{}\n{}"])
def test_a_value_in_a_damaged_row_is_not_taken_for_a_row(tmp_path: Path, form: str, value: str) -> None:
    row = '{"id": 2, "text": "y", "k": ' + value + "}"
    file = tmp_path / "a.json"
    for place in range(row.index(value) - 1):  # up to its colon
        for damage in ("", "}", "]", ",", ":"):
            text = row[:place] + damage + row[place + (not damage) :]
            file.write_text(form.replace("{}", "%s") % (GOOD, text, LAST))
            assert {document.id for document in read(file)[0]} <= {"1", "2", "3", "a.json:2"}


def test_a_nested_object_is_not_taken_for_a_row(tmp_path: Path) -> None:
    rows = [
        {"id": n, "parts": [{"id": f"{n}a", "text": "no"}, {"id": f"{n}b", "text": "no"}], "text": "x"}
        for n in (1, 2, 3)
    ]
    for indent in (1, 2, 4, "\t"):
        text = json.dumps(rows, indent=indent)
        second = text.index('"id": 2,')
        for right, wrong in (('"id": 2,', '"id": 2'), ('"id": "2b",', '"id": "2b,'), ('"no"', '"no')):
            (tmp_path / "a.json").write_text(text[:second] + text[second:].replace(right, wrong, 1))
            documents, said = read(tmp_path / "a.json")
            assert {document.id for document in documents} <= {"1", "2", "3"}
            assert len(documents) == 2
            assert len(said) == 1


@pytest.mark.parametrize("text", ['{"id": 2, "text": "y" "z', '{"id": 2, "text": "y", {', '{"id": 2, "text": "y\n'])
def test_a_wrong_row_keeps_nothing_of_what_follows(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(json_rows, "PIECE", 256)
    whole = io.StringIO(f"[{text}" + "words, {and} more\n" * 30_000)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"."):
            collections.deque(json_rows.json_rows(whole.read), maxlen=0)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_row_that_is_long_beside_its_long_texts_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "PIECE", 8)
    monkeypatch.setattr(json_rows, "LONG_ROW_PIECES", 2)
    monkeypatch.setattr(long_json, "PIECE", 64)
    monkeypatch.setattr(long_json, "MOST_OUTLINE", 500)
    long = json.dumps({"id": 1, "text": "x" * 10_000})
    rows = list(json_rows.json_rows(io.StringIO(f'[{long}, {{"k": [{"1, " * 300} 1]}}, {long}]').read))
    assert [bool(wrong) for _, wrong in rows] == [False, True, False]
    assert "500 characters" in rows[1][1]


@pytest.mark.timing
def test_a_string_with_raw_line_ends_takes_no_more_time_than_its_length() -> None:
    def seconds(lines: int) -> float:
        text = '[{"id": 1, "text": "' + "a line of forty characters, as in prose.\n" * lines + f'"}}, {LAST}]'
        begin = time.perf_counter()
        (_, wrong), (row, _) = json_rows.json_rows(io.StringIO(text).read)
        assert "control character" in wrong
        assert row["id"] == 3
        return time.perf_counter() - begin

    assert seconds(40_000) < 1
