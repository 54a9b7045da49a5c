"""Readings and what detectors say of them, written as seconds after a beginning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from detectors.detector import Detector, Said
from device_profiles.findings import Coverage, Finding
from device_profiles.readings import (
    Box,
    CraneReading,
    Detections,
    DeviceStatus,
    DustReading,
    FrameSeen,
    Reading,
    Reported,
    Source,
    Unfit,
)
from device_profiles.vocabulary import Series

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
SITE = "site-1"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def seconds(instant: datetime) -> float:
    return (instant - T0).total_seconds()


def _source(seconds: float) -> Source:
    return Source(1, 1, int(seconds * 10))


def dust(
    seconds: float,
    pm10_ug_m3: float | None,
    series: Series = Series.INSTANT,
    device: str = "dust-1",
    clock_offset_s: float = 0.0,
) -> DustReading:
    return DustReading(
        site=SITE,
        device=device,
        observed_at=at(seconds),
        received_at=at(seconds + 0.1),
        source=_source(seconds),
        series=series,
        clock_offset_s=clock_offset_s,
        pm10_ug_m3=pm10_ug_m3,
        noise_db=61.0,
    )


def crane(
    seconds: float,
    device: str,
    slew_deg: float | None = None,
    trolley_m: float | None = None,
    hook_height_m: float | None = None,
    load_t: float | None = None,
) -> CraneReading:
    return CraneReading(
        site=SITE,
        device=device,
        observed_at=at(seconds),
        received_at=at(seconds + 0.1),
        source=_source(seconds),
        slew_deg=slew_deg,
        trolley_m=trolley_m,
        hook_height_m=hook_height_m,
        load_t=load_t,
    )


def box(
    label: str,
    score: float,
    x: float,
    y: float = 100.0,
    size: float = 40.0,
    second_look: float | None = None,
) -> Box:
    return Box(label, score, (x, y, x + size, y + size), second_look)


def person(
    score: float, x: float, y: float = 100.0, width: float = 80.0, height: float = 240.0
) -> Box:
    return Box("person", score, (x, y, x + width, y + height))


def look(
    seconds: float,
    *boxes: Box,
    still: bool = False,
    unfit: Unfit | None = None,
    skipped: int = 0,
    event: bool = False,
) -> Detections:
    return Detections(
        site=SITE,
        device="cam-1",
        observed_at=at(seconds),
        received_at=at(seconds + 0.1),
        source=_source(seconds),
        frame_sha256=f"{int(seconds * 1000):064x}",
        model_sha256="ab" * 32,
        width=1280,
        height=720,
        boxes=boxes,
        still=still,
        unfit=unfit,
        fitness={} if unfit is None else {"light": 12.0},
        skipped=skipped,
        event=event,
    )


def report(
    seconds: float,
    what: str = "no_helmet",
    *boxes: Box,
    score: float | None = 0.9,
    pictured: bool = True,
) -> Reported:
    """What the camera's own AI says, of the picture that `look` of the same time looks at."""
    return Reported(
        site=SITE,
        device="cam-1",
        observed_at=at(seconds),
        received_at=at(seconds + 0.1),
        source=_source(seconds),
        what=what,
        score=score,
        boxes=boxes,
        frame_sha256=f"{int(seconds * 1000):064x}" if pictured else None,
    )


def status(seconds: float, *, online: bool, device: str = "dust-1") -> DeviceStatus:
    return DeviceStatus(
        site=SITE,
        device=device,
        observed_at=at(seconds),
        received_at=at(seconds),
        source=_source(seconds),
        online=online,
    )


def frame(seconds: float) -> FrameSeen:
    return FrameSeen(
        site=SITE,
        device="cam-1",
        observed_at=at(seconds),
        received_at=at(seconds + 0.1),
        source=_source(seconds),
        frame_sha256=f"{int(seconds * 1000):064x}",
    )


def run(
    detector: Detector, readings: Iterable[Reading], end: float | None = None
) -> tuple[list[Finding], list[Coverage]]:
    """Feed all readings, finish if an end is given, and sort what was said."""
    said: list[Said] = []
    for reading in readings:
        said += detector.observe(reading)
    if end is not None:
        said += detector.finish(at(end))
    return findings_of(said), coverage_of(said)


def findings_of(said: Iterable[Said]) -> list[Finding]:
    return [item for item in said if isinstance(item, Finding)]


def coverage_of(said: Iterable[Said]) -> list[Coverage]:
    return [item for item in said if isinstance(item, Coverage)]


def spans(coverage: Iterable[Coverage]) -> list[tuple[float, float, str | None]]:
    return [(seconds(span.from_at), seconds(span.to_at), span.reason) for span in coverage]


def episodes(findings: Iterable[Finding]) -> list[tuple[float, float | None]]:
    """From when to when each violation lasted, as said last."""
    return [
        (seconds(one.opened_at), None if one.closed_at is None else seconds(one.closed_at))
        for one in {one.identity: one for one in findings}.values()
    ]


def bytes_of(said: Sequence[Said]) -> bytes:
    return msgspec.json.encode(said)
