"""Times as devices write them, turned into microseconds since 1970 UTC. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from device_profiles.datasheets import Time
from device_profiles.decoding.values import number_in
from device_profiles.errors import Reason, Rejected, shown
from device_profiles.native import FIRST_US, LAST_US, microseconds
from device_profiles.time_formats import compile_time_format

AT_RECEIPT: Final = -1
"""Stands for the time of receipt, where the device sends none and the datasheet allows it."""

NO_TIME_NOTE: Final = "no time of its own: that of receipt stands in"

ReadTime = Callable[[Any], int]

_LONGEST = 64
_MOST_DIGITS = 20
_FARTHEST = 1e18


def time_reader(time: Time, zone: str | None = None) -> ReadTime:
    """Build the reader of a datasheet's times.

    Args:
        time: As the datasheet says.
        zone: This one device's zone, where it differs from the datasheet's; a time that names its
            own zone keeps it.

    Returns:
        A function from the raw value to microseconds; it raises `Rejected` with reason `time`.
    """
    named = zone if zone is not None and time.zone is not None else time.zone
    place = ZoneInfo(named) if named else None
    match time.format:
        case "rfc3339":
            read = _rfc3339(place)
        case "epoch_s":
            read = _epoch(lambda _: 1_000_000)
        case "epoch_ms":
            read = _epoch(lambda _: 1_000)
        case "auto_epoch":
            # Seconds until 1e11 (the year 5138), else milliseconds: both are sent by one make.
            read = _epoch(lambda number: 1_000_000 if abs(number) < 1e11 else 1_000)
        case _:
            read = _written(time.format, place)

    def bounded(raw: Any) -> int:
        us = read(raw)
        if not FIRST_US <= us < LAST_US:
            raise Rejected(Reason.TIME, f"time {shown(raw)} is not between 2000 and 2100")
        return us

    return bounded


def _epoch(scale: Callable[[float], int]) -> ReadTime:
    def read(raw: Any) -> int:
        number = raw
        if type(raw) is str:
            text = raw.strip()
            try:
                whole = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
                number = int(text) if whole else number_in(text)
            except Rejected:
                number = None
        if type(number) is int:
            return number * scale(number)
        if type(number) is float and abs(number) < _FARTHEST:
            return round(number * scale(number))
        raise Rejected(Reason.TIME, f"time {shown(raw)} is no number of seconds or milliseconds")

    return read


def _rfc3339(zone: ZoneInfo | None) -> ReadTime:
    def read(raw: Any) -> int:
        try:
            if type(raw) is not str or len(raw) > _LONGEST:
                raise ValueError
            moment = msgspec.convert(raw.strip().replace(" ", "T", 1), datetime)
        except (ValueError, msgspec.ValidationError, UnicodeEncodeError):
            raise Rejected(Reason.TIME, f"time {shown(raw)} is not RFC 3339") from None
        return _placed(moment, zone, raw)

    return read


def _written(form: str, zone: ZoneInfo | None) -> ReadTime:
    parse = compile_time_format(form)

    def read(raw: Any) -> int:
        try:
            if type(raw) is str:
                text = raw.strip()
            elif type(raw) is int:
                text = str(raw)  # "20260301090203" sent as a number
            else:
                raise ValueError
            if len(text) > _LONGEST:
                raise ValueError
            moment = parse(text)
        except (ValueError, OverflowError):
            raise Rejected(Reason.TIME, f"time {shown(raw)} is not written as {form}") from None
        return _placed(moment, zone, raw)

    return read


def _placed(moment: datetime, zone: ZoneInfo | None, raw: Any) -> int:
    if moment.tzinfo is None:
        if zone is None:
            raise Rejected(Reason.TIME, f"time {shown(raw)} has no zone")
        moment = moment.replace(tzinfo=zone)
    try:
        return microseconds(moment)
    except OverflowError:
        raise Rejected(Reason.TIME, f"time {shown(raw)} lies outside the years 1 to 9999") from None


def binary_time(raw: bytes, kind: str, zone: ZoneInfo) -> int:
    """Read a time of a binary frame.

    Args:
        raw: Six bytes yy mm dd HH MM SS, or seven with the century first.
        kind: "bcd6" or "bcd7" (decimal digits in the nibbles), or "binary6".
        zone: For the device's clock.

    Returns:
        Microseconds since 1970 UTC.

    Raises:
        Rejected: With reason `time`.
    """
    if kind.startswith("bcd"):
        text = raw.hex()
        parts = [int(text[i : i + 2]) for i in range(0, len(text), 2)] if text.isdigit() else []
    else:
        parts = list(raw)
    if len(parts) == 7:
        parts = [parts[0] * 100 + parts[1], *parts[2:]]
    elif len(parts) == 6:
        parts = [2000 + parts[0], *parts[1:]]
    try:
        year, month, day, hour, minute, second = parts
        moment = datetime(year, month, day, hour, minute, second, tzinfo=zone)
        us = microseconds(moment)
    except (ValueError, OverflowError):
        raise Rejected(Reason.TIME, f"time bytes {raw.hex()} are no time") from None
    if not FIRST_US <= us < LAST_US:
        raise Rejected(Reason.TIME, f"time {moment.isoformat()} is not between 2000 and 2100")
    return us
