"""Frames: pictures into the frame store, their rows into the database, and only then the ack.

A frame's original is kept under the hash of its bytes; the raw segment holds that hash in the
place of the payload. A picture that is not one is kept all the same, and quarantined.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from device_profiles.errors import Reason, Rejected
from device_profiles.jpeg import JpegHeader, read_jpeg_header
from device_profiles.native import moment_of
from device_profiles.topics import parse_topic
from ingest.errors import DiskUnavailable
from ingest.frame_store import FrameStore
from ingest.pipeline import Arrivals, Quarantined, Scope, TimeLimits, hour_of
from ingest.registry import UNKNOWN_DEVICE, Routes, Use
from ingest.segments import Flag, Packed, pack
from ingest.store.queries import load_queries
from ingest.store.worker import Worker
from ingest.store.writer import add_exceptions, put_quarantined

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


@dataclass(slots=True)
class FrameFlush:
    """What one flush of frames writes.

    Attributes:
        arrivals: The messages it is made of.
        segment: The same, packed: hashes in the place of pictures.
        pictures: The frames understood.
        quarantined: What was not.
        exceptions: Counted by (hour in microseconds, device number, what).
    """

    arrivals: Arrivals
    segment: Packed
    pictures: list[Picture]
    quarantined: list[Quarantined]
    exceptions: Counter[tuple[int, int, str]]


@dataclass(slots=True)
class FrameOutcome:
    """What became of one flush of frames.

    Attributes:
        stored: Frames now stored by it.
        duplicates: Frames that were there already.
        quarantined: Messages put aside, by reason.
        already_written: The flush had been committed before.
    """

    stored: int = 0
    duplicates: int = 0
    quarantined: Counter[Reason] = field(default_factory=Counter)
    already_written: bool = False


@dataclass(slots=True)
class _Reading:
    pictures: list[Picture] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    exceptions: Counter[tuple[int, int, str]] = field(default_factory=Counter)


def read_frames(
    arrivals: Arrivals, hashes: dict[int, bytes], routes: Routes, limits: TimeLimits
) -> FrameFlush:
    """Turn messages on camera topics into what one transaction writes. Pure.

    Args:
        arrivals: The messages.
        hashes: By index, the SHA-256 under which each payload lies in the frame store;
            oversized messages have none.
        routes: Where topics lead.
        limits: Which times are believed.

    Returns:
        The flush.
    """
    found = _Reading()
    for index, (topic, payload) in enumerate(zip(arrivals.topics, arrivals.payloads, strict=True)):
        device = None
        try:
            route = routes.find(topic)
            device = route.device
            if route.use is not Use.KEEP_FRAME:
                raise Rejected(Reason.TOPIC, "only frames come this way")
            oversized = arrivals.oversized.get(index)
            if oversized is not None:
                raise Rejected(
                    Reason.TOO_LARGE, f"a frame of {oversized[0]} bytes is above the limit"
                )
            observed_us = (parse_topic(topic).frame_ms or 0) * 1_000
            limits.require(observed_us, arrivals.received_us[index])
            header = read_jpeg_header(payload)
        except Rejected as fault:
            label = f"{device.label}: " if device else ""
            at = f" (at byte {fault.offset})" if fault.offset is not None else ""
            found.quarantined.append(
                Quarantined(
                    index,
                    Scope.FRAME,
                    fault.reason,
                    f"{label}{fault.detail}{at}",
                    device.id if device else None,
                )
            )
            hour = hour_of(arrivals.received_us[index])
            number = device.id if device else UNKNOWN_DEVICE
            found.exceptions[hour, number, "quarantined_frame"] += 1
        else:
            found.pictures.append(
                Picture(
                    index,
                    device.id,
                    device.label,
                    observed_us,
                    hashes[index],
                    len(payload),
                    header,
                )
            )
    segment = pack(
        arrivals.received_us,
        arrivals.topics,
        [hashes.get(index, payload) for index, payload in enumerate(arrivals.payloads)],
        [
            flag | Flag.FRAME if index in hashes else flag | Flag.TRUNCATED
            for index, flag in enumerate(arrivals.flags)
        ],
    )
    return FrameFlush(arrivals, segment, found.pictures, found.quarantined, found.exceptions)


class FrameWriter:
    """Writes frames under one worker's name."""

    def __init__(self, worker: Worker, store: FrameStore, limits: TimeLimits) -> None:
        self._worker = worker
        self._store = store
        self._limits = limits

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
        try:
            hashes = await asyncio.to_thread(self._keep, arrivals)
        except OSError as fault:
            raise DiskUnavailable(f"the frame store cannot be written: {fault}") from fault
        flush = read_frames(arrivals, hashes, routes, self._limits)

        async def rows(connection: psycopg.AsyncConnection[Any]) -> FrameOutcome:
            return await self._write_rows(connection, flush)

        outcome = await self._worker.commit(flush.segment, arrivals.received_us, rows, readings=0)
        return outcome or FrameOutcome(already_written=True)

    def _keep(self, arrivals: Arrivals) -> dict[int, bytes]:
        return {
            index: self._store.put(payload)
            for index, payload in enumerate(arrivals.payloads)
            if index not in arrivals.oversized
        }

    async def _write_rows(
        self, connection: psycopg.AsyncConnection[Any], flush: FrameFlush
    ) -> FrameOutcome:
        where = {"worker_id": self._worker.id, "segment": self._worker.next_number}
        pictures = flush.pictures
        quarantined = list(flush.quarantined)
        exceptions = Counter(flush.exceptions)
        received_us = flush.arrivals.received_us
        cursor = connection.cursor()
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
            },
        )
        stored = {index for (index,) in await cursor.fetchall()}
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
                )
            )
        outcome.quarantined = Counter(entry.reason for entry in quarantined)
        await put_quarantined(cursor, where, flush.arrivals, quarantined)
        await add_exceptions(connection, exceptions)
        return outcome
