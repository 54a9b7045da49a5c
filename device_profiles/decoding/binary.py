"""Binary frames: fixed places, checked before they are read. Pure."""

from __future__ import annotations

import math
import struct
from zoneinfo import ZoneInfo

from device_profiles.datasheets import NUMBER_BYTES, TIME_BYTES, Check, Datasheet, Frame
from device_profiles.decoding.alarms import ReadAlarms, alarm_reader
from device_profiles.decoding.contradictions import contradiction_finder
from device_profiles.decoding.terms import Terms
from device_profiles.decoding.times import AT_RECEIPT, NO_TIME_NOTE, binary_time
from device_profiles.decoding.values import ReadValue, value_reader
from device_profiles.errors import Reason, Rejected
from device_profiles.hj212.crc import crc as crc16_hj212
from device_profiles.readings import Refused, Telemetry
from device_profiles.vocabulary import QUANTITIES, SERIES_BY_NAME

_NAN = math.nan
_FORMATS = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "f64": "d",
}  # fmt: skip


def number_at(body: bytes, at: int, kind: str, order: str) -> float | int:
    """Read a number of a frame.

    Args:
        body: The frame.
        at: Offset; negative: from its end.
        kind: As datasheets name it: "u16", "f32", "bcd2" …
        order: "big" or "little".

    Returns:
        The number.

    Raises:
        Rejected: `length` where the frame ends before, `type` where nibbles are no digits.
    """
    raw = _bytes_at(body, at, NUMBER_BYTES[kind])
    if len(raw) < NUMBER_BYTES[kind]:
        raise Rejected(
            Reason.LENGTH,
            f"a frame of {len(body)} bytes does not hold {NUMBER_BYTES[kind]} at byte {at}",
            len(body),
        )
    if kind.startswith("bcd"):
        digits = (raw if order == "big" else raw[::-1]).hex()
        if not digits.isdigit():
            at_byte = at if at >= 0 else len(body) + at
            raise Rejected(Reason.TYPE, f"bytes {raw.hex()} are no decimal digits", at_byte)
        return int(digits)
    if kind == "u24":
        return int.from_bytes(raw, "big" if order == "big" else "little")
    number: float | int = struct.unpack((">" if order == "big" else "<") + _FORMATS[kind], raw)[0]
    return number


def _bytes_at(body: bytes, at: int, count: int) -> bytes:
    start = at if at >= 0 else len(body) + at
    return body[start : start + count] if start >= 0 else b""


def crc16_modbus(body: bytes, register: int = 0xFFFF) -> int:
    """CRC-16/MODBUS: polynomial 0xA001 reflected; "123456789" gives 0x4B37.

    Args:
        body: What it is taken over.
        register: Where it begins.

    Returns:
        The checksum.
    """
    for byte in body:
        register = register >> 8 ^ _CRC_TABLE[(register ^ byte) & 0xFF]
    return register


def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        register = number
        for _ in range(8):
            register = register >> 1 ^ 0xA001 if register & 1 else register >> 1
        table.append(register)
    return table


_CRC_TABLE = _crc_table()


def require_frame(frame: Frame, payload: bytes) -> None:
    """Refuse a frame that is not whole.

    Args:
        frame: The datasheet's section.
        payload: The bytes.

    Raises:
        Rejected: `syntax` for a wrong start or end, `length`, or `crc`.
    """
    start, end = bytes.fromhex(frame.start or ""), bytes.fromhex(frame.end or "")
    if not payload.startswith(start):
        seen = payload[: len(start)].hex()
        raise Rejected(Reason.SYNTAX, f"the frame begins with {seen}, not {start.hex()}", 0)
    whole = frame.bytes
    if frame.length is not None:
        said = number_at(payload, frame.length.at, frame.length.type, frame.order)
        whole = int(said) + frame.length.plus
    if whole is not None and len(payload) != whole:
        raise Rejected(
            Reason.LENGTH, f"the frame has {len(payload)} bytes, it ought to have {whole}"
        )
    if not payload.endswith(end):
        at = max(0, len(payload) - len(end))
        raise Rejected(Reason.SYNTAX, f"the frame does not end in {end.hex()}", at)
    if frame.check is not None:
        _require_check(frame.check, payload)


