"""What ages out goes after its days, and nothing else; who still needs it keeps it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import TimeLimits
from ingest.segments import unpack
from ingest.store import retention
from ingest.store.hypertables import INTERVALS, READING_BYTES, chunk_interval, look_at_server
from ingest.store.retention import Aging, Retention
from ingest.store.rollups import Rollups
from ingest.store.worker import Worker, connect
from ingest.store.writer import TelemetryWriter
from simulators.camera import picture_at
from tests.integration.yard import (
    NOW,
    NOW_US,
    arrivals_of,
    ask,
    do,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

DAY_US = 86_400_000_000
ONE, OTHER = picture_at(0.0).jpeg, picture_at(7.0).jpeg
GARBAGE = b"not a picture"


class Yard:
    """A history of some months, and what ages it."""

    def __init__(self, url: str, connection: psycopg.AsyncConnection[Any], root: Path) -> None:
        self.url = url
        self.connection = connection
        self.frames = FrameStore(root / "frames")

    async def write(self, *messages: tuple[str, bytes], days_ago: float = 0) -> None:
        pen = Worker(self.url, "ingest")
        try:
            await TelemetryWriter(pen).write(
                flush_of(
                    await routes_of(self.url),
                    *messages,
                    received_us=NOW_US - int(days_ago * DAY_US),
                )
            )
        finally:
            await pen.close()

    async def photograph(
        self, picture: bytes, days_ago: int, *, queued: bool = False, ms: int = 0
    ) -> bytes:
        """Store a frame as if it had come then; returns its hash."""
        pen = Worker(self.url, "frames")
        us = NOW_US - days_ago * DAY_US
        try:
            writer = FrameWriter(pen, self.frames, TimeLimits())
            topic = topic_of("camera-1", f"frame/{us // 1_000 + ms}")
            await writer.write(
                arrivals_of((topic, picture), received_us=us + ms), await routes_of(self.url)
            )
        finally:
            await pen.close()
        if not queued:
            do(self.url, "DELETE FROM frame_queue")
        sha256 = self.hash_of(picture)
        os.utime(self.frames.path(sha256), (us / 1e6, us / 1e6))
        return sha256

    @staticmethod
    def hash_of(picture: bytes) -> bytes:
        return hashlib.sha256(picture).digest()

    async def roll_up(self) -> None:
        rollups = Rollups(self.connection)
        while await rollups.step():
            pass

    async def age(self, now: datetime = NOW, **days: int) -> Counter[str]:
        server = await look_at_server(self.connection)
        aging = Aging(self.connection, server, Retention(**days), self.frames, now)
        assert await aging.run()
        return aging.gone

    def there(self, sha256: bytes) -> bool:
        return self.frames.path(sha256).exists()

    def frames_left(self) -> int:
        return len(ask(self.url, "SELECT FROM frames"))


@pytest.fixture
async def yard(database_url: str, tmp_path: Path) -> AsyncIterator[Yard]:
    register(database_url, site_file())
    async with await connect(database_url, "a test") as connection:
        yield Yard(database_url, connection, tmp_path)


def at(days_ago: int, second: int = 0) -> datetime:
    return NOW - timedelta(days=days_ago, seconds=-second)


async def a_history(yard: Yard) -> None:
    for days in (100, 50, 10, 0):
        await yard.write(
            *((topic_of("dust-1"), telemetry(at(days, s), pm10_ug_m3=s)) for s in range(3)),
            *((topic_of("crane-1"), telemetry(at(days, s), load_t=s)) for s in range(3)),
            (topic_of("dust-1", "status"), b'{"online": false}'),
            (topic_of("dust-1", "event"), b'{"what": "opened"}'),
            (topic_of("dust-2"), b"garbage"),
            days_ago=days,
        )
        await yard.write(
            (topic_of("dust-1"), telemetry(at(days), noise_db=60)), days_ago=days - 0.01
        )
    await yard.roll_up()


def counted(yard: Yard) -> dict[str, int]:
    tables = (
        *("dust_readings", "crane_readings", "reading_parts", "device_status", "device_events"),
        *("dust_1min", "dust_1h", "dust_1d", "crane_1min", "quarantine", "segments"),
    )
    with psycopg.connect(yard.url) as connection:
        found = {}
        for table in tables:
            row = connection.execute(b"SELECT count(*) FROM " + table.encode()).fetchone()
            found[table] = row[0] if row else 0
        return found


async def test_nothing_goes_without_being_told_to(yard: Yard) -> None:
    await a_history(yard)
    before = counted(yard)
    assert not await yard.age()
    assert counted(yard) == before


async def test_each_kind_goes_after_its_own_days(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)  # many small steps do the same
    await a_history(yard)
    before = counted(yard)
    gone = await yard.age(
        dust_days=60, crane_days=30, statuses_days=40, rollups_1min_days=70, rollups_1h_days=90
    )
    assert gone == {
        "dust_readings": 3,
        "crane_readings": 6,
        "reading_parts": 1,
        "device_status": 2,
        "device_events": 2,
        "dust_1min": 1,
        "crane_1min": 1,
        "dust_1h": 1,
        "crane_1h": 1,
    }
    after = counted(yard)
    assert {name: before[name] - after[name] for name in before if before[name] != after[name]} == {
        name: count for name, count in gone.items() if name in before
    }
    oldest = ask(yard.url, "SELECT min(observed_at) AS at FROM dust_readings")
    assert oldest == [{"at": at(50)}]
    assert not await yard.age(dust_days=60, crane_days=30, statuses_days=40)


async def test_what_aged_out_stays_in_the_account(yard: Yard) -> None:
    """Received is stored and duplicate and merged and quarantined, and what has aged out."""
    await a_history(yard)
    await yard.age(dust_days=60, crane_days=30)
    (sums,) = ask(
        yard.url,
        "SELECT (SELECT sum(readings) FROM segments)::int AS received,"
        " ((SELECT count(*) FROM dust_readings) + (SELECT count(*) FROM crane_readings))::int"
        "   AS stored,"
        " (SELECT sum(count) FROM ingest_exceptions"
        "  WHERE what IN ('duplicate', 'merged', 'quarantined'))::int AS excepted,"
        " (SELECT sum(count) FROM ingest_exceptions WHERE what = 'aged_out')::int AS aged_out",
    )
    assert sums["aged_out"] == 9
    assert sums["received"] == sums["stored"] + sums["excepted"] + sums["aged_out"]
    hours = ask(
        yard.url,
        "SELECT hour, device_id, count::int FROM ingest_exceptions WHERE what = 'aged_out'"
        " ORDER BY 1, 2",
    )
    assert hours == [
        {"hour": at(100), "device_id": 1, "count": 3},
        {"hour": at(100), "device_id": 3, "count": 3},
        {"hour": at(50), "device_id": 3, "count": 3},
    ]


async def test_rollups_outlive_their_readings(yard: Yard) -> None:
    await a_history(yard)
    days = ask(yard.url, "SELECT * FROM dust_1d ORDER BY bucket")
    await yard.age(dust_days=5)
    await yard.write((topic_of("dust-1"), telemetry(at(10, 9), pm10_ug_m3=999)))
    await yard.roll_up()
    assert ask(yard.url, "SELECT * FROM dust_1d ORDER BY bucket") == days
    assert (await yard.age(dust_days=5))["dust_readings"] == 1  # it goes like the rest of its day


async def test_readings_wait_for_the_rollups(yard: Yard) -> None:
    await a_history(yard)
    await yard.write((topic_of("dust-1"), telemetry(at(99), pm10_ug_m3=1)), days_ago=2)
    server = await look_at_server(yard.connection)
    aging = Aging(yard.connection, server, Retention(dust_days=60), yard.frames, NOW)
    assert await aging.run()
    assert not aging.gone
    assert "the rollups have not followed" in aging.said[0]
    await yard.roll_up()
    assert (await yard.age(dust_days=60))["dust_readings"] == 4


async def test_a_turn_ends_when_it_is_enough(yard: Yard) -> None:
    await a_history(yard)
    server = await look_at_server(yard.connection)
    steps = iter([False] * 3)
    aging = Aging(
        *(yard.connection, server, Retention(dust_days=1, crane_days=1), yard.frames, NOW),
        enough=lambda: next(steps, True),
    )
    assert not await aging.run()
    assert 0 < aging.gone["dust_readings"] + aging.gone["crane_readings"] < 18
    await yard.age(dust_days=1, crane_days=1)
    assert counted(yard)["dust_readings"] == counted(yard)["crane_readings"] == 3


async def test_what_a_device_said_last_stays(yard: Yard) -> None:
    await a_history(yard)
    gone = await yard.age(now=NOW + timedelta(days=1_000), statuses_days=1)
    assert gone == {"device_status": 3, "device_events": 4}
    assert ask(yard.url, "SELECT received_at AS at FROM device_status")[0]["at"] >= NOW


async def test_segments_lose_their_bytes_and_keep_their_account(yard: Yard) -> None:
    await a_history(yard)
    kept: Any = "SELECT number, received_from, messages, readings, sha256 FROM segments ORDER BY 1"
    before = ask(yard.url, kept)
    # Two a day: one with garbage in it, which can still be read again for a while.
    gone = await yard.age(segments_days=30, quarantine_days=80)
    assert gone == {"segments": 3}
    bytes_left = ask(yard.url, "SELECT number FROM segments WHERE body IS NOT NULL ORDER BY 1")
    assert [row["number"] for row in bytes_left] == [3, 5, 6, 7, 8]
    assert ask(yard.url, kept) == before
    do(yard.url, "UPDATE quarantine SET resolved_at = now() WHERE segment = 3")
    assert await yard.age(segments_days=30, quarantine_days=80) == {"segments": 1}
    assert counted(yard)["quarantine"] == 4
    (row,) = ask(yard.url, "SELECT body FROM segments WHERE number = 5")
    assert unpack(row["body"]).payloads[-1] == b"garbage"


async def test_a_picture_goes_with_its_last_frame(yard: Yard) -> None:
    one = await yard.photograph(ONE, 60)
    await yard.photograph(ONE, 10)
    other = await yard.photograph(OTHER, 60, ms=5)
    os.utime(yard.frames.path(one), (0, 0))
    assert await yard.age(frames_days=30) == {"frames": 2, "pictures": 1}
    assert yard.there(one)
    assert not yard.there(other)
    assert await yard.age(frames_days=5) == {"frames": 1, "pictures": 1}
    assert not yard.there(one)
    assert not await yard.age(frames_days=5)


async def test_evidence_and_what_is_queued_stay(yard: Yard) -> None:
    one = await yard.photograph(ONE, 60)
    other = await yard.photograph(OTHER, 60, queued=True, ms=5)
    evidence = msgspec.json.encode(
        [{"device": "crane-1"}, {"device": "camera-1", "frame_sha256": one.hex()}]
    )
    do(
        yard.url,
        "INSERT INTO violations VALUES ('v', 'helmet.bare_head', 'helmet', 'yard', 'camera-1#1',"
        " 'open', 'warning', now(), NULL, '{}', '', '', %(evidence)s::jsonb, now(), now())",
        {"evidence": evidence.decode()},
    )
    assert not await yard.age(frames_days=30)
    assert yard.there(one)
    assert yard.there(other)
    do(yard.url, "DELETE FROM frame_queue")
    assert await yard.age(frames_days=30) == {"frames": 1, "pictures": 1}
    assert yard.there(one)
    assert not yard.there(other)


async def test_what_was_put_aside_is_kept_for_its_own_days(yard: Yard) -> None:
    garbage = await yard.photograph(GARBAGE, 100)
    one = await yard.photograph(ONE, 100, ms=5)
    await yard.photograph(OTHER, 100, ms=5)  # another picture for the same time: put aside
    other = yard.hash_of(OTHER)
    assert await yard.age(frames_days=30, quarantine_days=200) == {"frames": 1, "pictures": 1}
    assert [yard.there(sha256) for sha256 in (garbage, one, other)] == [True, False, True]
    assert await yard.age(frames_days=30, quarantine_days=90) == {"pictures": 2}
    assert not yard.there(garbage)
    assert not yard.there(other)
    assert counted(yard)["quarantine"] == 2
    assert not await yard.age(frames_days=30, quarantine_days=90)


async def test_a_picture_that_comes_again_meanwhile_stays(yard: Yard) -> None:
    """Its file is there and fresh, its row not committed yet: neither old row nor file goes."""
    one = await yard.photograph(ONE, 60)
    yard.frames.put(ONE)  # as the frames role does before its transaction
    now = datetime.now(UTC)
    assert not await yard.age(now=now, frames_days=30)
    assert yard.there(one)
    assert yard.frames_left() == 1
    os.utime(yard.frames.path(one), (0, 0))  # it turned out to be a duplicate, long ago
    assert await yard.age(now=now, frames_days=30) == {"frames": 1, "pictures": 1}


async def test_a_death_between_file_and_row_is_made_good(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await yard.photograph(ONE, 60)

    def dies(self: Aging, hashes: set[bytes], since: float) -> set[bytes]:
        for sha256 in hashes:
            yard.frames.remove(sha256, since)
        raise OSError("killed")

    monkeypatch.setattr(Aging, "_unlink", dies)
    with pytest.raises(OSError, match="killed"):
        await yard.age(frames_days=30)
    monkeypatch.undo()
    assert not yard.there(one)
    assert yard.frames_left() == 1
    assert await yard.age(frames_days=30) == {"frames": 1}
    assert yard.frames_left() == 0


async def test_without_the_frame_folder_no_frame_is_touched(yard: Yard, tmp_path: Path) -> None:
    """A role on another machine, without the folder, would forget what the files are."""
    await yard.photograph(ONE, 60)
    yard.frames = FrameStore(tmp_path / "elsewhere")
    assert not await yard.age(frames_days=30)
    assert yard.frames_left() == 1


def test_who_puts_and_who_removes_take_turns(tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    sha256 = store.put(ONE)
    os.utime(store.path(sha256), (0, 0))
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # somebody is freshening
        removed: list[bool] = []
        removing = threading.Thread(target=lambda: removed.append(store.remove(sha256, 1.0)))
        removing.start()
        assert store.put(ONE) == sha256
    removing.join(timeout=30)
    assert removed == [False]
    assert store.get(sha256) == ONE
    os.utime(store.path(sha256), (0, 0))
    assert store.remove(sha256, 1.0)
    assert not store.remove(sha256, 1.0)
    assert not store.freshen(sha256)
    assert store.put(ONE) == sha256
    assert store.get(sha256) == ONE


@pytest.mark.parametrize(
    ("readings_per_second", "memory_bytes", "hours"),
    [
        (12_000, 32 * 2**30, 1),  # a city: an hour is 13 GB
        (12_000, 2**30, 1),  # none fits: the shortest
        (400, 4 * 2**30, 6),  # a hundred sites: six hours are 2.6 GB
        (4, 128 * 2**20, 24),  # a site with four cranes
        (4, 2**30, 168),
        (0.05, 128 * 2**20, 168),
    ],
)
def test_a_chunk_is_as_long_as_memory_allows(
    readings_per_second: float, memory_bytes: int, hours: int
) -> None:
    interval = chunk_interval(readings_per_second * 86_400, memory_bytes)
    assert interval == timedelta(hours=hours)
    size = readings_per_second * interval.total_seconds() * READING_BYTES
    assert size <= memory_bytes or interval == INTERVALS[0]
