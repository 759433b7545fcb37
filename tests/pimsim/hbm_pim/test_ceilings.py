"""Ceilings that follow from HeterRAG's Table 1 for AccelHBM."""

import pytest

from pimsim.hbm_pim import Attention, Device, attention, gemm, gemv, kv_append, weights_floor_us

ACCELHBM = Device.load("hbm2-heterrag")


def test_a_bank_delivers_8_gb_s() -> None:
    """32 B a column every tCCD_L of 4 ns."""
    assert ACCELHBM.bank_gbps == pytest.approx(8.0)


def test_a_stack_delivers_eight_times_what_leaves_it() -> None:
    assert ACCELHBM.banks_per_stack == 256
    assert ACCELHBM.internal_tbps / ACCELHBM.stacks == pytest.approx(2.05, rel=0.01)
    assert ACCELHBM.external_tbps == pytest.approx(1.02, rel=0.01)
    assert ACCELHBM.internal_tbps / ACCELHBM.external_tbps == pytest.approx(8)


def test_a_unit_keeps_up_with_its_two_banks() -> None:
    """32 FP16 lanes at 500 MHz take a column of each of two banks in 2 ns, half of tCCD_L."""
    assert ACCELHBM.unit_cycles("bank", 1) == 2
    assert ACCELHBM.unit_cycles("bank", 2) == ACCELHBM.timing.mac_bank


def test_llama2_7b_reads_its_weights_in_1_65_ms() -> None:
    assert weights_floor_us(ACCELHBM, 13.5e9) == pytest.approx(1650, rel=0.005)


def test_products_of_llama2_7b_stay_above_that() -> None:
    """All matrices of a layer and the head: rows to open, inputs to load and refreshes take 25 % to 60 % more."""
    layer = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]
    works = [gemv(ACCELHBM, outputs, inputs) for outputs, inputs in layer]
    head = gemv(ACCELHBM, 32000, 4096)
    time_us = 32 * sum(work.time_us for work in works) + head.time_us
    weights = 32 * sum(outputs * inputs * 2 for outputs, inputs in layer) + 32000 * 4096 * 2
    assert weights == pytest.approx(13.2e9, rel=0.01)
    assert 1.2 < time_us / weights_floor_us(ACCELHBM, weights) < 2.0
    assert sum(work.bytes for work in works) >= sum(outputs * inputs * 2 for outputs, inputs in layer)


def test_attention_comes_near_the_banks() -> None:
    """Long contexts: MACs 4 cycles apart but for rows (tRTP, tRP and tRCD for 128 cycles of MACs) and refreshes."""
    result = attention(ACCELHBM, Attention(16384, 32, 128))
    rows = 128 / (128 + 5 + 16 + 16 - 4)
    refreshes = 1 - (5 + 16 + 350 + 16) / 3900
    assert result.effective_tbps == pytest.approx(ACCELHBM.internal_tbps * rows * refreshes, rel=0.05)
    assert result.effective_tbps < ACCELHBM.internal_tbps


def test_the_matrix_unit_is_a_roofline() -> None:
    """8 arrays of 128 x 128 at 500 MHz: 131 TFLOP/s, from some 128 rows on; below that weights come too slowly."""
    assert ACCELHBM.tpm is not None
    assert ACCELHBM.tpm.peak_tflops == pytest.approx(131, rel=0.01)
    large = gemm(ACCELHBM, 4096, 4096, 4096)
    assert large.bound == "arrays"
    assert 2 * 4096**3 / (large.time_us * 1e-6) * 1e-12 == pytest.approx(131, rel=0.03)
    small = gemm(ACCELHBM, 1, 4096, 4096)
    # arrays take weights about as fast as the stacks send them, and give one row of results for a tile
    assert small.time_us == pytest.approx(4096 * 4096 * 2 / 1.024e6, rel=0.03)
    assert gemm(ACCELHBM, 1, 128, 128).bound == "arrays"
    # a product with one vector belongs into the memory
    assert gemv(ACCELHBM, 4096, 4096).time_us < small.time_us / 3


def test_an_append_costs_little_beside_the_layer() -> None:
    layer = attention(ACCELHBM, Attention(2048, 32, 128))
    append = kv_append(ACCELHBM, 2047, 32, 128)
    assert append.bytes == 2 * 32 * 128 * 2
    assert append.time_us < layer.time_us / 5
    # K and V of one head: ACT, the writes, and at the end CWL and the burst
    one = kv_append(ACCELHBM, 0, 1, 128)
    assert one.cycles >= 16 + 4 + 2
    assert kv_append(ACCELHBM, 0, 64, 128).cycles > one.cycles
    assert one.energy_nj["total"] == pytest.approx(one.energy_nj["activate"] + one.energy_nj["write"])
