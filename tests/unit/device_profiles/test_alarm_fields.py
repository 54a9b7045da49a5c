"""Alarm bits from either end, as numbers, and fields that say yes."""

import json
from typing import Any

import pytest

from device_profiles.datasheets import Alarm
from device_profiles.decoding.alarms import alarm_reader
from device_profiles.decoding.terms import Terms
from device_profiles.errors import Reason, Rejected
from tests.unit.device_profiles.sheets import AT, CRANE, decoder

NAMES = {"0": "zero", "2": "two", "31": "last"}


def read(raw: Any, end: str | None = None, **line: Any) -> list[str]:
    return alarm_reader(Alarm(at="x", **({"names": NAMES} | line)), end)(raw)


@pytest.mark.parametrize(
    ("bits", "raw", "names"),
    [
        ("right", "00000101", ["zero", "two"]),
        ("left", "10100000", ["zero", "two"]),
        ("right", "10000000000000000000000000000001", ["zero", "last"]),
        ("left", "00000000000000000000000000000001", ["last"]),
        ("right", " 1 ", ["zero"]),
        ("left", "1", ["zero"]),
        ("right", "00", []),
        ("right", "1" * 64, ["zero", "two", "last"]),
        ("number", 5, ["zero", "two"]),
        ("number", "5", ["zero", "two"]),
        ("number", " 0x80000001 ", ["zero", "last"]),
        ("number", "007", ["zero", "two"]),
        ("number", 0, []),
        ("number", 2**64 - 1, ["zero", "two", "last"]),
    ],
)
def test_bits_have_names(bits: str, raw: Any, names: list[str]) -> None:
    assert read(raw, bits=bits) == names


@pytest.mark.parametrize(
    ("bits", "raw"),
    [
        ("right", ""),
        ("right", "012"),
        ("right", "0101x"),
        ("right", "1" * 65),
        ("right", 101),
        ("right", None),
        ("right", ["1"]),
        ("right", "１"),
        ("number", -1),
        ("number", 2**64),
        ("number", 1.0),
        ("number", True),
        ("number", "0b1"),
        ("number", "x"),
        ("number", ""),
        ("number", "１"),
        ("number", "0x"),
        ("number", "9" * 30),
        ("number", [1]),
    ],
)
def test_what_is_no_field_of_bits(bits: str, raw: Any) -> None:
    with pytest.raises(Rejected) as caught:
        read(raw, bits=bits)
    assert caught.value.reason is Reason.TYPE


def test_the_width_is_held() -> None:
    assert read("0" * 31 + "1", bits="right", width=32) == ["zero"]
    for wrong in ("0" * 31, "0" * 33):
        with pytest.raises(Rejected, match="are not 32 characters"):
            read(wrong, bits="right", width=32)
    with pytest.raises(Rejected, match="no number of 4 bits"):
        read(16, bits="number", width=4, names={"0": "zero"})


def test_a_vendors_own_example_contradicts_its_table() -> None:
    """The words say bits 2, 3 and 7; the digits, from the right, 2, 3 and 10: ends are settings."""
    example = "00000000000000000000010000001100"
    names = {str(bit): f"bit {bit}".replace(" ", "_") for bit in range(32)}
    assert read(example, bits="right", names=names) == ["bit_2", "bit_3", "bit_10"]
    assert read(example, "left", bits="right", names=names) == ["bit_21", "bit_28", "bit_29"]
    assert read(example[::-1], "right", bits="left", names=names) == read(
        example, bits="left", names=names
    )


@pytest.mark.parametrize("raw", ["1", 1, True, " 1 ", 1.0])
def test_a_field_says_yes(raw: Any) -> None:
    assert read(raw, name="overload", names={}) == ["overload"]


@pytest.mark.parametrize("raw", ["0", 0, False, "", "2", 2, "true"])
def test_a_field_says_no(raw: Any) -> None:
    assert read(raw, name="overload", names={}) == []


@pytest.mark.parametrize("raw", [None, [], {}])
def test_a_field_says_neither(raw: Any) -> None:
    with pytest.raises(Rejected, match="no yes or no"):
        read(raw, name="overload", names={})


def test_alarms_of_a_reading_come_once_and_in_order() -> None:
    lines = [
        {"at": "bits", "bits": "right", "names": {"0": "wind", "1": "overload"}},
        {"at": "over", "name": "overload"},
        {"at": "stop", "name": "stop", "when": ["STOP"]},
    ]
    crane = decoder(CRANE, alarms=lines)

    def alarms(**given: Any) -> tuple[tuple[str, ...] | None, list[str]]:
        decoded = crane(json.dumps({"t": AT, "load": 1} | given).encode())
        return decoded.readings[0].alarms, [part.detail for part in decoded.refused]

    assert alarms() == (None, [])
    assert alarms(bits=None, over="") == (None, [])
    assert alarms(bits="00") == ((), [])
    assert alarms(bits="11", over=1, stop="STOP") == (("wind", "overload", "stop"), [])
    assert alarms(bits="x", over=1) == (
        ("overload",),
        ["alarm bits 'x' are not some characters 0 and 1"],
    )
    assert alarms(bits="x")[0] is None
    own = decoder(CRANE, Terms(alarm_bits="left"), alarms=lines)
    (reading,) = own(json.dumps({"t": AT, "load": 1, "bits": "10"}).encode()).readings
    assert reading.alarms == ("wind",)


def test_alarms_alone_are_a_reading() -> None:
    lines = [{"at": "over", "name": "overload"}]
    decoded = decoder(CRANE, values=None, alarms=lines)(b'{"t": %d, "over": 0}' % AT)
    assert decoded.readings[0].alarms == ()
