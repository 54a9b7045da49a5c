"""What the tests of HJ 212 share: frames by hand, with a checksum computed as the standard says."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from device_profiles.hj212.factors import FIELD_PRACTICE, Dialect
from device_profiles.hj212.frames import Event, Fault, Frame, Tolerance
from device_profiles.hj212.reader import MAX_SEGMENT_BYTES, Reader
from device_profiles.hj212.readings import Contents, Hj212Decoder
from device_profiles.vocabulary import DUST_QUANTITIES

HEAD = "QN=20260803141502371;ST=39;CN=2011;PW=424242;MN=SITE00417000000000000931;Flag=5;"
"""A header as the standard wants it; its MN has 24 characters."""

VALUES = "DataTime=20260803141500;a34002-Rtd=57.3,a34002-Flag=N;LA-Rtd=63.8,LA-Flag=N"
USUAL = f"{HEAD}CP=&&{VALUES}&&"
MINUTE = HEAD.replace("2011", "2051") + (
    "CP=&&DataTime=20260803141500;"
    "a34001-Min=101.5,a34001-Avg=123.4,a34001-Max=150.25,a34001-Flag=N;"
    "a34002-Min=40.0,a34002-Avg=57.3,a34002-Max=66.1,a34002-Flag=N;"
    "a01001-Min=31.0,a01001-Avg=31.4,a01001-Max=31.9,a01001-Flag=N&&"
)


def plain_crc(data: bytes) -> int:
    """The loop of annex A, bit by bit: the oracle of the fast one."""
    register = 0xFFFF
    for byte in data:
        register = (register >> 8) ^ byte
        for _ in range(8):
            register = (register >> 1) ^ 0xA001 if register & 1 else register >> 1
    return register


def plain_modbus(data: bytes) -> int:
    register = 0xFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ 0xA001 if register & 1 else register >> 1
    return register


def swapped(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8


def wire(
    segment: str | bytes, *, length: str | None = None, crc: str | None = None, end: str = "\r\n"
) -> bytes:
    """A frame around a data segment; what is given is written instead of what is right."""
    data = segment.encode() if isinstance(segment, str) else segment
    right = f"{len(data):04d}" if length is None else length
    check = f"{plain_crc(data):04X}" if crc is None else crc
    return b"##" + right.encode() + data + check.encode() + end.encode()


def cut(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [*parts, data]


def fed(
    parts: Sequence[bytes],
    tolerances: Iterable[Tolerance] = (),
    most: int = MAX_SEGMENT_BYTES,
) -> list[Event]:
    """What a reader makes of bytes that come in these parts."""
    reader = Reader(tolerances, max_segment_bytes=most)
    events = [event for part in parts for event in reader.feed(part)]
    assert reader.held_bytes <= most + 20
    return events + reader.finish()


def one_frame(data: bytes, *tolerances: Tolerance) -> Frame:
    (event,) = fed([data], tolerances)
    assert isinstance(event, Frame), event
    return event


def one_fault(data: bytes, *tolerances: Tolerance) -> Fault:
    (event,) = fed([data], tolerances)
    assert isinstance(event, Fault), event
    return event


def read(
    segment: str,
    *,
    dialects: tuple[Dialect, ...] = FIELD_PRACTICE,
    units: dict[str, str] | None = None,
    dust_unit: str = "µg/m³",
) -> Contents:
    """What the decoder makes of a data segment."""
    decoder = Hj212Decoder(dialects=dialects, units=units, dust_unit=dust_unit)
    return decoder.read(wire(segment))


def with_cp(cp: str, cn: str = "2011") -> str:
    """A data segment with this CP."""
    return f"{HEAD.replace('2011', cn)}CP=&&{cp}&&"


def values_of(contents: Contents, place: int = 0) -> dict[str, float]:
    """The values of a reading by quantity, without those it lacks."""
    values = contents.readings[place].telemetry.values
    named = zip(DUST_QUANTITIES, values, strict=True)
    return {quantity.name: value for quantity, value in named if value == value}


def mutated(dice: random.Random, data: bytes) -> bytes:
    """The same bytes with something done to them."""
    mess = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(mess) + 1)
        match dice.randrange(6):
            case 0:
                mess[at:at] = dice.randbytes(dice.randrange(4))
            case 1:
                del mess[at : at + dice.randrange(1, 30)]
            case 2:
                mess[at : at + 1] = bytes([dice.randrange(256)])
            case 3:
                mess[at:at] = dice.choice((b"##", b"&&", b"##0151", b"CP=&&", b"=", b";", b","))
            case 4:
                start = dice.randrange(len(mess) + 1)
                mess[at:at] = mess[start : start + dice.randrange(40)]
            case _:
                mess[at : at + 2] = dice.choice((b"\r\n", b"\0", "，".encode(), b"\xa3\xac", b"_"))
        if not mess:
            mess += b"#"
    return bytes(mess)
