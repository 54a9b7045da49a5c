"""Frames: pictures into the frame store, their rows into the database, and only then the ack.

A frame's original is kept under the hash of its bytes; the raw segment holds that hash in the
place of the payload. A picture that is not one is kept all the same, and quarantined.

What AI boxes report comes the same way (`ingest.reports`): the message is kept as a frame is, and
its picture becomes a frame like any other. Two pictures of one camera cannot have one time: where
a box says several things in one second, the later ones are told apart by milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import JpegHeader, read_jpeg_header
from device_profiles.native import decode_event, microseconds, moment_of
from device_profiles.topics import parse_topic
from ingest.errors import DiskUnavailable
from ingest.fetching import Fetcher, NotFetched
from ingest.frame_store import FrameStore
from ingest.pipeline import EXTERNAL_ID, Arrivals, Quarantined, Scope, TimeLimits, hour_of
from ingest.registry import (
    UNKNOWN_DEVICE,
    EventGateway,
    RegisteredDevice,
    Route,
    Routes,
    UnknownExternalId,
    Use,
)
from ingest.reports import Report, read_reports
from ingest.segments import Flag, Packed, pack
from ingest.store.days import days_of
from ingest.store.queries import load_queries
from ingest.store.worker import Worker
from ingest.store.writer import SQL as WRITING_SQL
from ingest.store.writer import add_exceptions, put_quarantined, storable

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "frames.sql")


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame that was understood.

    Attributes:
        index: Position of its message in the segment.
        device_id: The registry's number of the camera.
        label: How messages name the camera.
        observed_us: The camera's time, microseconds since 1970 UTC.
        sha256: Hash of the bytes.
        bytes: How many.
        header: What the JPEG says of itself.
    """

    index: int
    device_id: int
    label: str
    observed_us: int
    sha256: bytes
    bytes: int
    header: JpegHeader


FRAMELESS = "frameless_event"
"""As what a message on a camera's topics is counted that brought an event and no frame."""

EVENTS_APART = 100
"""Most events of one camera and verdict at one time that are told apart, a millisecond each."""


@dataclass(frozen=True, slots=True)
class Reported:
    """An AI box's event that was understood.

    Attributes:
        index: Position of its message in the segment.
        observed_us: The box's time, microseconds since 1970 UTC.
        report: What it says.
        sender_id: The registry's number of whose topic it came on; 0: nobody's.
    """

    index: int
    observed_us: int
    report: Report
    sender_id: int

    @property
    def device_id(self) -> int:
        """The registry's number of the camera."""
        return self.report.device.id


@dataclass(slots=True)
class FrameFlush:
    """What one flush of frames writes.

    Attributes:
        arrivals: The messages it is made of.
        segment: The same, packed: hashes in the place of pictures.
        pictures: The frames understood.
        quarantined: What was not.
        exceptions: Counted by (hour in microseconds, device number, what).
        reported: What AI boxes say.
        events: Any other event of a camera: device number, message index and its JSON.
    """

    arrivals: Arrivals
    segment: Packed
    pictures: list[Picture]
    quarantined: list[Quarantined]
    exceptions: Counter[tuple[int, int, str]]
    reported: list[Reported] = field(default_factory=list)
    events: list[tuple[int, int, bytes]] = field(default_factory=list)

    @property
    def days(self) -> list[date]:
        """The UTC days the pictures were taken on."""
        times = [picture.observed_us for picture in self.pictures]
        for entry in self.reported:
            times += (entry.observed_us, entry.observed_us + EVENTS_APART * 1_000)
        return days_of([np.array(times, np.int64)])


@dataclass(slots=True)
class FrameOutcome:
    """What became of one flush of frames.

    Attributes:
        stored: Frames now stored by it.
        duplicates: Frames that were there already.
        quarantined: Messages put aside, by reason.
        reported: Events of AI boxes now stored by it, by verdict.
        notes: What was odd about them, by profile and kind of note.
        already_written: The flush had been committed before.
    """

    stored: int = 0
    duplicates: int = 0
    quarantined: Counter[Reason] = field(default_factory=Counter)
    reported: Counter[str] = field(default_factory=Counter)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    already_written: bool = False


