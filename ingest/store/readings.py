"""Stored readings, typed, in the order detectors want them."""

from __future__ import annotations

import contextlib
import heapq
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

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
from device_profiles.sites import CameraSettings, CraneGeometry
from device_profiles.vocabulary import QUANTITIES, Kind, Series
from ingest.store.days import spans_of
from ingest.store.queries import load_queries

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).parent / "sql" / "reading.sql")

FETCH_ROWS = 5_000


class StoredDevice(NamedTuple):
    """A registered device as detectors are wired for it.

    Attributes:
        id: The registry's number.
        site: Site id.
        device: Device id within the site.
        kind: What it is.
        expected_every_s: How often it ought to speak.
        geometry: A crane's place and bodies, where they are registered.
        registered_at: Since when it ought to speak; None: since it first did.
        timezone: IANA name of its site's zone.
        camera: What a camera looks at, where that is registered.
    """

    id: int
    site: str
    device: str
    kind: Kind
    expected_every_s: float
    geometry: CraneGeometry | None
    registered_at: datetime | None = None
    timezone: str = "UTC"
    camera: CameraSettings | None = None


async def load_devices(connection: psycopg.AsyncConnection[Any]) -> list[StoredDevice]:
    """Read the registry.

    Args:
        connection: An open connection.

    Returns:
        Its devices, ordered by site and device.
    """
    cursor = await connection.execute(SQL["devices"])
    return [
        StoredDevice(
            id_,
            site,
            device,
            Kind(kind),
            expected_every_s,
            CraneGeometry.model_validate(settings["geometry"]) if "geometry" in settings else None,
            registered_at,
            timezone,
            CameraSettings.model_validate(settings["camera"]) if "camera" in settings else None,
        )
        for id_, site, device, kind, expected_every_s, settings, registered_at, timezone in (
            await cursor.fetchall()
        )
    ]


