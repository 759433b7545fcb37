"""Tables of energy: the presets of the specification, and units that convert as they say."""

import pytest

from pimsim import Bound, EnergyTable, FieldError, Provenance, fields
from pimsim.energy import FOLDER, Term


@pytest.mark.parametrize(
    ("unit", "amount", "nj"),
    [("pJ", 1000, 2), ("nJ", 3, 6), ("pJ/bit", 512, 1.024), ("pJ/64bit", 64, 0.002), ("W", 5, 10)],
)
def test_units(unit, amount, nj):
    assert Term("x", 2, unit).nj(amount) == pytest.approx(nj)


def test_presets_are_the_specifications():
    ddr4, fgdram = EnergyTable.load("ddr4-3200-x8-rank"), EnergyTable.load("hbm2-fgdram")
    assert ddr4["activate_precharge"].nj(1) == pytest.approx(4.14)
    assert ddr4["read"].nj(1) == pytest.approx(2.78)
    assert fgdram["activate_precharge"].nj(1) == pytest.approx(0.909)
    path = ("before_sense_amplifiers", "after_sense_amplifiers", "io")
    assert sum(fgdram[name].nj(1) for name in path) == pytest.approx(3.48e-3)
    attacc = EnergyTable.load("hbm3-pim-attacc")
    levels = {
        "bank": ("activate", "cell"),
        "bank group": ("activate", "cell", "column_to_bank_group"),
        "buffer": ("activate", "cell", "column_to_bank_group", "bank_group_to_gio", "tsv"),
    }
    spent = {level: sum(attacc[name].nj(1) for name in terms) for level, terms in levels.items()}
    assert spent == pytest.approx({"bank": 0.55e-3, "bank group": 1.56e-3, "buffer": 3.29e-3})
    tpu = EnergyTable.load("hbm2-tpuv4i")["io"]
    assert 0.250 <= tpu.nj(64) <= 0.450


@pytest.mark.parametrize("name", fields.shipped(FOLDER))
def test_each_term_has_its_source(name):
    table = EnergyTable.load(name)
    assert {value.name for value in table.sourced} == {f"terms.{term}" for term in table.terms}


def test_wrong_tables_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nsources: {a: b}\nterms: {read: {value: 1, unit: calorie, source: a}}\n")
    with pytest.raises(FieldError, match=r"mine\.yaml: terms\.read\.unit must be one of pJ, nJ"):
        EnergyTable.load(str(path))
    with pytest.raises(FieldError, match="no term 'fly'"):
        EnergyTable.load("ddr4-3200-x8-rank")["fly"]


def provenance(*bounds: Bound) -> Provenance:
    return Provenance.of({"a": 1}, clocks_mhz={"memory": 1600}, sourced=(), bounds=bounds)


def test_a_result_beyond_its_bound_is_warned_of():
    fair = Bound("bus", 100, 150, "cycles", lower_is_better=True)
    assert fair.nearness == pytest.approx(2 / 3)
    assert provenance(fair).warnings == []
    unfair = Bound("bus", 25.6, 30, "GB/s")
    assert "bus: 30 GB/s passes the analytic bound of 25.6" in provenance(unfair).warnings[0]


def test_equal_configurations_have_equal_hashes():
    assert provenance().configuration == provenance().configuration
    other = Provenance.of({"a": 2}, clocks_mhz={}, sourced=(), bounds=())
    assert other.configuration != provenance().configuration