@dataclass(slots=True)
class _Reading:
    pictures: list[Picture] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    events: list[tuple[int, int, bytes]] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    exceptions: Counter[tuple[int, int, str]] = field(default_factory=Counter)

    def put_aside(
        self, index: int, fault: Rejected, device: RegisteredDevice | None, received_us: int
    ) -> None:
        """Quarantine a message and count it."""
        label = f"{device.reader}: " if device else ""
        at = f" (at byte {fault.offset})" if fault.offset is not None else ""
        stranger = fault.external_id if isinstance(fault, UnknownExternalId) else None
        self.quarantined.append(
            Quarantined(
                index,
                Scope.FRAME,
                fault.reason,
                f"{label}{fault.detail}{at}",
                device.id if device else None,
                None if stranger is None else EXTERNAL_ID,
                stranger,
                units=1,
            )
        )
        number = device.id if device else UNKNOWN_DEVICE
        self.exceptions[hour_of(received_us), number, "quarantined_frame"] += 1


def read_frames(
    arrivals: Arrivals,
    hashes: Mapping[int, bytes],
    routes: Routes,
    limits: TimeLimits,
    reports: Mapping[int, Report | Rejected] | None = None,
) -> FrameFlush:
    """Turn messages on camera topics into what one transaction writes. Pure.

    Args:
        arrivals: The messages.
        hashes: By index, the SHA-256 under which each payload lies in the frame store;
            oversized messages, and events that are no pictures, have none.
        routes: Where topics lead.
        limits: Which times are believed.
        reports: By index, what AI boxes say, of `read_reports`.

    Returns:
        The flush.
    """
    found = _Reading()
    for index, topic in enumerate(arrivals.topics):
        device = None
        received_us = arrivals.received_us[index]
        try:
            route = routes.known.get(topic) or routes.find(topic)
            if isinstance(route, Route):
                device = route.device
            oversized = arrivals.oversized.get(index)
            if oversized is not None:
                raise Rejected(
                    Reason.TOO_LARGE, f"a frame of {oversized[0]} bytes is above the limit"
                )
            match route:
                case Route(use=Use.KEEP_FRAME, device=camera):
                    found.pictures.append(_picture(index, camera, arrivals, hashes[index], limits))
                case EventGateway() | Route(use=Use.REPORT):
                    report = (reports or {})[index]
                    if isinstance(report, Rejected):
                        raise report
                    sender_id = device.id if device else UNKNOWN_DEVICE
                    device = report.device
                    observed_us = report.observed_us(received_us)
                    limits.require(observed_us, received_us)
                    found.reported.append(Reported(index, observed_us, report, sender_id))
                case Route(use=Use.KEEP_EVENT, device=camera):
                    found.events.append((camera.id, index, decode_event(arrivals.payloads[index])))
                    found.exceptions[hour_of(received_us), camera.id, FRAMELESS] += 1
                case _:
                    raise Rejected(Reason.TOPIC, "only frames come this way")
        except Rejected as fault:
            found.put_aside(index, fault, device, received_us)
    segment = pack(
        arrivals.received_us,
        arrivals.topics,
        [hashes.get(index, payload) for index, payload in enumerate(arrivals.payloads)],
        [
            flag | Flag.FRAME
            if index in hashes
            else flag | (Flag.TRUNCATED if index in arrivals.oversized else Flag.EVENT)
            for index, flag in enumerate(arrivals.flags)
        ],
    )
    return FrameFlush(
        arrivals,
        segment,
        found.pictures,
        found.quarantined,
        found.exceptions,
        found.reported,
        found.events,
    )


def _picture(
    index: int, camera: RegisteredDevice, arrivals: Arrivals, sha256: bytes, limits: TimeLimits
) -> Picture:
    received_us, payload = arrivals.received_us[index], arrivals.payloads[index]
    try:
        frame_ms = parse_topic(arrivals.topics[index]).frame_ms
    except Rejected:
        frame_ms = None  # a make's own topic, which says no time
    observed_us = received_us if frame_ms is None else frame_ms * 1_000
    limits.require(observed_us, received_us)
    return Picture(
        index, camera.id, camera.label, observed_us, sha256, len(payload), read_jpeg_header(payload)
    )


def is_plain_event(topic: bytes, routes: Routes) -> bool:
    """Whether a topic is of events that are no pictures: they stay in the segment itself."""
    try:
        route = routes.known.get(topic) or routes.find(topic)
    except Rejected:
        return False
    return isinstance(route, Route) and route.use is Use.KEEP_EVENT


