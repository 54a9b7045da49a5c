"""What can be wrong with what a device sends.

::

    DeviceProfilesError
    └── Rejected        the peer's data is wrong: quarantine it, never retry
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a message, a reading or one of its values was not taken."""

    CRC = "crc"
    LENGTH = "length"
    INCOMPLETE = "incomplete"
    SYNTAX = "syntax"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    UNKNOWN_DEVICE = "unknown_device"
    TIME = "time"
    RANGE = "range"
    TYPE = "type"
    TOPIC = "topic"
    CONFLICT = "conflict"


class DeviceProfilesError(Exception):
    """Root of the errors of this package."""


class Rejected(DeviceProfilesError):  # noqa: N818 - one of the three kinds of error by name
    """The data is wrong and will be wrong every time it is read.

    Attributes:
        reason: The class of fault.
        detail: One line naming the offending value and the rule it broke.
        offset: Byte offset of the fault in the payload, where the decoder knows it.
    """

    def __init__(self, reason: Reason, detail: str, offset: int | None = None) -> None:
        super().__init__(
            f"{reason}: {detail}" + (f" (at byte {offset})" if offset is not None else "")
        )
        self.reason = reason
        self.detail = detail
        self.offset = offset


def shown(value: object, limit: int = 80) -> str:
    """Render an offending value for a one-line message, bounded and printable.

    Args:
        value: Whatever the peer sent.
        limit: Longest text returned, in characters.

    Returns:
        ``repr`` of the value, cut in the middle of nowhere with an ellipsis when too long.
    """
    try:
        text = repr(value[: limit * 2] if isinstance(value, str | bytes) else value)
    except (RecursionError, ValueError):  # nested too deep, or an integer too long to write out
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 1] + "…"
