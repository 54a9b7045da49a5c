"""Binary frames: start, length, checksum, command, and numbers at fixed places."""

import random
import struct
from typing import Any

import pytest

from device_profiles.decoding.binary import crc16_modbus, number_at, require_frame
from device_profiles.decoding.times import AT_RECEIPT
from device_profiles.errors import Reason, Rejected
from tests.unit.device_profiles.sheets import decoder, sheet, values_of

BASE: dict[str, Any] = {
    "id": "test-frame",
    "title": "a test",
    "kind": "crane",
    "format": "struct",
    "frame": {"start": "A5", "end": "5A"},
    "time": {"absent": "received"},
    "values": {"load_t": {"at": 1, "type": "u16", "scale": 0.01}},
}


@pytest.mark.parametrize(
    ("kind", "order", "raw", "number"),
    [
        ("u8", "big", "ff", 255),
        ("i8", "big", "ff", -1),
        ("u16", "big", "0102", 258),
        ("u16", "little", "0102", 513),
        ("i16", "big", "fffe", -2),
        ("u24", "big", "010203", 66_051),
        ("u24", "little", "030201", 66_051),
        ("u32", "big", "00010000", 65_536),
        ("i32", "little", "feffffff", -2),
        ("f32", "big", "41200000", 10.0),
        ("f64", "little", "0000000000002440", 10.0),
        ("bcd1", "big", "95", 95),
        ("bcd2", "big", "2115", 2_115),
        ("bcd2", "little", "1521", 2_115),
        ("bcd3", "big", "012345", 12_345),
        ("bcd4", "big", "12345678", 12_345_678),
    ],
)
def test_a_number_is_read_from_either_end(kind: str, order: str, raw: str, number: float) -> None:
    body = bytes.fromhex(raw)
    assert number_at(b"\0\0" + body, 2, kind, order) == number
    assert number_at(body + b"\0", -len(body) - 1, kind, order) == number
    for at in (len(body), 1, -len(body) - 1):
        if at + len(body) <= len(body) and at >= 0:
            continue
        with pytest.raises(Rejected) as caught:
            number_at(body, at if kind not in ("u8", "i8", "bcd1") else 9, kind, order)
        assert caught.value.reason is Reason.LENGTH


@pytest.mark.parametrize(("kind", "raw"), [("bcd1", "9a"), ("bcd2", "0f11"), ("bcd4", "0000000a")])
def test_nibbles_that_are_no_digits(kind: str, raw: str) -> None:
    with pytest.raises(Rejected, match="are no decimal digits") as caught:
        number_at(bytes.fromhex(raw), 0, kind, "big")
    assert caught.value.reason is Reason.TYPE


def frame(**changes: Any) -> Any:
    return sheet(BASE, frame=BASE["frame"] | changes).frame


@pytest.mark.parametrize(
    ("section", "payload", "reason", "said"),
    [
        ({}, "a6015a", Reason.SYNTAX, "begins with a6, not a5"),
        ({}, "", Reason.SYNTAX, "begins with , not a5"),
        ({}, "a5015b", Reason.SYNTAX, "does not end in 5a"),
        ({"bytes": 4}, "a5015a", Reason.LENGTH, "has 3 bytes, it ought to have 4"),
        ({"length": {"at": 1, "plus": 2}}, "a5025a", Reason.LENGTH, "ought to have 4"),
        ({"length": {"at": 9}}, "a5025a", Reason.LENGTH, "does not hold 1 at byte 9"),
        ({"length": {"at": 1, "type": "i8"}}, "a5ff5a", Reason.LENGTH, "ought to have -1"),
        (
            {"check": {"kind": "sum8", "start": 1, "end": -2, "at": -2}},
            "a50103055a",
            Reason.CRC,
            "sum8 is 05, the bytes give 04",
        ),
        (
            {"check": {"kind": "xor8", "start": 1, "end": -2, "at": -2}},
            "a50103005a",
            Reason.CRC,
            "xor8 is 00, the bytes give 02",
        ),
        (
            {"check": {"kind": "crc16_modbus", "start": 1, "end": -3, "at": -3}},
            "a5313233343536373839000" + "05a",
            Reason.CRC,
            "crc16_modbus is 0000, the bytes give 4B37",
        ),
        (
            {"check": {"kind": "crc16_hj212", "start": 1, "end": -3, "at": -3}},
            "a5313233343536373839000" + "05a",
            Reason.CRC,
            "crc16_hj212 is 0000, the bytes give 2F80",
        ),
    ],
)
def test_a_broken_frame_is_refused(
    section: dict[str, Any], payload: str, reason: Reason, said: str
) -> None:
    with pytest.raises(Rejected) as caught:
        require_frame(frame(**section), bytes.fromhex(payload))
    assert caught.value.reason is reason
    assert said in caught.value.detail


