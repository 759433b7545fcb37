"""The closed form beside the event kernel."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pimsim.hbm_pim import Attention, Device, attention, gemv
from pimsim.hbm_pim.mapping import LEVELS
from tests.props.budget import examples

DEVICES = ("hbm3-attacc", "hbm2-heterrag")
PROMISED = 0.05


def near(wanted: Attention, name: str) -> None:
    device = Device.load(name)
    event = attention(device, wanted)
    closed = attention(device, replace(wanted, fidelity="closed"))
    allowed = PROMISED * event.cycles
    if abs(event.refreshes - closed.refreshes) == 1:  # one that is due as the layer ends falls into it or not
        allowed = max(allowed, device.standard.timing.tRFC * 1.3)
    assert abs(closed.cycles - event.cycles) <= allowed
    assert closed.mac_commands == event.mac_commands
    assert closed.energy_nj["total"] == pytest.approx(event.energy_nj["total"], rel=0.05)


@settings(max_examples=examples(120), deadline=None)
@given(
    name=st.sampled_from(DEVICES),
    level=st.sampled_from(sorted(LEVELS)),
    length=st.integers(128, 6000),
    head_dim=st.sampled_from((64, 80, 96, 128, 256)),
    heads=st.integers(1, 128),
    width=st.sampled_from((1, 2)),
    power_limit=st.booleans(),
    refresh=st.booleans(),
)
@example("hbm3-attacc", "bank", 256, 64, 32, 2, True, True)
@example("hbm3-attacc", "bg", 4096, 128, 8, 2, False, True)
def test_within_five_percent(
    name: str, level: str, length: int, head_dim: int, heads: int, width: int, power_limit: bool, refresh: bool
) -> None:
    layer = Attention(length, heads, head_dim, width, level=level, power_limit=power_limit, refresh=refresh)
    near(layer, name)


@pytest.mark.parametrize("level", LEVELS)
def test_the_usual_layers(level: str) -> None:
    for length in (128, 256, 512, 1024, 2048, 4096):
        for heads in (8, 16, 32, 64):
            for head_dim in (64, 128):
                for power_limit in (True, False):
                    layer = Attention(length, heads, head_dim, level=level, power_limit=power_limit)
                    event = attention("hbm3-attacc", layer).cycles
                    closed = attention("hbm3-attacc", replace(layer, fidelity="closed")).cycles
                    assert closed == pytest.approx(event, rel=PROMISED), layer


@pytest.mark.parametrize("level", LEVELS)
def test_groups_of_queries(level: str) -> None:
    """Several queries a read move more beside the MACs than the sums know of: 10 %."""
    for length in (256, 1024, 3000):
        for kv_heads in (8, 16, 32):
            layer = Attention(length, 64, 128, kv_heads=kv_heads, batch=4, level=level)
            event = attention("hbm2-heterrag", layer).cycles
            assert attention("hbm2-heterrag", replace(layer, fidelity="closed")).cycles == pytest.approx(event, rel=0.1)


@pytest.mark.parametrize("level", LEVELS)
def test_products(level: str) -> None:
    device = Device.load("hbm2-heterrag")
    for outputs, inputs in ((4096, 4096), (11008, 4096), (4096, 11008), (1000, 1600)):
        event, closed = (
            gemv(device, outputs, inputs, level=level, fidelity=fidelity) for fidelity in ("event", "closed")
        )
        assert closed.cycles == pytest.approx(event.cycles, rel=PROMISED)
        assert closed.bytes == event.bytes
