"""Energy of traces: nJ are nJ, as the presets say and as DRAMsim3 has it."""

import csv

import numpy as np
import pytest

from pimsim import Controller, EnergyTable, Standard, Trace, simulate
from pimsim.energy import Term
from pimsim.validation import SHIPPED, STANDARDS
from tests.pimsim.props.dram import QUIET, reads

REFERENCE = [row for row in csv.DictReader((SHIPPED / "dram" / "reference.csv").open()) if row["sim"] == "dramsim3"]


def test_ddr4_pays_4_14_nj_an_activation_and_2_78_nj_a_burst():
    result = simulate(Trace.of(row=[0, 1, 1], column=[0, 1, 2], write=[0, 0, 1]), "ddr4-3200-heterrag", QUIET)
    assert result.activates == 2
    waiting = 2 * 0.499 * result.as_dict()["time_ns"]  # two ranks
    assert result.energy_nj == pytest.approx(
        {
            "activate_precharge": 8.28,
            "read": 5.56,
            "write": 2.78,
            "refresh": 0,
            "background": waiting,
            "total": 16.62 + waiting,
        }
    )


def test_hbm2_pays_909_pj_an_activation_and_3_48_pj_a_bit():
    result = simulate(reads(32, column=np.arange(32)), "hbm2-heterrag", QUIET)
    burst = 256 * (1.51 + 1.17 + 0.80) * 1e-3
    assert result.energy_nj == pytest.approx(
        {
            "activate_precharge": 0.909,
            "read": 32 * burst,
            "write": 0,
            "refresh": 0,
            "background": 0.066 * result.as_dict()["time_ns"],
            "total": 0.909 + 32 * burst + 0.066 * result.as_dict()["time_ns"],
        }
    )


def test_the_io_of_tpuv4i_alone():
    result = simulate(Trace.of(), "hbm2-heterrag", QUIET, energy="hbm2-tpuv4i")
    assert result.energy_nj["read"] == pytest.approx(4 * 0.35)
    assert result.energy_nj["total"] == pytest.approx(1.4)
    assert result.provenance.energy_table["name"] == "hbm2-tpuv4i"


def test_attacc_pays_the_whole_path_of_a_bit():
    result = simulate(Trace.of(), "hbm3-attacc", QUIET)
    path = 0.44 + 1.01 + 1.23 + 0.5 + 0.3
    assert result.energy_nj["read"] == pytest.approx(256 * path * 1e-3)
    assert result.energy_nj["activate_precharge"] == pytest.approx(256 * 0.11 * 1e-3)


def test_a_refresh_of_one_bank_costs_its_share():
    trace = Trace.of(cycle=[0, 20_000, 40_000])
    table = EnergyTable("mine", {"refresh": Term("refresh", 32.0, "nJ")}, ())
    banks = Standard.load("ddr5-4800").organisation.banks_per_rank
    for kind, share in (("all-bank", 1), ("per-bank", 1 / banks)):
        result = simulate(trace, "ddr5-4800", Controller(refresh=kind), energy=table)
        assert result.refreshes > 0
        assert result.energy_nj["refresh"] == pytest.approx(32 * share * result.refreshes)


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: f"{row['trace']}-{row['refresh']}")
def test_as_dramsim3_has_it(row):
    # its energies are V·mA·cycles, pJ once they are multiplied by tCK in ns
    kind = row["trace"].partition("_")[0]
    refresh = {"ref": "all-bank", "noref": "none"}[row["refresh"]]
    trace = SHIPPED / "dram" / "traces" / f"{row['trace']}.csv.gz"
    result = simulate(trace, STANDARDS[kind], Controller(refresh=refresh))
    to_nj = result.tck_ns * 1e-3
    theirs = {name: float(row[f"ds3_{name}_energy"]) * to_nj for name in ("act", "read", "total")}
    remaining = theirs["total"] - theirs["act"] - theirs["read"]
    # theirs is lower while all banks of a rank are closed, and a saturated trace ends at another time with refreshes
    assert result.energy_nj["refresh"] + result.energy_nj["background"] == pytest.approx(remaining, rel=0.25)
    if kind != "hbm2" and refresh == "none":  # the HBM2 table is another source's
        assert result.energy_nj["activate_precharge"] == pytest.approx(theirs["act"], rel=0.01)
        assert result.energy_nj["read"] == pytest.approx(theirs["read"], rel=0.01)
        assert result.energy_nj["total"] == pytest.approx(theirs["total"], rel=0.2)
