"""Address mappings: every one is a bijection, and neighbours lie where it says."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimsim import AddressMapping, FieldError, Standard, fields
from pimsim.dram.mapping import FOLDER, PARTS

NAMES = fields.shipped(FOLDER)


@given(name=st.sampled_from(NAMES), standard=st.sampled_from(["ddr4-3200", "ddr5-4800", "hbm2"]), data=st.data())
def test_an_address_is_found_again(name, standard, data):
    organisation = Standard.load(standard).organisation
    address = np.array([data.draw(st.integers(0, organisation.bytes - 1))])
    mapping = AddressMapping.load(name)
    parts = mapping.locate(address, organisation)
    assert mapping.address(parts, organisation) == address - address % organisation.burst_bytes


@pytest.mark.parametrize("name", NAMES)
def test_no_two_addresses_share_a_place(name):
    small = dataclasses.replace(Standard.load("hbm2").organisation, channels=2, rows=4, columns=4)
    parts = AddressMapping.load(name).locate(np.arange(0, small.bytes, small.burst_bytes), small)
    places = set(zip(*(parts[part].tolist() for part in PARTS), strict=True))
    assert len(places) == small.bytes // small.burst_bytes
    limits = (4, 1, 4, 4, 4, 4)
    assert all(int(parts[part].max()) == limit - 1 for part, limit in zip(PARTS, limits, strict=True))


def test_neighbours():
    organisation = Standard.load("ddr4-3200-heterrag").organisation
    address = np.array([0, 64, 256])
    interleaved = AddressMapping.load("bank-group-interleaved").locate(address, organisation)
    assert interleaved["bank_group"].tolist() == [0, 1, 0]
    assert interleaved["column"].tolist() == [0, 0, 1]
    rows = np.arange(4) * organisation.bytes // organisation.rows
    permuted = AddressMapping.load("bank-permuted").locate(rows, organisation)
    assert permuted["row"].tolist() == permuted["bank"].tolist() == [0, 1, 2, 3]


def test_a_cut_part(tmp_path):
    path = tmp_path / "cut.yaml"
    path.write_text("name: cut\norder: [row, column, rank, bank, bank_group, 'column:2', channel]\n")
    organisation = Standard.load("ddr4-3200-heterrag").organisation
    mapping = AddressMapping.load(str(path))
    parts = mapping.locate(np.arange(0, 64 * 200, 64), organisation)
    assert parts["column"][:4].tolist() == [0, 1, 0, 1]
    assert parts["bank_group"][:4].tolist() == [0, 0, 1, 1]
    assert mapping.address(parts, organisation).tolist() == list(range(0, 64 * 200, 64))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("order: [row]", "order must name each of channel, rank, bank_group, bank, row, column once, not row"),
        ("order: [row, rank, bank, bank_group, column, channel, 'floor:2']", "order has 'floor:2'"),
        ("order: [row, rank, bank, bank_group, column, channel, 'row:x']", "order has 'row:x'"),
        (
            "order: [row, rank, bank, bank_group, column, channel]\npermuted: [row]",
            "permuted may name bank and bank_group",
        ),
        ("order: [row, rank, bank, bank_group, column, channel]\nxor: [row]", "unknown field xor"),
    ],
)
def test_a_wrong_mapping_is_named(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"name: wrong\n{text}\n")
    with pytest.raises(FieldError, match=message):
        AddressMapping.load(str(path))


def test_a_cut_that_does_not_divide(tmp_path):
    path = tmp_path / "cut.yaml"
    path.write_text("name: cut\norder: [row, column, rank, bank, bank_group, 'column:3', channel]\n")
    with pytest.raises(FieldError, match="128 columns cannot be cut into 3"):
        AddressMapping.load(str(path)).locate(np.array([0]), Standard.load("ddr4-3200").organisation)
