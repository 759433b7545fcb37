"""The bench of staged search: a whole report from made-up vectors and from files, and options it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.bench_search import LIMITS, clustered, main
from retrieval.index import IndexType

SMALL = ["--json", "--count", "12", "--rounds", "1", "--top-k", "3"]


def report(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    assert main([*SMALL, *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_reports_both_indexes(capsys: pytest.CaptureFixture[str]) -> None:
    bench = report(capsys, "--vectors", "900", "--dim", "24", "--stages", "3")
    assert (bench["vectors"], bench["dim"], bench["queries"]) == (900, 24, 12)
    assert [row["index"] for row in bench["rows"]] == ["ivf", "hnsw"]
    for row in bench["rows"]:
        assert row["ratio"] > 0
        assert (row["limit"], row["ok"]) == (None, True), "the limits are for 20,000 vectors or more"
        assert 0 < row["recall"] <= 1
        shares = [stage["final"] for stage in row["stages"]]
        assert len(shares) == 3
        assert shares == sorted(shares)
        assert shares[-1] == 1
    ivf = bench["rows"][0]
    assert ivf["same_as_plain"] == 1
    assert ivf["recall"] == ivf["plain_recall"]


def test_takes_vectors_and_queries_from_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vectors, queries = clustered(300, 16, 20)
    np.save(tmp_path / "vectors.npy", 3 * vectors.astype(np.float16))
    np.save(tmp_path / "queries.npy", queries)
    files = ["--embeddings", str(tmp_path / "vectors.npy"), "--only", "hnsw"]
    assert report(capsys, *files)["rows"][0]["index"] == "hnsw"
    bench = report(capsys, *files, "--queries", str(tmp_path / "queries.npy"))
    assert (bench["vectors"], bench["queries"]) == (300, 12)


def test_a_figure_over_its_limit_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.bench_search.LEAST_VECTORS", 200)
    for kind, limit, status in [("ivf", 0.0, 1), ("ivf", 1e9, 0)]:
        monkeypatch.setitem(LIMITS, IndexType(kind), limit)
        assert main([*SMALL[1:], "--vectors", "200", "--dim", "8", "--only", kind]) == status
        assert ("MISSED" in capsys.readouterr().out) == bool(status)


@pytest.mark.full(proof="test_reports_both_indexes")
def test_says_it_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL[1:], "--vectors", "200", "--dim", "8"])
    words = capsys.readouterr().out
    assert "200 vectors of 8 dimensions, top 3" in words
    assert "final list there after an effort of" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vectors", "0"], "at least 1"),
        (["--stages", "0"], "at least 1"),
        (["--queries", "q.npy"], "needs the --embeddings"),
        (["--vectors", "2", "--top-k", "3"], "at most the number of vectors, 2"),
    ],
)
def test_refuses(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert words in capsys.readouterr().err


def test_made_up_vectors_are_unit_and_repeatable() -> None:
    vectors, queries = clustered(50, 12, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.dtype == queries.dtype == np.float32
    np.testing.assert_array_equal(vectors, clustered(50, 12, 5)[0])