class FrameWriter:
    """Writes frames under one worker's name."""

    def __init__(
        self,
        worker: Worker,
        store: FrameStore,
        limits: TimeLimits,
        fetcher: Fetcher | None = None,
    ) -> None:
        self._worker = worker
        self._store = store
        self._limits = limits
        self._fetcher = fetcher
        self._fetched: dict[bytes, Report] = {}

    async def write(self, arrivals: Arrivals, routes: Routes) -> FrameOutcome:
        """Keep the pictures, then write their rows in one transaction.

        Args:
            arrivals: Messages on camera topics.
            routes: Where topics lead.

        Returns:
            What became of them. When this returns, files and rows are on the disk.

        Raises:
            Unavailable: Disk or database are; call again with the same arrivals.
        """
        reports = await asyncio.to_thread(read_reports, arrivals, routes)
        await self._fetch(reports)
        try:
            hashes = await asyncio.to_thread(self._keep, arrivals, routes, reports)
        except OSError as fault:
            raise DiskUnavailable(f"the frame store cannot be written: {fault}") from fault
        flush = read_frames(arrivals, hashes, routes, self._limits, reports)

        async def rows(connection: psycopg.AsyncConnection[Any]) -> FrameOutcome:
            where = {"worker_id": self._worker.id, "segment": self._worker.next_number}
            return await write_frame_rows(connection, where, flush)

        outcome = await self._worker.commit(
            flush.segment, arrivals.received_us, rows, readings=0, observed_days=flush.days
        )
        self._fetched.clear()
        return outcome or FrameOutcome(already_written=True)

    async def _fetch(self, reports: dict[int, Report | Rejected]) -> None:
        """Fetch what reports only point at; once, however often the same flush is tried."""
        wanted = [
            (index, report)
            for index, report in reports.items()
            if isinstance(report, Report) and report.url is not None
        ]

        async def fetch(report: Report) -> Report:
            kept = self._fetched.get(report.payload_sha256)
            if kept is None:
                kept = await fetched(report, self._fetcher)
                self._fetched[report.payload_sha256] = kept
            return kept

        found = await asyncio.gather(*(fetch(report) for _, report in wanted))
        reports.update(zip((index for index, _ in wanted), found, strict=True))

    def _keep(
        self, arrivals: Arrivals, routes: Routes, reports: Mapping[int, Report | Rejected]
    ) -> dict[int, bytes]:
        keep_pictures(self._store, reports)
        return {
            index: self._store.put(payload)
            for index, payload in enumerate(arrivals.payloads)
            if index not in arrivals.oversized
            and not is_plain_event(arrivals.topics[index], routes)
        }


async def fetched(report: Report, fetcher: Fetcher | None) -> Report:
    """Fetch the picture that a report points at.

    Args:
        report: With an address.
        fetcher: None: nobody may fetch now.

    Returns:
        The same with its picture, or with a note why there is none.
    """
    if report.url is None:
        return report
    if fetcher is None:
        return report.noting("its picture was not fetched: only at its receipt it could be")
    try:
        return report.with_picture(await fetcher.fetch(report.url))
    except NotFetched as fault:
        return report.noting(f"its picture was not fetched: {fault}")


def keep_pictures(store: FrameStore, reports: Mapping[int, Report | Rejected]) -> None:
    """Put the pictures of reports into the frame store.

    Args:
        store: Where.
        reports: Whose.

    Raises:
        OSError: The disk is full or not writable.
    """
    for report in reports.values():
        if isinstance(report, Report) and report.picture is not None:
            store.put(report.picture.data)


async def write_frame_rows(
    connection: psycopg.AsyncConnection[Any], where: dict[str, int], flush: FrameFlush
) -> FrameOutcome:
    """Write the rows of a flush of frames.

    Args:
        connection: In a transaction.
        where: `worker_id` and `segment` of the segment that holds the messages.
        flush: What was understood of them.

    Returns:
        What became of them.
    """
    pictures = flush.pictures
    quarantined = list(flush.quarantined)
    exceptions = Counter(flush.exceptions)
    received_us = flush.arrivals.received_us
    cursor = connection.cursor()
    stored = await _put_frames(cursor, where, pictures, dict(enumerate(received_us)))
    outcome = FrameOutcome(stored=len(stored))
    for picture in pictures:
        if picture.index in stored:
            continue
        hour = hour_of(received_us[picture.index])
        await cursor.execute(
            SQL["frame_hash"],
            {
                "device_id": picture.device_id,
                "observed_at": moment_of(picture.observed_us),
            },
        )
        row = await cursor.fetchone()
        if row is None or row[0] == picture.sha256:
            outcome.duplicates += 1
            exceptions[hour, picture.device_id, "duplicate_frame"] += 1
            continue
        exceptions[hour, picture.device_id, "quarantined_frame"] += 1
        quarantined.append(
            Quarantined(
                picture.index,
                Scope.FRAME,
                Reason.CONFLICT,
                f"{picture.label}: another picture is stored for this time; the first stays",
                picture.device_id,
                units=1,
            )
        )
    for entry in flush.reported:
        await _put_reported(cursor, where, entry, received_us[entry.index], outcome, exceptions)
    if flush.events:
        await cursor.executemany(
            WRITING_SQL["put_event"],
            [
                where
                | {
                    "device_id": device_id,
                    "index": index,
                    "received_at": moment_of(received_us[index]),
                    "body": body.decode(),
                }
                for device_id, index, body in flush.events
            ],
        )
    outcome.quarantined = Counter(entry.reason for entry in quarantined)
    await put_quarantined(cursor, where, flush.arrivals, quarantined)
    await add_exceptions(connection, exceptions)
    return outcome