class _Table(NamedTuple):
    """How one table's rows become readings."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    has_series: bool


_TABLES = (
    *(
        _Table(
            f"{kind}_readings",
            kind,
            (
                *(quantity.name for quantity in QUANTITIES[kind]),
                *(("alarms",) if kind is Kind.CRANE else ()),
            ),
            has_series=True,
        )
        for kind in QUANTITIES
    ),
    _Table(
        "detections",
        Kind.CAMERA,
        (
            *("frame_sha256", "model_sha256", "width", "height", "still", "boxes"),
            *("unfit", "fitness", "skipped", "second_look_sha256", "event"),
        ),
        has_series=False,
    ),
    _Table(
        "reported_events",
        Kind.CAMERA,
        ("what", "score", "boxes", "frame_sha256", "notes"),
        has_series=False,
    ),
)

_HEAD = ("device_id", "observed_at", "received_at", "worker_id", "segment", "segment_index")


def _select(table: _Table, where: str) -> sql.SQL:
    series = "series, reported_at" if table.has_series else "0 AS series, NULL AS reported_at"
    columns = ", ".join((*_HEAD, series, *table.columns))
    # From the vocabulary alone, never from what a peer sent.
    text = f"SELECT {columns} FROM {table.name} WHERE {where} ORDER BY observed_at, device_id"  # noqa: S608
    return sql.SQL(text)


_OF_SEGMENTS = {
    table: _select(
        table,
        "worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s"
        " AND observed_at >= %(start)s AND observed_at < %(end)s",
    )
    for table in _TABLES
}
_OF_PARTS = {
    table: _select(
        table,
        "(device_id, series, observed_at) IN (SELECT device_id, series, observed_at"
        " FROM reading_parts"
        " WHERE worker_id = %(worker_id)s AND segment BETWEEN %(first)s AND %(last)s)"
        " AND observed_at >= %(start)s AND observed_at < %(end)s",
    )
    for table in _TABLES
    if table.has_series
}
_OF_DEVICES = {
    table: _select(
        table,
        "device_id = ANY(%(device_ids)s) AND observed_at >= %(start)s AND observed_at < %(end)s",
    )
    for table in _TABLES
}

_LAST = {
    table: sql.SQL(
        f"SELECT observed_at FROM {table.name} WHERE device_id = %(device_id)s"  # noqa: S608
        + (" AND series = 0" if table.has_series else "")
        + " ORDER BY observed_at DESC LIMIT 1"
    )
    for table in _TABLES
}


def _reading(table: _Table, device: StoredDevice, row: tuple[Any, ...]) -> Reading | None:
    """A row as a reading; None for a look that says what we cannot read: then nobody looked."""
    _, observed_at, received_at, worker_id, segment, index, series, reported_at, *values = row
    source = Source(worker_id, segment, index)
    if table.name == "reported_events":
        what, score, boxes, frame_sha256, notes = values
        return Reported(
            site=device.site,
            device=device.device,
            observed_at=observed_at,
            received_at=received_at,
            source=source,
            what=what,
            score=score,
            boxes=tuple(
                Box(label, own if own is not None else score or 0.0, tuple(box))
                for label, own, *box in boxes
            ),
            frame_sha256=None if frame_sha256 is None else frame_sha256.hex(),
            notes=tuple(notes),
        )
    if table.kind is Kind.CAMERA:
        frame_sha256, model_sha256, width, height, still, boxes, *more = values
        unfit, fitness, skipped, second_look_sha256, event = more
        try:
            seen = tuple(Box.of_row(box) for box in boxes)
            reason = None if unfit is None else Unfit(unfit)
        except ValueError as fault:  # a later version's, or another hand's: stop for none of them
            where = f"{device.site}/{device.device} at {observed_at}"
            log.error("%s: %s", where, fault)  # noqa: TRY400 - of stored data, no bug's trace
            return None
        return Detections(
            site=device.site,
            device=device.device,
            observed_at=observed_at,
            received_at=received_at,
            source=source,
            frame_sha256=frame_sha256.hex(),
            model_sha256=model_sha256.hex(),
            width=width,
            height=height,
            still=still,
            boxes=seen,
            unfit=reason,
            fitness=fitness,
            skipped=skipped,
            second_look_sha256=None if second_look_sha256 is None else second_look_sha256.hex(),
            event=event,
        )
    type_ = DustReading if table.kind is Kind.DUST else CraneReading
    named = dict(zip(table.columns, values, strict=True))
    if named.get("alarms") is not None:
        named["alarms"] = tuple(named["alarms"])
    return type_(
        site=device.site,
        device=device.device,
        observed_at=observed_at,
        received_at=received_at,
        source=source,
        series=Series(series),
        clock_offset_s=(
            0.0 if reported_at is None else (observed_at - reported_at).total_seconds()
        ),
        **named,
    )


async def readings_of_segments(
    connection: psycopg.AsyncConnection[Any],
    devices: dict[int, StoredDevice],
    worker_id: int,
    first: int,
    last: int,
) -> list[Reading]:
    """Read what some segments brought: new readings, those they added quantities to, and words.

    Words are what says no more than that a device is there: pictures, and statuses.

    Args:
        connection: An open connection.
        devices: The registry, by number; readings of devices not in it are left out.
        worker_id: Whose segments.
        first: Number of the first segment.
        last: Number of the last one, inclusive.

    Returns:
        Their readings by observed time, then device.
    """
    found: dict[tuple[object, ...], Reading] = {}
    terms = {"worker_id": worker_id, "first": first, "last": last}
    days = await connection.execute(SQL["days_of_segments"], terms)
    spans = spans_of(some for (some,) in await days.fetchall())
    for (start, end), (table, query) in product(spans, (*_OF_SEGMENTS.items(), *_OF_PARTS.items())):
        cursor = connection.cursor(binary=True)
        await cursor.execute(query, {**terms, "start": start, "end": end})
        for row in await cursor.fetchall():
            device = devices.get(row[0])
            if device is not None:
                reading = _reading(table, device, row)
                if reading is None:
                    continue
                what = reading.what if isinstance(reading, Reported) else None
                key = device.id, reading.series, reading.observed_at, table.name, what
                found.setdefault(key, reading)
    words: list[Reading] = []
    for start, end in spans:
        frames = await connection.execute(
            SQL["frames_of_segments"], {**terms, "start": start, "end": end}
        )
        words += [
            frame_seen(devices[row[0]], row) for row in await frames.fetchall() if row[0] in devices
        ]
    statuses = await connection.execute(SQL["statuses_of_segments"], terms)
    words += [
        device_status(devices[row[0]], row)
        for row in await statuses.fetchall()
        if row[0] in devices
    ]
    return sorted(
        (*found.values(), *words),
        key=lambda reading: (reading.observed_at, reading.site, reading.device),
    )


def frame_seen(device: StoredDevice, row: tuple[Any, ...]) -> FrameSeen:
    """Make a word of a row of `frames`.

    Args:
        device: The camera.
        row: Device, observed and received time, worker, segment, index and hash.

    Returns:
        The word.
    """
    _, observed_at, received_at, worker_id, segment, index, sha256 = row
    return FrameSeen(
        site=device.site,
        device=device.device,
        observed_at=observed_at,
        received_at=received_at,
        source=Source(worker_id, segment, index),
        frame_sha256=bytes(sha256).hex(),
    )


def device_status(device: StoredDevice, row: tuple[Any, ...]) -> DeviceStatus:
    """Make a status of a row of `device_status`.

    Args:
        device: Whose it is.
        row: Device, received time, worker, segment, index, whether it is online, detail.

    Returns:
        The status.
    """
    _, received_at, worker_id, segment, index, online, detail = row
    return DeviceStatus(
        site=device.site,
        device=device.device,
        observed_at=received_at,
        received_at=received_at,
        source=Source(worker_id, segment, index),
        online=online,
        detail=detail,
    )


async def readings_of_devices(
    connection: psycopg.AsyncConnection[Any],
    devices: Sequence[StoredDevice],
    start: datetime,
    end: datetime,
) -> AsyncIterator[Reading]:
    """Read what some devices of one kind reported in a span, in order.

    Args:
        connection: In a transaction: the rows are fetched by a server-side cursor.
        devices: Of one kind.
        start: First observed time.
        end: End, exclusive.

    Yields:
        The readings by observed time, then device.
    """
    by_id = {device.id: device for device in devices}
    terms = {"device_ids": list(by_id), "start": start, "end": end}
    async with contextlib.AsyncExitStack() as stack:
        heads: list[tuple[datetime, int, int, Reading]] = []
        rows = []
        for place, table in enumerate(_tables_of(devices)):
            cursor = await stack.enter_async_context(
                connection.cursor(f"span_of_{table.name}", binary=True)
            )
            cursor.itersize = FETCH_ROWS
            await cursor.execute(_OF_DEVICES[table], terms)
            rows.append(_heads(table, place, by_id, cursor))
        for source in rows:
            async for head in source:
                heads.append(head)
                break
        heapq.heapify(heads)
        while heads:
            _, _, place, reading = heads[0]
            yield reading
            async for head in rows[place]:
                heapq.heapreplace(heads, head)
                break
            else:
                heapq.heappop(heads)


async def _heads(
    table: _Table,
    place: int,
    by_id: dict[int, StoredDevice],
    rows: AsyncIterator[tuple[Any, ...]],
) -> AsyncIterator[tuple[datetime, int, int, Reading]]:
    """The readings of one table, with what they are sorted by in front; no two are equal there."""
    async for row in rows:
        reading = _reading(table, by_id[row[0]], row)
        if reading is not None:
            yield row[1], row[0], place, reading


async def last_observed(
    connection: psycopg.AsyncConnection[Any], devices: Sequence[StoredDevice]
) -> datetime | None:
    """Find the newest observed time of some devices.

    Args:
        connection: An open connection.
        devices: Of one kind.

    Returns:
        The time; None if they have reported nothing.
    """
    newest: datetime | None = None
    for table in _tables_of(devices):
        for device in devices:
            cursor = await connection.execute(_LAST[table], {"device_id": device.id})
            row = await cursor.fetchone()
            if row is not None and (newest is None or row[0] > newest):
                newest = row[0]
    return newest


def _tables_of(devices: Iterable[StoredDevice]) -> list[_Table]:
    kinds = {device.kind for device in devices}
    return [table for table in _TABLES if table.kind in kinds]
