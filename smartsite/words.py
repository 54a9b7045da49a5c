"""What devices said, for judging their health: that they spoke and when, not what they measured.

Everything here is about what the judge has judged: readings of segments below its places.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from detectors.silence import spoken_at
from device_profiles.readings import DeviceStatus, Reading, Source
from device_profiles.vocabulary import Kind, Series
from ingest.store.queries import load_queries
from ingest.store.readings import FETCH_ROWS, StoredDevice, device_status, frame_seen

SQL = load_queries(Path(__file__).with_name("words.sql"))

LONG_AGO = datetime.min.replace(tzinfo=UTC)
FAR_OFF = datetime.max.replace(tzinfo=UTC)
RECENT = timedelta(days=1)

_SEARCHES: tuple[tuple[list[int], timedelta | None], ...] = (
    ([0, 1, 2, 3], RECENT),
    ([0], None),
    ([1, 2, 3], None),
)
"""Which series are searched how far back, each for those whose last word was not found before.
Nearly all are found in the last day; what was never said is looked for in all of history last."""


class Last(NamedTuple):
    """What a device said last.

    Attributes:
        word: The last reading or picture.
        status: The status that said first what is said now.
    """

    word: Reading | None
    status: DeviceStatus | None


async def last_words(
    connection: psycopg.AsyncConnection[Any], devices: Sequence[StoredDevice], now: datetime
) -> dict[int, Last]:
    """Find what some devices said last.

    Args:
        connection: An open connection.
        devices: Of any kinds.
        now: The present time; aware.

    Returns:
        By the registry's number, for each of the devices.
    """
    found: dict[int, Reading] = {}
    for kind, of_kind in itertools.groupby(
        sorted(devices, key=lambda device: device.kind), key=lambda device: device.kind
    ):
        by_id = {device.id: device for device in of_kind}
        for series, back in _SEARCHES:
            missing = by_id.keys() - found.keys()
            if not missing or (kind is Kind.CAMERA and series == [1, 2, 3]):
                break
            terms: dict[str, object] = {
                "device_ids": sorted(missing),
                "series": series,
                "since": LONG_AGO if back is None else now - back,
            }
            cursor = connection.cursor(binary=True)
            await cursor.execute(_query("last", kind), terms)
            for row in await cursor.fetchall():
                word = _word(by_id[row[0]], row)
                before = found.get(row[0])
                if before is None or spoken_at(word) > spoken_at(before):
                    found[row[0]] = word
    statuses = await _last_statuses(connection, devices, FAR_OFF)
    return {device.id: Last(found.get(device.id), statuses.get(device.id)) for device in devices}


async def status_before(
    connection: psycopg.AsyncConnection[Any], device: StoredDevice, at: datetime
) -> bool | None:
    """Find what a device's status said last before an instant.

    Args:
        connection: An open connection.
        device: The device.
        at: The instant; aware.

    Returns:
        Whether it was online; None if it never said.
    """
    status = (await _last_statuses(connection, [device], at)).get(device.id)
    return None if status is None else status.online


async def word_before(
    connection: psycopg.AsyncConnection[Any], device: StoredDevice, at: datetime
) -> datetime | None:
    """Find when a device spoke last before an instant.

    Args:
        connection: An open connection.
        device: The device.
        at: The instant; aware.

    Returns:
        The time; None if it never did.
    """
    cursor = await connection.execute(
        _query("before", device.kind), {"device_id": device.id, "at": at}
    )
    (found,) = await cursor.fetchone() or (None,)
    return found


async def words_since(
    connection: psycopg.AsyncConnection[Any], device: StoredDevice, since: datetime
) -> AsyncIterator[Reading]:
    """Read what a device said since an instant, statuses included, in the order it was said.

    Args:
        connection: In a transaction: the rows are fetched by a server-side cursor.
        device: The device.
        since: The first time; aware.

    Yields:
        Readings without their values, pictures and statuses.
    """
    terms = {"device_id": device.id, "since": since}
    cursor = await connection.execute(SQL["statuses_since"], terms)
    # Behind what has the same time, as elsewhere.
    waiting: list[tuple[datetime, int, int, Reading]] = [
        (spoken_at(status), 1, place, status)
        for place, status in enumerate(
            device_status(device, row) for row in await cursor.fetchall()
        )
    ]
    heapq.heapify(waiting)
    place = itertools.count(len(waiting))
    async with connection.cursor("words", binary=True) as words:
        words.itersize = FETCH_ROWS
        await words.execute(_query("since", device.kind), terms)
        async for row in words:
            word = _word(device, row)
            # None that comes can have been said before its own time.
            while waiting and waiting[0][0] < word.observed_at:
                yield heapq.heappop(waiting)[-1]
            heapq.heappush(waiting, (spoken_at(word), 0, next(place), word))
    while waiting:
        yield heapq.heappop(waiting)[-1]


async def offsets_since(
    connection: psycopg.AsyncConnection[Any], device: StoredDevice, since: datetime
) -> list[Reading]:
    """Read with which readings the offset of a device's clock changed.

    Args:
        connection: An open connection.
        device: Any but a camera.
        since: The first time; aware.

    Returns:
        The first of each run of equal offsets, without their values, and the last of all.
    """
    cursor = connection.cursor(binary=True)
    await cursor.execute(_query("offsets", device.kind), {"device_id": device.id, "since": since})
    return [_word(device, row) for row in await cursor.fetchall()]


async def _last_statuses(
    connection: psycopg.AsyncConnection[Any], devices: Iterable[StoredDevice], before: datetime
) -> dict[int, DeviceStatus]:
    by_id = {device.id: device for device in devices}
    cursor = await connection.execute(
        SQL["last_statuses"], {"device_ids": list(by_id), "before": before}
    )
    return {row[0]: device_status(by_id[row[0]], row) for row in await cursor.fetchall()}


_FRAMES = {"last": "last_frames", "before": "frame_before", "since": "frames_since"}
_READINGS = {
    "last": "last_readings",
    "before": "reading_before",
    "since": "readings_since",
    "offsets": "offsets_since",
}


def _query(what: str, kind: Kind) -> bytes:
    if kind is Kind.CAMERA:
        return SQL[_FRAMES[what]].encode()
    return SQL[_READINGS[what]].replace("dust_readings", f"{kind}_readings").encode()


def _word(device: StoredDevice, row: tuple[Any, ...]) -> Reading:
    if device.kind is Kind.CAMERA:
        return frame_seen(device, row)
    _, observed_at, received_at, worker_id, segment, index, series, reported_at = row
    return Reading(
        site=device.site,
        device=device.device,
        observed_at=observed_at,
        received_at=received_at,
        source=Source(worker_id, segment, index),
        series=Series(series),
        clock_offset_s=0.0 if reported_at is None else (observed_at - reported_at).total_seconds(),
    )
