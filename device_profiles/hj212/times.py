"""The times of HJ 212: digits in Beijing time, which is UTC+8 all year.

``DataTime`` has 14 digits, ``yyyyMMddHHmmss``; ``QN`` has three more for milliseconds. For
minute, hour and day data (2051, 2061, 2031) DataTime is the start of the period, for real-time
data (2011) the instant.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from device_profiles.errors import Reason, Rejected, shown
from device_profiles.vocabulary import Series

BEIJING = timezone(timedelta(hours=8), "UTC+8")

_SECONDS = 14
_MILLISECONDS = 17
_YEARS = range(2000, 2100)
_EPOCH_DAY = datetime(1970, 1, 1, tzinfo=UTC).toordinal()
_UTC_OFFSET_S = 8 * 3_600


def parse_time(digits: str) -> int:
    """Read a DataTime or QN.

    Args:
        digits: 14 digits, or 17 with milliseconds.

    Returns:
        Microseconds since 1970 UTC.

    Raises:
        Rejected: With reason `time`: not such digits, no such date, or not from 2000 to 2099.
    """
    size = len(digits)
    if (size != _SECONDS and size != _MILLISECONDS) or not (digits.isascii() and digits.isdigit()):
        raise Rejected(Reason.TIME, f"{shown(digits)} is not 14 digits, yyyyMMddHHmmss")
    hour, minute, second = int(digits[8:10]), int(digits[10:12]), int(digits[12:14])
    year = int(digits[:4])
    try:
        day = datetime(year, int(digits[4:6]), int(digits[6:8]), hour, minute, second, 0, UTC)
    except ValueError as fault:
        raise Rejected(Reason.TIME, f"{shown(digits)} is no time: {fault}") from None
    if year not in _YEARS:
        raise Rejected(Reason.TIME, f"{shown(digits)} is not between 2000 and 2100")
    seconds = (day.toordinal() - _EPOCH_DAY) * 86_400 + hour * 3_600 + minute * 60 + second
    milliseconds = int(digits[_SECONDS:] or "0")
    return (seconds - _UTC_OFFSET_S) * 1_000_000 + milliseconds * 1_000


def has_milliseconds(digits: str) -> bool:
    """Whether a time that was read carries milliseconds, as QN does and DataTime should not."""
    return len(digits) == _MILLISECONDS


def at_start(digits: str, series: Series) -> bool:
    """Whether a time that was read can be the start of a period of that series.

    Args:
        digits: As given to `parse_time`.
        series: What the time means.

    Returns:
        True for an instant, a full minute, a full hour, a midnight in Beijing.
    """
    return not digits[_START[series] :].strip("0")


_START = {Series.INSTANT: _MILLISECONDS, Series.MINUTE: 12, Series.HOUR: 10, Series.DAY: 8}


def format_time(moment: datetime) -> str:
    """Write a DataTime, BeginTime, EndTime or SystemTime.

    Args:
        moment: An aware time.

    Returns:
        14 digits in Beijing time.
    """
    return moment.astimezone(BEIJING).strftime("%Y%m%d%H%M%S")


def format_qn(moment: datetime) -> str:
    """Write a QN.

    Args:
        moment: An aware time; two requests to one device need different milliseconds.

    Returns:
        17 digits in Beijing time.
    """
    local = moment.astimezone(BEIJING)
    return f"{local:%Y%m%d%H%M%S}{local.microsecond // 1_000:03d}"
