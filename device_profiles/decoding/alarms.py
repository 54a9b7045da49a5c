"""Alarms as devices write them: one field that says yes, or a field of bits. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from device_profiles.datasheets import Alarm
from device_profiles.decoding.values import missing_test
from device_profiles.errors import Reason, Rejected, shown

MOST_BITS = 64

ReadAlarms = Callable[[Any], list[str]]


def alarm_reader(alarm: Alarm, bit_end: str | None = None) -> ReadAlarms:
    """Build the reader of one line of alarms.

    Args:
        alarm: The datasheet's line.
        bit_end: This one device's end of bit 0, "right" or "left", where it is not the
            datasheet's.

    Returns:
        A function from the raw value to the names of active alarms; it raises `Rejected` with
        reason `type`.
    """
    if alarm.name is not None:
        return _one(alarm.name, alarm)
    names = {int(bit): name for bit, name in alarm.names.items()}
    if alarm.bits == "number":
        return lambda raw: _of_number(raw, names, alarm.width or MOST_BITS)
    return _of_text(names, alarm.width, from_right=(bit_end or alarm.bits) == "right")


def _one(name: str, alarm: Alarm) -> ReadAlarms:
    is_said = missing_test(alarm.when) or (lambda _: False)
    active = [name]

    def read(raw: Any) -> list[str]:
        if type(raw) not in (str, int, float, bool):
            raise Rejected(Reason.TYPE, f"alarm {name}: {shown(raw)} is no yes or no")
        return active if is_said(raw) else []

    return read


def _of_text(names: dict[int, str], width: int | None, *, from_right: bool) -> ReadAlarms:
    wanted = f"{width or 'some'} characters 0 and 1"

    def read(raw: Any) -> list[str]:
        bits = raw.strip() if type(raw) is str else ""
        if not bits or len(bits) > MOST_BITS or bits.strip("01") or (width and len(bits) != width):
            raise Rejected(Reason.TYPE, f"alarm bits {shown(raw)} are not {wanted}")
        if "1" not in bits:
            return []
        if from_right:
            bits = bits[::-1]
        return [name for bit, name in names.items() if bits[bit : bit + 1] == "1"]

    return read


def _of_number(raw: Any, names: dict[int, str], width: int) -> list[str]:
    number = raw
    if type(raw) is str:
        number = _integer(raw.strip())
    if type(number) is not int or number < 0 or number >> width:
        raise Rejected(Reason.TYPE, f"alarm bits {shown(raw)} are no number of {width} bits")
    return [name for bit, name in names.items() if number >> bit & 1]


def _integer(text: str) -> int | None:
    if len(text) > 20 or not text.isascii():
        return None
    try:
        return int(text, 16) if text[:2] in ("0x", "0X") else int(text) if text.isdigit() else None
    except ValueError:
        return None
