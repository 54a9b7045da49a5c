"""The checksum against the standard's own loop."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from device_profiles.hj212.crc import Checksum, checksum, crc, crc_modbus, identify
from tests.unit.hj212.hj212_wire import plain_crc, plain_modbus, swapped


def test_check_values() -> None:
    assert crc(b"123456789") == 0x2F80
    assert crc_modbus(b"123456789") == 0x4B37
    assert crc(b"") == 0xFFFF


@given(st.binary(max_size=300))
def test_the_same_as_the_plain_loop(data: bytes) -> None:
    assert crc(data) == plain_crc(data)
    assert crc_modbus(data) == plain_modbus(data)


def test_the_same_at_every_length_and_at_the_longest() -> None:
    dice = random.Random(4)
    for size in (*range(1_030), 4_095, 4_096, 4_097, 9_999):
        data = dice.randbytes(size)
        assert crc(data) == plain_crc(data), size


def test_there_are_only_256_checksums() -> None:
    dice = random.Random(5)
    assert len({crc(dice.randbytes(40)) for _ in range(20_000)}) == 256


def test_the_same_change_eight_bytes_apart_passes() -> None:
    """Why the checksum alone is never trusted."""
    data = bytearray(b"a34002-Rtd=57.3;a34004-Rtd=31.9")
    before = crc(bytes(data))
    data[3] ^= 0x05
    assert crc(bytes(data)) != before
    data[11] ^= 0x05
    assert crc(bytes(data)) == before


def test_every_kind_is_told_from_the_others() -> None:
    data = b"QN=20260803141502371;ST=39;CN=9014;CP=&&&&"
    assert checksum(data, Checksum.SWAPPED) == swapped(plain_crc(data))
    assert checksum(data, Checksum.MODBUS_SWAPPED) == swapped(plain_modbus(data))
    for kind in Checksum:
        assert identify(data, checksum(data, kind)) is kind
    assert identify(data, checksum(data, Checksum.HJ212) ^ 1) is None