def _require_check(check: Check, payload: bytes) -> None:
    body = payload[check.start : check.end]
    at = check.at if check.at >= 0 else len(payload) + check.at
    match check.kind:
        case "sum8":
            wanted, kind = sum(body) & 0xFF, "u8"
        case "xor8":
            wanted, kind = 0, "u8"
            for byte in body:
                wanted ^= byte
        case "crc16_modbus":
            wanted, kind = crc16_modbus(body), "u16"
        case "crc16_hj212":
            wanted, kind = crc16_hj212(body), "u16"
    given = int(number_at(payload, at, kind, check.order))
    if given != wanted:
        digits = 2 * NUMBER_BYTES[kind]
        raise Rejected(
            Reason.CRC,
            f"{check.kind} is {given:0{digits}X}, the bytes give {wanted:0{digits}X}",
            at,
        )


class BinaryReading:
    """Reads one binary frame by a datasheet."""

    def __init__(self, sheet: Datasheet, terms: Terms) -> None:
        """Build every line's reader once.

        Args:
            sheet: The datasheet, of format `struct`.
            terms: Of the device.
        """
        assert sheet.frame is not None and sheet.time is not None  # noqa: S101, PT018
        quantities = QUANTITIES[sheet.kind]
        places = {quantity.name: place for place, quantity in enumerate(quantities)}
        self._frame = frame = sheet.frame
        self._blank = [_NAN] * len(quantities)
        self._values: list[tuple[int, str, int, str, str, ReadValue]] = [
            (
                places[name],
                name,
                int(value.at),
                str(value.type),
                value.order or frame.order,
                value_reader(
                    value, quantities[places[name]], terms.units.get(name), terms.limits.get(name)
                ),
            )
            for name, value in sheet.values.items()
        ]
        self._alarms: list[tuple[int, str, str, ReadAlarms]] = [
            (int(alarm.at), str(alarm.type), alarm.order or frame.order, alarm_reader(alarm))
            for alarm in sheet.alarms
        ]
        time = sheet.time
        self._time = time
        self._zone = ZoneInfo(terms.zone or time.zone or "UTC")
        assert isinstance(sheet.series, str)  # noqa: S101 - the datasheet was checked
        self._series = int(SERIES_BY_NAME[sheet.series])
        self._contradictions = [
            contradiction_finder(entry, quantities) for entry in sheet.contradictions
        ]

    def read(self, payload: bytes) -> tuple[Telemetry, list[Refused], list[str]] | None:
        """Read one frame.

        Args:
            payload: The bytes.

        Returns:
            The reading, the values refused, and notes; None for a frame that is known and holds
            no reading.

        Raises:
            Rejected: Nothing of it can be read.
        """
        frame = self._frame
        require_frame(frame, payload)
        if frame.select is not None:
            select = frame.select
            command = number_at(payload, select.at, select.type, frame.order)
            if command in select.ignore:
                return None
            if command != select.equals:
                raise Rejected(
                    Reason.TYPE, f"command {int(command)} is not in the datasheet", select.at
                )
        reported_us = self._read_time(payload)
        values = self._blank.copy()
        faults: list[Refused] = []
        for place, name, at, kind, order, read in self._values:
            try:
                values[place] = read(number_at(payload, at, kind, order))
            except Rejected as fault:
                detail = (
                    fault.detail if fault.detail.startswith(name) else f"{name}: {fault.detail}"
                )
                raw = _bytes_at(payload, at, NUMBER_BYTES[kind]).hex()
                faults.append(Refused(fault.reason, detail, name, raw))
        alarms: list[str] = []
        for at, kind, order, read_bits in self._alarms:
            try:
                alarms += read_bits(number_at(payload, at, kind, order))
            except Rejected as fault:
                faults.append(Refused(fault.reason, fault.detail, "alarms"))
        if values == self._blank and not self._alarms:  # the very same NaN in every place
            reason = faults[0].reason if faults else Reason.INCOMPLETE
            raise Rejected(reason, faults[0].detail if faults else "the frame holds no value")
        notes = [note for find in self._contradictions if (note := find(values, None))]
        if reported_us == AT_RECEIPT:
            notes.append(NO_TIME_NOTE)
        named = tuple(dict.fromkeys(alarms)) if self._alarms else None
        telemetry = Telemetry(reported_us, tuple(values), self._series, None, named)
        return telemetry, faults, notes

    def _read_time(self, payload: bytes) -> int:
        at, kind = self._time.at, self._time.type
        if at is None or kind is None:
            return AT_RECEIPT
        raw = _bytes_at(payload, int(at), TIME_BYTES[kind])
        if len(raw) < TIME_BYTES[kind]:
            raise Rejected(Reason.LENGTH, f"the frame ends before its time at byte {at}")
        return binary_time(raw, kind, self._zone)
