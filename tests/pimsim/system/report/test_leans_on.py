"""Each figure tells the assumptions it leans on, and on no other."""

import pytest

from pimsim.errors import PimsimError
from pimsim.system.report.result import KINDS, kinds
from tests.pimsim.props.systems import result

TIMES = ("throughput_rps", "latency_mean_s", "ttft_mean_s", "bottleneck")
FIGURES = {"time": TIMES, "energy": ("energy_nj_total",), "cost": ("cost_usd",), "area": ("area_mm2",)}


def doubled(name, value):
    """The change that doubles it, or None for what is not a number."""
    if isinstance(value, str) and " " in value:  # a term of a table of energies, with its unit
        return f"{name}.value", 2 * float(value.partition(" ")[0])
    if isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
        return None
    return name, 2 * value


@pytest.mark.parametrize("name", ["heterrag", "cpu-gpu-v100", "upmem-like"])
def test_a_figure_moves_with_nothing_that_it_does_not_lean_on(name):
    before = result(name)
    report = before.as_dict()
    leans = report["provenance"]["leans_on"]
    assert set(leans) == set(FIGURES)
    tried = 0
    for value in before.provenance.assumed:
        change = doubled(value.name, value.value)
        if change is None:
            continue
        try:
            after = result(name, **{change[0].replace(".", "__"): change[1]}).as_dict()
        except PimsimError:  # cannot be twice as much
            continue
        tried += 1
        for kind, figures in FIGURES.items():
            if value.name not in leans[kind]:
                assert all(report[figure] == after[figure] for figure in figures), (value.name, kind)
    assert tried > 20


def test_kinds_of_figures():
    assert kinds("price.hbm_usd_a_gb") == kinds("gpu.price_usd") == ("cost",)
    assert kinds("area.dimm_module_mm2") == ("cost", "area")
    assert kinds("host.idle_w") == kinds("gpu.decode_share") == kinds("hbm.energy.terms.io") == ("energy",)
    assert kinds("hbm.stacks") == kinds("dimm.organisation.dimms") == KINDS
    assert kinds("search.hops") == ("time", "energy")
