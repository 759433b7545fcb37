"""Traces are read whole, and what is wrong in one is named with its line."""

import gzip

import numpy as np
import pytest

from pimsim import AddressMapping, Standard, Trace, TraceError, simulate
from pimsim.dram import trace as trace_module

DDR4 = Standard.load("ddr4-3200-heterrag")
HEADER = "cycle,op,channel,rank,bg,bank,row,col\n"
GOOD = "0,R,0,1,3,2,99,17\n5,W,0,0,0,0,0,0\n"


@pytest.fixture
def written(tmp_path):
    def write(text: str, packed: bool = False, name: str = "t.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        return path

    return write


def contents(trace: Trace) -> list[list[int]]:
    return [getattr(trace, name).tolist() for name in trace_module.COLUMNS]


EXPECTED = [[0, 5], [0, 1], [0, 0], [1, 0], [3, 0], [2, 0], [99, 0], [17, 0]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "text",
    [HEADER + GOOD, HEADER + GOOD.rstrip("\n"), HEADER + GOOD + "\n \n\n", (HEADER + GOOD).replace("\n", "\r\n")],
)
def test_a_file_is_read(written, text, packed):
    assert contents(Trace.read(written(text, packed))) == EXPECTED


def test_letters_of_both_cases_spaces_and_hexadecimal_numbers(written):
    text = HEADER.replace(",", ", ") + "0, r, 0, 1, 0x3, 2, 0x63, 0X11\n5, w ,0,0,0,0,0,0\n"
    assert contents(Trace.read(written(text))) == EXPECTED


def test_a_file_in_many_pieces_is_the_same(written, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [",".join(map(str, row)) for row in rng.integers(0, 10**5, (500, 6))]
    path = written(HEADER + "".join(f"{i},R,{row}\n" for i, row in enumerate(rows)))
    whole = contents(Trace.read(path))
    for piece in (1, 7, 100, 4096):
        monkeypatch.setattr(trace_module, "PIECE", piece)
        assert contents(Trace.read(path)) == whole
    assert whole[0] == list(range(500))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"t\.csv: the trace is empty: its first line must be cycle,op,channel"),
        (HEADER, r"t\.csv: the trace is empty: there is a header and no request"),
        ("a,b\n1,2\n", r"t\.csv:1: the header must be cycle,op,channel,rank,bg,bank,row,col or cycle,op,address"),
        (HEADER + GOOD + "7,X,0,0,0,0,0,0\n", r"t\.csv:4: op must be R or W, in '7,X,0,0,0,0,0,0'"),
        (HEADER + GOOD + "7,R,0,0,0,0,0\n", r"t\.csv:4: 8 columns are expected"),
        (HEADER + GOOD + "7,R,0,0,0,0,0,0,0\n", r"t\.csv:4: 8 columns are expected"),
        (HEADER + "\n" + GOOD, r"t\.csv:2: 8 columns are expected .* not ''"),
        (HEADER + "7,R,0,-1,0,0,0,0\n", r"t\.csv:2: rank must be a whole number of at least 0"),
        (HEADER + "7,R,0,0,0,0,1.5,0\n", r"t\.csv:2: row must be a whole number"),
        (HEADER + "7,R,0,0,0,,0,0\n", r"t\.csv:2: bank must be a whole number"),
        (HEADER + f"{10**20},R,0,0,0,0,0,0\n", r"t\.csv:2: cycle must be a whole number"),
        (HEADER + "0,R,0,0,0,0,0,0\n" + f"7,R,0,0,0,0,{1 << 40},0\n", r"t\.csv:3: row 1099511627776 is out of range"),
        ("cycle,op,address\n0,R,0\n", r"t\.csv:1: a trace of addresses needs an address mapping"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(written, text, message):
    with pytest.raises(TraceError, match=message):
        Trace.read(written(text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("6,R,1,0,0,0,0,0", r"t\.csv:4: channel 1 is out of range: 0 to 0"),
        ("6,R,0,2,0,0,0,0", r"t\.csv:4: rank 2 is out of range: 0 to 1"),
        ("6,R,0,0,4,0,0,0", r"t\.csv:4: bg 4 is out of range: 0 to 3"),
        ("6,R,0,0,0,4,0,0", r"t\.csv:4: bank 4 is out of range: 0 to 3"),
        ("6,R,0,0,0,0,131072,0", r"t\.csv:4: row 131072 is out of range: 0 to 131071"),
        ("6,R,0,0,0,0,0,128", r"t\.csv:4: col 128 is out of range: 0 to 127"),
        ("4,R,0,0,0,0,0,0", r"t\.csv:4: cycle 4 comes after 5: sort the trace"),
        (f"{1 << 50},R,0,0,0,0,0,0", r"t\.csv:4: cycle 1125899906842624 is out of range"),
    ],
)
def test_what_the_standard_does_not_have_is_named_with_its_line(written, line, message):
    with pytest.raises(TraceError, match=message):
        simulate(written(HEADER + GOOD + line + "\n"), DDR4)


def test_a_truncated_and_a_damaged_archive_are_named(written, tmp_path):
    packed = written(HEADER + "".join(f"{i},R,0,0,0,0,{i * 7919 % 9973},0\n" for i in range(5000)), True).read_bytes()
    (tmp_path / "short.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match=r"short\.csv\.gz: the gzipped file is truncated"):
        Trace.read(tmp_path / "short.csv.gz")
    (tmp_path / "torn.csv.gz").write_bytes(packed[:2000] + b"\0" * 500 + packed[2500:])
    with pytest.raises(TraceError, match=r"torn\.csv\.gz: the gzipped file is damaged"):
        Trace.read(tmp_path / "torn.csv.gz")
    with pytest.raises(TraceError, match=r"cannot read the trace .*absent\.csv: No such file"):
        Trace.read(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"row": 1.5}, "row must be whole numbers"),
        ({"row": 1 << 40}, "row has a number that is too large or below 0"),
        ({"write": 256}, "write has a number"),
        ({"row": np.array([], np.int64)}, "the trace is empty"),
        ({"write": 2}, "write must be 0 or 1"),
        ({"bank": -1}, "bank -1 is out of range"),
    ],
)
def test_wrong_arrays_are_named(parts, message):
    with pytest.raises(TraceError, match=message):
        simulate(Trace.of(**parts), DDR4)


def test_a_trace_of_addresses(written):
    mapping = AddressMapping.load("row-bank-column")
    path = written("cycle,op,address\n0,R,0\n1,W,64\n2,R,0x2000\n3,R,4294967296\n")
    trace = Trace.read(path, DDR4.organisation, mapping)
    assert trace.column.tolist() == [0, 1, 0, 0]
    assert trace.bank_group.tolist() == [0, 0, 1, 0]
    assert trace.row.tolist() == [0, 0, 0, 16384]
    with pytest.raises(TraceError, match=r"t\.csv:2: address .* is out of range: 0 to 34359738367"):
        Trace.read(written(f"cycle,op,address\n0,R,{1 << 35}\n"), DDR4.organisation, mapping)
