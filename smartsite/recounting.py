"""What raw segments hold, counted anew from their bytes: by message, by device and hour.

Two need it. A span of hours cuts a segment in two, and the segment only says what it holds as a
whole. And whoever doubts the balance wants it drawn again without the counts it is made of.

Messages are read with today's registry, those of retired devices included. A message of which
nothing could be read when it came, and that is still in quarantine, counts as the one unit it
was counted as, under the device it was known as.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from device_profiles.errors import Rejected
from device_profiles.native import microseconds, moment_of
from ingest.pipeline import Arrivals, TimeLimits, gather, hour_of
from ingest.profiles import Readers
from ingest.registry import UNKNOWN_DEVICE, Registration, Route, Routes
from ingest.segments import Flag, Segment, unpack
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent.parent / "ingest" / "store" / "sql" / "balance.sql")

HOUR_US = 3_600_000_000

Hours = dict[tuple[int, datetime], int]
"""Counts by device number (0: unknown) and UTC hour of receipt."""


class SegmentFacts(NamedTuple):
    """What the database says of a segment beside its bytes.

    Attributes:
        worker_id: Who wrote it.
        number: Its number, without gaps for one worker.
        received_from: When its first message came.
        received_to: When its last message came.
        messages: How many it has.
        readings: Units of the balance it was counted as.
        redelivered: Messages the broker marked as sent before.
    """

    worker_id: int
    number: int
    received_from: datetime
    received_to: datetime
    messages: int
    readings: int
    redelivered: int


class Part(NamedTuple):
    """What of a segment came within a span.

    Attributes:
        messages: How many.
        readings: Units of the balance.
        redelivered: Messages the broker marked as sent before.
    """

    messages: int
    readings: int
    redelivered: int


def routes_of_all(devices: Iterable[Sequence[Any]], readers: Readers | None = None) -> Routes:
    """Where topics lead, retired devices included.

    Args:
        devices: Rows of `all_devices`.
        readers: The profiles in force; None: every device speaks the native contract.

    Returns:
        The routes.
    """
    readers = Readers() if readers is None else readers
    return Routes([Registration(*row).with_reader(readers) for row in devices], readers=readers)


def holds_pictures(segment: Segment) -> bool:
    """Whether a segment is of a worker that hears pictures."""
    if any(flags & (Flag.FRAME | Flag.EVENT) for flags in segment.flags):
        return True
    # Pictures that are all above the limit: ``…site/+/camera/+/frame/+``.
    levels = segment.topics[0].split(b"/") if segment.topics else []
    return len(levels) >= 6 and levels[-6] == b"site" and levels[-2] == b"frame"


def units_by_message(
    segment: Segment, put_aside: Mapping[int, int], routes: Routes
) -> Counter[tuple[int, int]]:
    """Count the units of the balance in a segment of telemetry.

    Args:
        segment: The messages.
        put_aside: Those to be counted as one unit, unread: index and device number.
        routes: Where topics lead.

    Returns:
        Units by index of the message and device number; statuses and events have none.
    """
    units = Counter(dict.fromkeys(put_aside.items(), 1))
    read = [index for index in range(len(segment.topics)) if index not in put_aside]
    arrivals = Arrivals(
        topics=[segment.topics[index] for index in read],
        payloads=[segment.payloads[index] for index in read],
        flags=[segment.flags[index] for index in read],
        received_us=[segment.received_us[index] for index in read],
    )
    flush = gather(arrivals, routes, TimeLimits(), fold=False)
    for block in flush.blocks:
        places = zip(block.index.tolist(), block.device_id.tolist(), strict=True)
        units.update((read[index], device_id) for index, device_id in places)
    for entry in flush.quarantined:
        if entry.units:
            units[read[entry.index], entry.device_id or UNKNOWN_DEVICE] += entry.units
    return units


def pictures_by_message(
    segment: Segment, put_aside: Mapping[int, int], routes: Routes
) -> Counter[tuple[int, int]]:
    """Count the messages of a segment of pictures.

    Args:
        segment: The messages.
        put_aside: Those that were no pictures, or are known to be about another camera than that
            of their topic: index and device number.
        routes: Where topics lead.

    Returns:
        One for each message, by its index and device number.
    """
    counts: Counter[tuple[int, int]] = Counter()
    for index, topic in enumerate(segment.topics):
        device = put_aside.get(index)
        if device is None:
            device = UNKNOWN_DEVICE
            with contextlib.suppress(Rejected):
                route = routes.find(topic)
                device = route.device.id if isinstance(route, Route) else UNKNOWN_DEVICE
        counts[index, device] += 1
    return counts


def by_hour(segment: Segment, units: Mapping[tuple[int, int], int]) -> Counter[tuple[int, int]]:
    """Turn counts by message into counts by hour.

    Args:
        segment: The messages.
        units: By index of the message and device number.

    Returns:
        Counts by device number and start of the hour of receipt, microseconds since 1970 UTC.
    """
    hours: Counter[tuple[int, int]] = Counter()
    for (index, device), count in units.items():
        hours[device, hour_of(segment.received_us[index])] += count
    return hours


def cut(
    connection: psycopg.Connection[Any],
    facts: SegmentFacts,
    start: datetime,
    end: datetime,
    routes: Routes,
) -> Part | None:
    """Say what of a segment came within a span.

    A segment that came back from quarantine counts what its messages hold beyond the one unit
    each was counted as when it came.

    Args:
        connection: In the snapshot the balance is read in.
        facts: Of the segment.
        start: Begin of the span.
        end: Its end, exclusive.
        routes: Where topics lead.

    Returns:
        The part, or None where it cannot be told: the bytes have aged out, or what they hold
        today is not what was counted when they came.
    """
    place = {"worker_id": facts.worker_id, "segment": facts.number}
    row = connection.execute(
        SQL["segment_bytes"], {"worker_id": facts.worker_id, "number": facts.number}
    ).fetchone()
    if row is None or row[0] is None:
        return None
    segment = unpack(row[0])
    first, last = microseconds(start), microseconds(end)
    inside = {
        index
        for index, received_us in enumerate(segment.received_us)
        if first <= received_us < last
    }
    redelivered = sum(1 for index in inside if segment.flags[index] & Flag.DUP)
    if holds_pictures(segment):
        return Part(len(inside), 0, redelivered)
    aside = {
        index: device
        for index, device, _ in connection.execute(SQL["messages_put_aside"], place).fetchall()
    }
    units = units_by_message(segment, aside, routes)
    if any(flags & Flag.RETRIED for flags in segment.flags):
        whole = _came_back_whole(connection, facts, segment)
        units = Counter({key: count for key, count in units.items() if key[0] in whole})
        units.update({(index, UNKNOWN_DEVICE): -1 for index in whole})
    if units.total() != facts.readings:
        return None
    readings = sum(count for (index, _), count in units.items() if index in inside)
    return Part(len(inside), readings, redelivered)


def _came_back_whole(
    connection: psycopg.Connection[Any], facts: SegmentFacts, segment: Segment
) -> set[int]:
    """Messages of a retried segment of which nothing could be read before."""
    rows = connection.execute(
        SQL["messages_resolved"],
        {
            "worker_id": facts.worker_id,
            "segment": facts.number,
            "received_from": facts.received_from,
            "received_to": facts.received_to,
        },
    ).fetchall()
    resolved = {(microseconds(received_at), bytes(sha256)) for received_at, sha256 in rows}
    return {
        index
        for index, (received_us, payload) in enumerate(
            zip(segment.received_us, segment.payloads, strict=True)
        )
        if (received_us, hashlib.sha256(payload).digest()) in resolved
    }


class Recount(NamedTuple):
    """What raw segments of a span hold.

    Attributes:
        readings: Units of the balance by device and hour.
        frames: Messages on camera topics by device and hour.
        messages: How many were read.
        unknown: Hours of which some bytes have aged out: nothing can be said of them.
    """

    readings: Hours
    frames: Hours
    messages: int
    unknown: frozenset[datetime]


def recount(
    connection: psycopg.Connection[Any],
    start: datetime,
    end: datetime,
    routes: Routes,
    retriers: Collection[int],
) -> Recount:
    """Count what was received in a span from the bytes alone.

    Args:
        connection: In the snapshot the balance was read in.
        start: Begin of the span, a full hour.
        end: Its end, exclusive, likewise.
        routes: Where topics lead.
        retriers: Workers whose messages lie in an earlier segment too.

    Returns:
        What there is.
    """
    readings: Counter[tuple[int, int]] = Counter()
    frames: Counter[tuple[int, int]] = Counter()
    messages = 0
    unknown: set[int] = set()
    first, last = microseconds(start), microseconds(end)
    with connection.cursor("balance_bytes", binary=True) as cursor:
        cursor.itersize = 20
        cursor.execute(SQL["bytes_received"], {"start": start, "end": end})
        for worker_id, number, received_from, received_to, body in cursor:
            if worker_id in retriers:
                continue
            if body is None:
                hour = hour_of(max(first, microseconds(received_from)))
                unknown.update(range(hour, min(last, microseconds(received_to) + 1), HOUR_US))
                continue
            segment = unpack(body)
            place = {"worker_id": worker_id, "segment": number}
            rows = connection.execute(SQL["messages_put_aside"], place).fetchall()
            aside = {index: device for index, device, is_open in rows if is_open}
            pictures = holds_pictures(segment)
            if pictures:
                aside |= dict(connection.execute(SQL["messages_reported"], place).fetchall())
            count = pictures_by_message if pictures else units_by_message
            (frames if pictures else readings).update(
                by_hour(segment, count(segment, aside, routes))
            )
            messages += sum(1 for received_us in segment.received_us if first <= received_us < last)

    def within(counts: Counter[tuple[int, int]]) -> Hours:
        return {
            (device, moment_of(hour)): count
            for (device, hour), count in counts.items()
            if first <= hour < last
        }

    return Recount(
        within(readings), within(frames), messages, frozenset(moment_of(us) for us in unknown)
    )
