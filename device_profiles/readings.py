"""The reading types: what a device said, typed, with a unit in every field name.

`Telemetry` is the lean form that decoders produce and the ingest blocks are built from;
`DustReading`, `CraneReading`, `Detections`, `Reported`, `FrameSeen` and `DeviceStatus` are the
stored readings as detectors and people see them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from device_profiles.errors import Reason
from device_profiles.vocabulary import Kind, Series


class Telemetry(msgspec.Struct, frozen=True, gc=False):
    """One decoded reading, not yet stored.

    Attributes:
        reported_us: The device's own time, microseconds since 1970 UTC.
        values: One float per quantity of the kind, in the order of the vocabulary; NaN where
            the device said nothing.
        series: What the time means, a value of `Series`.
        seq: The device's own counter, if it has one.
        alarms: Names of active alarms (cranes); None where the device says nothing of alarms.
        extra: JSON object text of names the vocabulary does not know; None if there are none.
    """

    reported_us: int
    values: tuple[float, ...]
    series: int = 0
    seq: int | None = None
    alarms: tuple[str, ...] | None = None
    extra: bytes | None = None


class Refused(msgspec.Struct, frozen=True):
    """A part of a message that was not taken.

    Attributes:
        reason: The class of fault.
        detail: One line naming the value and the rule it broke.
        field: The quantity refused, or None when a whole reading was refused.
        value: The offending value as text, bounded.
    """

    reason: Reason
    detail: str
    field: str | None = None
    value: str | None = None


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """What one message held.

    Attributes:
        readings: The readings, in the order of the message.
        refused: What was refused of it; values refused leave their reading in `readings`.
        notes: What was accepted although it is odd, one line each.
    """

    readings: list[Telemetry]
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """Where the bytes of a reading lie: a message of a raw segment.

    Attributes:
        worker: The consumer that wrote the segment.
        number: Number of the segment, without gaps for one worker.
        index: Position of the message in it.
    """

    worker: int
    number: int
    index: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What all stored readings share.

    Attributes:
        site: Site id.
        device: Device id, unique within the site.
        series: What `observed_at` means.
        observed_at: The device's time, repaired if need be; aware, UTC.
        received_at: Our time when the bytes came; aware, UTC.
        source: Where the raw bytes lie.
        clock_offset_s: What was added to the time the device reported, seconds: above 0 where its
            clock is slow, below where it is fast.
    """

    site: str
    device: str
    observed_at: datetime
    received_at: datetime
    source: Source
    series: Series = Series.INSTANT
    clock_offset_s: float = 0.0


class DustReading(Reading, frozen=True, kw_only=True):
    """A dust-and-noise monitor's reading; None is "not said"."""

    pm2_5_ug_m3: float | None = None
    pm10_ug_m3: float | None = None
    tsp_ug_m3: float | None = None
    noise_db: float | None = None
    leq_db: float | None = None
    temperature_c: float | None = None
    humidity_pct: float | None = None
    pressure_kpa: float | None = None
    wind_speed_m_s: float | None = None
    wind_direction_deg: float | None = None
    rain_mm_h: float | None = None


class CraneReading(Reading, frozen=True, kw_only=True):
    """A tower crane's reading; None is "not said"."""

    slew_deg: float | None = None
    trolley_m: float | None = None
    hook_height_m: float | None = None
    luff_deg: float | None = None
    load_t: float | None = None
    rated_load_t: float | None = None
    moment_pct: float | None = None
    wind_speed_m_s: float | None = None
    tilt_deg: float | None = None
    falls: float | None = None
    alarms: tuple[str, ...] | None = None


HEADS = frozenset({"helmet", "head"})
"""Labels of boxes around heads: of those that lie in one place only one is true."""


