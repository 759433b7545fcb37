"""The traversal's file: what is written is read again, and what is wrong is named with its line."""

import gzip

import numpy as np
import pytest

from pimsim.dimm_pim.traversal import LOWEST, NO_LIST, UPPER, Traversal
from pimsim.errors import TraceError
from tests.pimsim.props.searches import drawn

HEADER = "query,hop,vertex,kind\n"


def written(folder, text, name="traversal.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_hops_lists_and_vectors_are_read(tmp_path):
    rows = "0,0,17,vector\n0,1,17,upper\n0,1,4,vector\n0,1,9,vector\n0,2,4,list\n\n"
    rows += "7,0,3,vector\r\n7,5,3,list\n7,5,0,vector"
    traversal = Traversal.read(written(tmp_path, "# a note dim=384\n# vertices=20 neighbours=16\n" + HEADER + rows))
    assert traversal.queries.tolist() == [0, 7]
    assert traversal.first_hop.tolist() == [0, 3, 5]
    assert traversal.list_kind.tolist() == [NO_LIST, UPPER, LOWEST, NO_LIST, LOWEST]
    assert traversal.list_vertex.tolist() == [-1, 17, 4, -1, 3]
    assert traversal.first_vector.tolist() == [0, 1, 3, 3, 4, 5]
    assert traversal.vertices.tolist() == [17, 4, 9, 3, 0]
    assert (traversal.shard, traversal.dim, traversal.neighbours) == (20, 384, 16)


def test_columns_stand_in_any_order_and_the_kind_may_be_left_out(tmp_path):
    traversal = Traversal.read(written(tmp_path, "vertex,query,hop\n5,0,0\n6,0,1\n"))
    assert traversal.vertices.tolist() == [5, 6]
    assert traversal.list_kind.tolist() == [NO_LIST, NO_LIST]
    assert traversal.shard == 7
    assert traversal.dim is None


@pytest.mark.parametrize("name", ["traversal.csv", "traversal.csv.gz"])
def test_what_is_written_is_read_again(tmp_path, name):
    path, first = tmp_path / name, drawn(0, queries=30)
    first.write(path)
    again = Traversal.read(path)
    for field in ("queries", "first_hop", "list_vertex", "list_kind", "first_vector", "vertices", "shard", "dim"):
        assert np.array_equal(getattr(first, field), getattr(again, field)), field
    written_once = path.read_bytes()
    again.write(path)
    assert path.read_bytes() == written_once


def test_ranks_are_read_where_there_are_any_and_written_again(tmp_path):
    rows = "0,0,7,vector,1\n0,1,7,list,\n0,1,8,vector,0\n0,1,9,vector,\n3,0,7,vector,0\n"
    path = written(tmp_path, "# vertices=10\n" + HEADER.strip() + ",rank\n" + rows)
    traversal = Traversal.read(path)
    assert traversal.ranks.tolist() == [1, 0, -1, 0]
    assert traversal.met(3).tolist() == [[1.0, 0.5, 2.0], [1.0, 2.0, 2.0]]
    again = tmp_path / "again.csv"
    traversal.write(again)
    assert again.read_bytes() == path.read_bytes()
    assert traversal.first(1).ranks.tolist() == [1, 0, -1]
    assert Traversal.read(written(tmp_path, "rank,query,hop,vertex\n,0,0,1\n0,0,0,2\n")).ranks.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("0,0,1,vector,0\n0,0,2,vector,0\n", "line 3: query 0 has the rank 0 twice"),
        ("0,0,1,vector,0\n0,1,1,list,1\n", "line 3: a list has a rank"),
        ("0,0,1,vector,-1\n", "line 2: '-1' is negative"),
        ("0,0,1,vector,x\n", "line 2: 'x' is not a whole number"),
        ("0,0,1,vector\n", "line 2: has 4 fields, the header 5"),
    ],
)
def test_a_wrong_rank_is_named_with_its_line(tmp_path, rows, says):
    with pytest.raises(TraceError, match=says):
        Traversal.read(written(tmp_path, HEADER.strip() + ",rank\n" + rows))


def test_the_first_queries_alone():
    path = drawn(1, queries=6)
    part = path.first(4)
    assert len(part.queries) == 4
    assert part.first_vector[-1] == len(part.vertices)
    assert part.first_hop[-1] == len(part.list_vertex)
    assert len(path.first(99).queries) == 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (HEADER, "no rows"),
        ("query,vertex\n0,1\n", "line 1: the header"),
        ("query,hop,vertex,what\n0,0,1,2\n", "line 1: the header"),
        ("# dim=0\n" + HEADER, "line 1: dim must be a whole number from 1, not '0'"),
        (HEADER + "0,0,1,vector\n0,0,2\n", "line 3: has 3 fields, the header 4"),
        (HEADER + "0,0,1,vector,9\n", "line 2: has 5 fields"),
        (HEADER + "0,0,x,vector\n", "line 2: 'x' is not a whole number"),
        (HEADER + "0,0,,vector\n", "line 2: '' is not a whole number"),
        (HEADER + "0,0,-3,vector\n", "line 2: '-3' is negative"),
        (HEADER + "0,0,99999999999999999999,vector\n", "line 2: '99999999999999999999' is too large"),
        (HEADER + "0,0,1,vectors\n", "line 2: kind 'vectors' is unknown"),
        (HEADER + "\n1,0,1,vector\n0,0,1,vector\n", "line 4: the query comes after a later one"),
        (HEADER + "0,1,1,vector\n0,0,1,vector\n", "line 3: the hop comes after a later one"),
        (HEADER + "0,1,1,vector\n0,1,1,list\n", "line 3: a hop's list comes first"),
        (HEADER + "0,1,1,list\n0,1,2,list\n", "line 3: a hop's list comes first"),
        ("# vertices=8\n" + HEADER + "0,0,7,vector\n0,1,8,list\n", "line 4: vertex 8 is outside the shard, which"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, says):
    with pytest.raises(TraceError) as refused:
        Traversal.read(written(tmp_path, text))
    assert says in str(refused.value)
    assert "traversal.csv" in str(refused.value)


def test_the_shard_may_be_told(tmp_path):
    path = written(tmp_path, "# vertices=100\n" + HEADER + "0,0,7,vector\n")
    assert Traversal.read(path).shard == 100
    assert Traversal.read(path, shard=8).shard == 8
    with pytest.raises(TraceError, match="line 3: vertex 7 is outside the shard, which holds 7"):
        Traversal.read(path, shard=7)
    with pytest.raises(TraceError, match="a shard holds 1 vertex or more, not 0"):
        Traversal.read(path, shard=0)


@pytest.mark.parametrize("keep", [10, 40, -1, -6])
def test_a_cut_gzip_is_refused(tmp_path, keep):
    whole = gzip.compress((HEADER + "0,0,1,vector\n" * 500).encode())
    with pytest.raises(TraceError, match=r"cut|cannot be read"):
        Traversal.read(written(tmp_path, whole[:keep], "cut.csv.gz"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        Traversal.read(tmp_path / "nowhere.csv")
    with pytest.raises(TraceError, match="cannot be read"):
        Traversal.read(tmp_path)