async def _put_frames(
    cursor: psycopg.AsyncCursor[Any],
    where: dict[str, int],
    pictures: list[Picture],
    received_us: Mapping[int, int],
    *,
    event: bool = False,
) -> set[int]:
    """Write rows of frames; returns the messages whose frame was new.

    Pictures of events are queued as such: they are looked at by themselves.
    """
    await cursor.execute(
        SQL["put_frames"],
        where
        | {
            "device_ids": [picture.device_id for picture in pictures],
            "observed": [moment_of(picture.observed_us) for picture in pictures],
            "received": [moment_of(received_us[picture.index]) for picture in pictures],
            "indices": [picture.index for picture in pictures],
            "hashes": [picture.sha256 for picture in pictures],
            "bytes": [picture.bytes for picture in pictures],
            "widths": [picture.header.width for picture in pictures],
            "heights": [picture.header.height for picture in pictures],
            "event": event,
        },
    )
    return {index for (index,) in await cursor.fetchall()}


async def _put_reported(
    cursor: psycopg.AsyncCursor[Any],
    where: dict[str, int],
    entry: Reported,
    received_us: int,
    outcome: FrameOutcome,
    exceptions: Counter[tuple[int, int, str]],
) -> None:
    """Write an event and its frame; told again, it changes nothing."""
    report, device_id = entry.report, entry.device_id
    picture = report.picture
    named = {"device_id": device_id, "observed_at": moment_of(entry.observed_us)}
    await cursor.execute(
        SQL["reported_again"],
        named
        | {
            "until": moment_of(entry.observed_us + EVENTS_APART * 1_000),
            "payload_sha256": report.payload_sha256,
        },
    )
    again = await cursor.fetchone()
    hour = hour_of(received_us)
    if again is not None:
        had_frame = again[0] is not None
        outcome.duplicates += had_frame
        # No row of it says which camera it is about: whoever recounts the message knows its topic.
        exceptions[hour, entry.sender_id, "duplicate_frame" if had_frame else FRAMELESS] += 1
        return
    await cursor.execute(
        SQL["free_place_of_report"],
        named
        | {
            "apart": EVENTS_APART,
            "what": report.what,
            "frame_sha256": picture.sha256 if picture else None,
        },
    )
    place = await cursor.fetchone()
    observed_at = moment_of(entry.observed_us) if place is None else place[0]
    notes = list(report.notes)
    if place is None:
        picture = None
        notes.append(f"more than {EVENTS_APART} events of this camera have this time")
    if picture is None:
        exceptions[hour, device_id, FRAMELESS] += 1
    else:
        frame = Picture(
            entry.index,
            device_id,
            report.device.label,
            microseconds(observed_at),
            picture.sha256,
            len(picture.data),
            picture.header,
        )
        new = await _put_frames(cursor, where, [frame], {entry.index: received_us}, event=True)
        outcome.stored += len(new)
        if not new:
            outcome.duplicates += 1
            exceptions[hour, device_id, "duplicate_frame"] += 1
    outcome.reported[report.what] += 1
    outcome.notes.update((report.profile, kind) for kind in report.kinds_of_notes)
    await cursor.execute(
        SQL["put_reported"],
        where
        | {
            "device_id": device_id,
            "observed_at": observed_at,
            "received_at": moment_of(received_us),
            "index": entry.index,
            "what": report.what,
            "score": report.score,
            "boxes": Jsonb([(storable(label), *rest) for label, *rest in report.boxes]),
            "frame_sha256": picture.sha256 if picture else None,
            "payload_sha256": report.payload_sha256,
            "notes": [storable(note) for note in notes],
        },
    )