@pytest.mark.parametrize(
    ("section", "payload"),
    [
        ({}, "a55a"),
        ({"start": None, "end": None}, ""),
        ({"bytes": 3}, "a5015a"),
        ({"length": {"at": 1, "plus": 2}}, "a5015a"),
        ({"length": {"at": 1, "type": "u16"}, "order": "little"}, "a504005a"),
        ({"check": {"kind": "sum8", "start": 1, "end": -2, "at": -2}}, "a5ff02015a"),
        ({"check": {"kind": "xor8", "start": 1, "end": -2, "at": -2}}, "a50103025a"),
        (
            {"check": {"kind": "crc16_modbus", "start": 1, "end": -3, "at": -3, "order": "little"}},
            "a5313233343536373839374b5a",
        ),
    ],
)
def test_a_whole_frame_is_taken(section: dict[str, Any], payload: str) -> None:
    require_frame(frame(**section), bytes.fromhex(payload))


def test_modbus_is_its_loop() -> None:
    dice = random.Random(4)
    for size in range(40):
        data = dice.randbytes(size)
        register = 0xFFFF
        for byte in data:
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ 0xA001 if register & 1 else register >> 1
        assert crc16_modbus(data) == register
    assert crc16_modbus(b"123456789") == 0x4B37


def test_values_alarms_and_notes_of_a_frame() -> None:
    lines: dict[str, Any] = {
        "values": {
            "load_t": {"at": 1, "type": "u16", "scale": 0.01, "missing": [65535]},
            "rated_load_t": {"at": 3, "type": "u16", "scale": 0.01, "order": "little"},
            "moment_pct": {"at": -2, "type": "u8"},
        },
        "alarms": [
            {"at": 5, "type": "u8", "bits": "number", "names": {"0": "overload", "7": "wind"}},
            {"at": 6, "type": "u8", "name": "stop", "when": [85]},
        ],
        "contradictions": [{"says": "moment_pct", "percent_of": ["load_t", "rated_load_t"]}],
    }
    read = decoder(BASE, **lines)
    payload = struct.pack(">BHHBBBB", 0xA5, 285, 0x2C01, 0x81, 0x55, 20, 0x5A)
    decoded = read(payload)
    assert values_of(decoded, "crane") == {"load_t": 2.85, "rated_load_t": 3, "moment_pct": 20}
    assert decoded.readings[0].alarms == ("overload", "wind", "stop")
    assert decoded.readings[0].reported_us == AT_RECEIPT
    assert decoded.notes == (
        "moment_pct 20 contradicts load_t 2.85 of rated_load_t 3, which is 95 %",
        "no time of its own: that of receipt stands in",
    )
    missing = read(struct.pack(">BHHBBBB", 0xA5, 0xFFFF, 0x2C01, 0, 0, 20, 0x5A))
    assert "load_t" not in values_of(missing, "crane")
    assert missing.refused == ()
    assert missing.readings[0].alarms == ()
    short = read(b"\xa5\x01\x1d\x5a")
    assert [part.field for part in short.refused] == ["rated_load_t", "alarms", "alarms"]
    with pytest.raises(Rejected, match="does not hold 2 at byte 1"):
        decoder(BASE)(b"\xa5\x5a")


def test_commands_select_the_readings() -> None:
    selected = decoder(
        BASE, frame=BASE["frame"] | {"select": {"at": 3, "equals": 6, "ignore": [0, 1]}}
    )
    assert values_of(selected(b"\xa5\x01\x1d\x06\x5a"), "crane") == {"load_t": 2.85}
    ignored = selected(b"\xa5\x01\x1d\x01\x5a")
    assert (ignored.readings, ignored.notes) == ([], ("a frame without a reading",))
    with pytest.raises(Rejected, match="command 9 is not in the datasheet") as caught:
        selected(b"\xa5\x01\x1d\x09\x5a")
    assert caught.value.offset == 3


def test_the_time_of_a_frame_is_in_the_devices_zone() -> None:
    timed = decoder(BASE, time={"at": -7, "type": "bcd6", "zone": "Asia/Shanghai"})
    payload = b"\xa5\x01\x1d" + bytes.fromhex("260301090203") + b"\x5a"
    assert timed(payload).readings[0].reported_us == 1_772_326_923_000_000
    with pytest.raises(Rejected, match="ends before its time"):
        timed(b"\xa5\x01\x1d\x5a")
