"""Standards as data: the paper's values are there, and a wrong field or an impossible device names itself."""

from pathlib import Path

import pytest
import yaml

from pimsim import FieldError, Standard
from pimsim.standard import names

SHIPPED = Path(__file__).parents[2] / "pimsim" / "standards"
TABLE_1 = {
    "ddr4-3200-heterrag": {
        "tRC": 72, "tRCD": 22, "tCL": 22, "tRP": 22, "tBL": 4, "tRRD_S": 4, "tRRD_L": 6, "tFAW": 30, "tCCD_S": 4,
        "tCCD_L": 6,
    },
    "hbm2-heterrag": {
        "tRC": 45, "tRCD": 16, "tCL": 16, "tWR": 16, "tRAS": 29, "tRRD_S": 2, "tRRD_L": 2, "tCCD_S": 2, "tCCD_L": 4,
    },
}  # fmt: skip
DEFAULTS = {
    "ddr4-3200-heterrag": {
        "tCWL": 16, "tWR": 24, "tRTP": 12, "tWTR_S": 4, "tWTR_L": 12, "tRFC": 880, "tREFI": 12480, "tRTRS": 2,
    },
    "hbm2-heterrag": {"tCWL": 4, "tRTP": 5, "tWTR_S": 6, "tWTR_L": 8, "tFAW": 16, "tRFC": 350, "tREFI": 3900},
}  # fmt: skip


def test_the_standards_that_are_promised_are_there():
    wanted = "ddr4-3200 ddr4-3200-heterrag ddr4-3200-heterrag-1rank ddr5-4800 hbm2 hbm2-heterrag hbm3 hbm3-attacc"
    assert names() == sorted(wanted.split())
    assert all(Standard.load(name).name == name for name in names())


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_is_the_papers_and_the_rest_is_assumed(name):
    standard = Standard.load(name)
    sources = {value.name.removeprefix("timing."): value.source for value in standard.sourced}
    for timing, cycles in TABLE_1[name].items():
        assert getattr(standard.timing, timing) == cycles
        assert not sources[timing].assumed
    for timing, cycles in DEFAULTS[name].items():
        assert getattr(standard.timing, timing) == cycles
        assert sources[timing].assumed


@pytest.mark.parametrize("name", names())
def test_each_value_has_its_source(name):
    standard = Standard.load(name)
    sourced = {value.name for value in standard.sourced}
    written = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
    for part in ("organisation", "timing"):
        assert {f"{part}.{field}" for field in written[part]} <= sourced
    assert all(value.source.text for value in standard.sourced)


@pytest.mark.parametrize(
    ("name", "gbps", "gibibytes"),
    [
        ("ddr4-3200-heterrag", 25.6, 32),
        ("ddr4-3200-heterrag-1rank", 25.6, 16),
        ("hbm2-heterrag", 16, 0.5),
        ("hbm2", 16, 8),
    ],
)
def test_bandwidth_and_capacity(name, gbps, gibibytes):
    standard = Standard.load(name)
    assert standard.peak_gbps == pytest.approx(gbps)
    assert standard.organisation.bytes == gibibytes * 2**30
    assert standard.ns(1000) == 1000 * standard.tck_ns


def test_hbm_has_a_command_bus_for_columns_and_ddr_has_not():
    assert {name: Standard.load(name).command_buses for name in names()} == {
        name: 2 if name.startswith("hbm") else 1 for name in names()
    }


def write(folder: Path, change) -> str:
    values = yaml.safe_load((SHIPPED / "hbm2-heterrag.yaml").read_text())
    change(values)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def put(part: str, field: str, value: object):
    return lambda values: values[part].__setitem__(field, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["timing"].pop("tFAW"), r"mine\.yaml: the field timing\.tFAW is missing"),
        (lambda values: values.pop("organisation"), r"the field organisation is missing"),
        (put("timing", "tFWA", 3), r"mine\.yaml: unknown field timing\.tFWA; is tFAW meant"),
        (put("timing", "tRCD", "fast"), r"timing\.tRCD must be a whole number of at least 0, not 'fast'"),
        (put("timing", "tRCD", -1), r"timing\.tRCD must be a whole number"),
        (put("timing", "tRCD", True), r"timing\.tRCD must be a whole number"),
        (put("timing", "tRCD", {"value": 3, "source": "hearsay"}), r"timing\.tRCD names the unknown source 'hearsay'"),
        (put("timing", "tCCD_S", 9), r"timing\.tCCD_S must not be above timing\.tCCD_L"),
        (put("timing", "tRC", 20), r"timing\.tRAS must not be above timing\.tRC"),
        (put("timing", "tBL", 3), r"timing\.tCCD_S must be tBL at least"),
        (put("timing", "tRFC", 4000), r"timing\.tRFC must be below tREFI"),
        (put("organisation", "banks", 3), r"organisation\.banks must be a power of two, not 3"),
        (put("organisation", "ranks", 0), r"organisation\.ranks must be a whole number of at least 1, not 0"),
        (lambda values: values.update(tck_ns=0), r"tck_ns must be a number of at least 0\.001, not 0"),
        (lambda values: values.update(kind="SRAM"), r"kind must be one of DDR4, DDR5, HBM2, HBM3, not 'SRAM'"),
        (
            lambda values: values.update(command_buses=3),
            r"command_buses must be a whole number of at least 1, at most 2",
        ),
    ],
)
def test_a_wrong_field_names_itself(tmp_path, change, message):
    with pytest.raises(FieldError, match=message):
        Standard.load(write(tmp_path, change))


def test_unknown_names_and_broken_files_are_named(tmp_path):
    with pytest.raises(FieldError, match="unknown name 'ddr4-3200-hetterag' of standards; is ddr4-3200-heterrag meant"):
        Standard.load("ddr4-3200-hetterag")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(FieldError, match=r"broken\.yaml is not YAML"):
        Standard.load(str(tmp_path / "broken.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(FieldError, match=r"list\.yaml"):
        Standard.load(str(tmp_path / "list.yaml"))


def test_changes_by_dotted_name():
    changed = Standard.load("hbm2-heterrag", {"timing.tFAW": 20})
    assert changed.timing.tFAW == 20
    with pytest.raises(FieldError, match=r"there is no field 'timing\.tFWA' to set"):
        Standard.load("hbm2-heterrag", {"timing.tFWA": 20})