class Box(msgspec.Struct, frozen=True, gc=False):
    """One detected object.

    Attributes:
        label: Class name of the model.
        score: 0 to 1, rounded to 1e-3.
        box: x1, y1, x2, y2 in pixels of the original picture, rounded to 1e-3.
        second_look: What the second look said of it: the probability of a helmet, 0 to 1, rounded
            to 1e-3; None where it was not asked.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    second_look: float | None = None

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Box:
        """Read the form in which boxes are stored.

        Args:
            row: label, score, x1, y1, x2, y2, and where it was asked, what the second look said.

        Returns:
            The box.

        Raises:
            ValueError: The row is no such form, or the second look no probability.
        """
        if not isinstance(row, list | tuple):
            raise ValueError(f"box {row!r}: no row")  # noqa: TRY004 - stored data, not a caller's
        label, score, x1, y1, x2, y2, *more = row
        if len(more) > 1 or any(
            type(said) not in (int, float) or not 0 <= said <= 1 for said in more
        ):
            raise ValueError(f"box {list(row)!r}: what the second look said is no probability")
        if type(label) is not str or any(
            type(said) not in (int, float) or not math.isfinite(said)
            for said in (score, x1, y1, x2, y2)
        ):
            raise ValueError(f"box {list(row)!r}: no name and five numbers")
        return cls(label, score, (x1, y1, x2, y2), *more)

    def as_row(self) -> list[str | float]:
        """The form in which boxes are stored; see `of_row`."""
        row: list[str | float] = [self.label, self.score, *self.box]
        return row if self.second_look is None else [*row, self.second_look]


class Unfit(StrEnum):
    """Why a camera's picture does not let anybody judge what it ought to show."""

    DARK = "dark"
    BRIGHT = "bright"
    BLURRED = "blurred"
    BLOCKED = "blocked"
    MOVED = "moved"
    SMALL_HEADS = "small_heads"


class Detections(Reading, frozen=True, kw_only=True):
    """What a model saw on one frame: a reading like any other.

    Attributes:
        frame_sha256: Hash of the original picture, hexadecimal.
        model_sha256: Hash of the model file, hexadecimal.
        width: Width of the original, pixels.
        height: Height of the original, pixels.
        boxes: What was seen, highest score first; empty when the picture held nothing.
        still: True when the motion gate found the scene unchanged and `boxes` are those of
            the last picture looked at.
        unfit: Why the camera cannot be relied on; None while it can.
        fitness: The figures that decided, by name, while it cannot.
        skipped: How many frames of this camera nobody looked at since the look before.
        second_look_sha256: Hash of the file of the second look, hexadecimal; None where there
            was none to ask.
        event: True where the picture is that of a device's own report: the device chose it, and may
            have cut it or drawn on it, so it is no look at the camera's scene.
    """

    frame_sha256: str
    model_sha256: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    still: bool = False
    unfit: Unfit | None = None
    fitness: dict[str, float] = {}
    skipped: int = 0
    second_look_sha256: str | None = None
    event: bool = False


class Reported(Reading, frozen=True, kw_only=True):
    """What a device's own AI says it saw: a claim, to be confirmed or contradicted.

    Attributes:
        what: What it claims, in the vocabulary's words: "no_helmet", "no_vest", "intrusion", …
        score: How sure the device is, 0 to 1; None where it does not say.
        boxes: Where, in pixels of the picture; empty where it does not say.
        frame_sha256: Hash of the picture it sent, hexadecimal; None if there was none.
        notes: What was odd about the message, one line each.
    """

    what: str
    score: float | None = None
    boxes: tuple[Box, ...] = ()
    frame_sha256: str | None = None
    notes: tuple[str, ...] = ()


class FrameSeen(Reading, frozen=True, kw_only=True):
    """A picture that came: the camera spoke, whether or not anybody has looked at it.

    Attributes:
        frame_sha256: Hash of the original picture, hexadecimal.
    """

    frame_sha256: str


class DeviceStatus(Reading, frozen=True, kw_only=True):
    """What a device said of itself, or its broker by last will; its time is that of receipt.

    A status may be said again without anything having happened: brokers keep the last one and
    hand it to whoever subscribes.

    Attributes:
        online: Whether it is there.
        detail: Anything it added.
    """

    online: bool
    detail: str = ""


READING_TYPES: dict[Kind, type[DustReading | CraneReading]] = {
    Kind.DUST: DustReading,
    Kind.CRANE: CraneReading,
}
