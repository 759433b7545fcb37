"""`pimsim search`: what it prints, and one line for what it cannot do."""

import json

import pytest

from pimsim.cli import main
from tests.pimsim.props.searches import drawn


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "traversal.csv.gz"
    drawn(3, queries=20).write(path)
    return path


def report_of(capsys, file, *options):
    assert main(["search", "--traversal", str(file), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_result_says_all_that_a_reader_needs(capsys, file):
    report = report_of(capsys, file, "--device", "acceldimm")
    rests_on = report["provenance"]
    assert report["queries"] == 20
    assert 0 < report["latency_us"]["p50"] <= report["latency_us"]["p95"] <= report["latency_us"]["p99"]
    assert report["latency_us"]["p99"] <= report["latency_us"]["max"] <= report["time_us"]
    assert report["queries_per_second"] == pytest.approx(20e6 / report["time_us"])
    assert report["bound"] == rests_on["bounds"][0]["name"]
    assert rests_on["bounds"][0]["limit"] == max(bound["limit"] for bound in rests_on["bounds"])
    assert {bound["name"] for bound in rests_on["bounds"]} == {
        "rank DRAM", "distance units", "channel bus", "TPM lanes", "host link", "dependency of hops",
    }  # fmt: skip
    cache = report["cache"]
    assert cache["local_hits"] + cache["global_hits"] + cache["misses"] == cache["lookups"] == report["distances"]
    assert {"rank_data", "channel", "tpm_lane"} <= set(report["utilisation"])
    assert rests_on["clocks_mhz"] == {"memory": 1600, "RPM": 500, "TPM": 500}
    assert "rpm.local_share" in {value["name"] for value in rests_on["assumed"]}
    assert "organisation.ranks" not in {value["name"] for value in rests_on["assumed"]}
    assert rests_on["energy_table"]["read"] == "2.78 nJ"
    assert len(rests_on["configuration_hash"]) == 16
    assert rests_on["version"]


def test_in_words(capsys, file):
    assert main(["search", "--traversal", str(file)]) == 0
    words = capsys.readouterr().out
    assert "20 queries" in words
    assert "holds: " in words
    assert "assumed: " in words


def test_options_change_the_device(capsys, file):
    plain = report_of(capsys, file)
    assert report_of(capsys, file, "--no-cache")["cache"]["hit_ratio"] == 0 < plain["cache"]["hit_ratio"]
    assert report_of(capsys, file, "--cache-bytes", "6144")["cache"]["misses"] > plain["cache"]["misses"]
    assert report_of(capsys, file, "--dim", "64")["time_us"] < plain["time_us"]
    assert report_of(capsys, file, "--batch", "1")["time_us"] > plain["time_us"]
    assert (
        report_of(capsys, file, "--batch", "4", "--continuous")["time_us"]
        < report_of(capsys, file, "--batch", "4")["time_us"]
    )
    assert report_of(capsys, file, "--queries", "5")["queries"] == 5
    changed = report_of(capsys, file, "--set", "organisation.channels=1", "--set", "vectors.page=closed")
    assert changed["time_us"] > plain["time_us"]
    assert changed["provenance"]["configuration_hash"] != plain["provenance"]["configuration_hash"]


def test_the_files_notes_set_the_vectors_and_options_prevail(capsys, tmp_path):
    path = tmp_path / "noted.csv"
    path.write_text(
        "# vertices=10 dim=96 neighbours=8\nquery,hop,vertex,kind\n0,0,1,vector\n0,1,1,list\n0,1,2,vector\n"
    )
    report = report_of(capsys, path)
    assert (report["dim"], report["vertices"], report["dram"]["list_bursts"]) == (96, 10, 1)
    assert report_of(capsys, path, "--dim", "128", "--vertices", "20")["dim"] == 128


def test_a_traversal_without_lists_is_warned_of(capsys, tmp_path):
    path = tmp_path / "vectors.csv"
    path.write_text("query,hop,vertex\n0,0,1\n0,1,2\n")
    assert any("no neighbour lists" in warning for warning in report_of(capsys, path)["provenance"]["warnings"])


def test_buffers_that_are_too_small_are_warned_of(capsys, tmp_path):
    path = tmp_path / "wide.csv"
    rows = "".join(f"{query},0,{16 * vertex},vector\n" for query in range(4) for vertex in range(60))
    path.write_text("# vertices=100000000\nquery,hop,vertex,kind\n" + rows + "4,0,3,list\n")
    warnings = " / ".join(
        report_of(capsys, path, "--set", "rpm.queue=64", "--dim", "16", "--set", "graph.neighbours=64")["provenance"][
            "warnings"
        ]
    )
    assert "waited at a rank, which has room for 64" in warnings
    assert "visited list" in warnings
    assert "neighbour buffer" in warnings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "axeldimm"], "unknown name 'axeldimm' of devices; is acceldimm meant?"),
        (["--dim", "0"], "vectors.dim must be a whole number of at least 1"),
        (
            ["--dim", "2049"],
            "a vector of 2049 elements of 4 bytes is wider than a row of ddr4-3200-heterrag (8196 > 8192",
        ),
        (["--batch", "0"], "workload.batch must be a whole number of at least 1"),
        (["--queries", "0"], "--queries must be 1 or more"),
        (["--cache-bytes", "-1"], "rpm.cache_bytes must be a whole number of at least 0"),
        (["--set", "rpm.cash_bytes=1"], "there is no field 'rpm.cash_bytes'"),
        (["--set", "rpm.cache_bytes"], "--set takes FIELD=VALUE"),
        (["--set", "vectors.bank_groups=3"], "vectors.bank_groups must divide the 4 bank groups"),
        (["--set", "vectors.placement=random"], "vectors.placement must be one of interleaved, blocked, shuffled"),
        (["--set", "graph.neighbours=1000"], "wider than a row"),
        (["--set", "dpm.result_bytes=65"], "dpm.result_bytes must be 64"),
        (["--set", "standard=ddr9"], "unknown name 'ddr9' of standards"),
        (
            ["--set", "organisation.channels=1000000000"],
            "organisation.channels must be a whole number of at least 1, at most",
        ),
        (["--set", "tpm.clock_mhz=0"], "tpm.clock_mhz must be a number of at least 1"),
        (["--vertices", "100"], "is outside the shard, which holds 100"),
        (["--vertices", "2000000000", "--dim", "2048"], "rows a bank"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, file, options, says):
    assert main(["search", "--traversal", str(file), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
