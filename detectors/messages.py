"""Figures and durations as people say them, in Chinese and English."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from device_profiles.vocabulary import Kind

KINDS = {
    Kind.DUST: ("扬尘监测点", "dust monitor"),
    Kind.CRANE: ("塔吊", "crane"),
    Kind.CAMERA: ("摄像头", "camera"),
}
"""What a device is called, in Chinese and English."""

_UNITS = ((3_600, "小时", "h"), (60, "分", "min"), (1, "秒", "s"))


def figure(value: float, digits: int = 1) -> str:
    """Write a figure without trailing zeros.

    Args:
        value: The figure.
        digits: Most decimals shown.

    Returns:
        "80" for 80.0, "80.3" for 80.26.
    """
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def beyond(value: float, limit: float, digits: int = 1) -> str:
    """Write a figure so that it does not look equal to the limit it broke.

    Args:
        value: The figure, at most 3 decimals.
        limit: The limit.
        digits: Decimals shown where they suffice.

    Returns:
        As `figure`, with 3 decimals where fewer would hide the difference.
    """
    text = figure(value, digits)
    return text if text != figure(limit, digits) else figure(value, 3)


def lasting(duration: timedelta) -> tuple[str, str]:
    """Write how long something lasted, to the second.

    Args:
        duration: Not negative.

    Returns:
        "3 分 20 秒" and "3 min 20 s"; under a second "不到 1 秒" and "under 1 s".
    """
    rest = int(duration.total_seconds())
    if rest == 0:
        return "不到 1 秒", "under 1 s"
    zh, en = [], []
    for size, name_zh, name_en in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            zh.append(f"{count} {name_zh}")
            en.append(f"{count} {name_en}")
    return " ".join(zh), " ".join(en)


def period(seconds: float) -> tuple[str, str]:
    """Write the length of an averaging period: "15 分钟", "15 min".

    Args:
        seconds: Its length.

    Returns:
        Chinese and English, in the largest unit that divides it.
    """
    for size, name_zh, name_en in ((3_600, "小时", "h"), (60, "分钟", "min")):
        if seconds % size == 0:
            return f"{int(seconds // size)} {name_zh}", f"{int(seconds // size)} {name_en}"
    return f"{figure(seconds, 3)} 秒", f"{figure(seconds, 3)} s"


def moment(instant: datetime, timezone: str) -> str:
    """Write an instant as the site's people read it off the wall, to the minute.

    Args:
        instant: Aware.
        timezone: IANA name of the site's zone.

    Returns:
        "2026-11-21 10:32".
    """
    return instant.astimezone(ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M")
