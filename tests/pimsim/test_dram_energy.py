"""Energy of traces: nJ are nJ, as the presets say and as DRAMsim3 has it."""

import csv

import numpy as np
import pytest

from pimsim import Controller, Trace, simulate
from pimsim.validation import SHIPPED, STANDARDS
from tests.pimsim.dram_material import QUIET, reads

REFERENCE = [
    row
    for row in csv.DictReader((SHIPPED / "dram" / "reference.csv").open())
    if row["sim"] == "dramsim3" and row["trace"].startswith("ddr4") and row["refresh"] == "noref"
]


def test_ddr4_pays_4_14_nj_an_activation_and_2_78_nj_a_burst():
    result = simulate(Trace.of(row=[0, 1, 1], column=[0, 1, 2], write=[0, 0, 1]), "ddr4-3200-heterrag", QUIET)
    assert result.activates == 2
    assert result.energy_nj == pytest.approx({"activate_precharge": 8.28, "read": 5.56, "write": 2.78, "total": 16.62})


def test_hbm2_pays_909_pj_an_activation_and_3_48_pj_a_bit():
    result = simulate(reads(32, column=np.arange(32)), "hbm2-heterrag", QUIET)
    burst = 256 * (1.51 + 1.17 + 0.80) * 1e-3
    assert result.energy_nj == pytest.approx(
        {"activate_precharge": 0.909, "read": 32 * burst, "write": 0, "total": 0.909 + 32 * burst}
    )


def test_the_io_of_tpuv4i_alone():
    result = simulate(Trace.of(), "hbm2-heterrag", QUIET, energy="hbm2-tpuv4i")
    assert result.energy_nj == pytest.approx({"activate_precharge": 0, "read": 4 * 0.35, "write": 0, "total": 1.4})
    assert result.provenance.energy_table["name"] == "hbm2-tpuv4i"


def test_attacc_pays_the_whole_path_of_a_bit():
    result = simulate(Trace.of(), "hbm3-attacc", QUIET)
    path = 0.44 + 1.01 + 1.23 + 0.5 + 0.3
    assert result.energy_nj["read"] == pytest.approx(256 * path * 1e-3)
    assert result.energy_nj["activate_precharge"] == pytest.approx(256 * 0.11 * 1e-3)


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: row["trace"])
def test_ddr4_as_dramsim3_has_it(row):
    # its energies are V·mA·cycles, pJ once they are multiplied by tCK in ns
    standard = STANDARDS[row["trace"].partition("_")[0]]
    result = simulate(SHIPPED / "dram" / "traces" / f"{row['trace']}.csv.gz", standard, Controller(refresh="none"))
    to_nj = result.tck_ns * 1e-3
    assert result.energy_nj["activate_precharge"] == pytest.approx(float(row["ds3_act_energy"]) * to_nj, rel=0.01)
    assert result.energy_nj["read"] == pytest.approx(float(row["ds3_read_energy"]) * to_nj, rel=0.01)
