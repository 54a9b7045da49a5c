"""Frames: the file before the row, the row before the queue, each picture once."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from ingest.errors import DiskUnavailable
from ingest.frame_store import FrameStore
from ingest.frames import FrameOutcome, FrameWriter
from ingest.pipeline import Arrivals, TimeLimits
from ingest.registry import Routes
from ingest.segments import Flag, unpack
from ingest.store.queries import load_queries
from ingest.store.worker import Worker
from simulators.camera import picture_at
from smartsite.roles import vision
from tests.integration.yard import (
    NOW,
    NOW_US,
    arrivals_of,
    ask,
    do,
    register,
    routes_of,
    site_file,
    topic_of,
)

SQL = load_queries(Path(vision.__file__).parents[2] / "ingest" / "store" / "sql" / "frames.sql")

ONE, OTHER = picture_at(0.0).jpeg, picture_at(7.0).jpeg
assert ONE != OTHER


def frame(ms: int, device: str = "camera-1") -> str:
    return topic_of(device, f"frame/{NOW_US // 1_000 + ms}")


@dataclass
class Easel:
    """A frame writer on the test's database and folder."""

    url: str
    store: FrameStore
    worker: Worker
    writer: FrameWriter
    routes: Routes

    async def write(
        self, *messages: tuple[str | bytes, bytes], received_us: int = NOW_US
    ) -> FrameOutcome:
        return await self.write_arrivals(arrivals_of(*messages, received_us=received_us))

    async def write_arrivals(self, arrivals: Arrivals) -> FrameOutcome:
        return await self.writer.write(arrivals, self.routes)

    def run(self, name: LiteralString, **terms: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(SQL[name], terms).fetchall()

    def do(self, name: LiteralString, **terms: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(SQL[name], terms)


@pytest.fixture
async def easel(database_url: str, tmp_path: Path) -> AsyncIterator[Easel]:
    register(database_url, site_file())
    store = FrameStore(tmp_path)
    worker = Worker(database_url, "frames")
    routes = await routes_of(database_url)
    yield Easel(database_url, store, worker, FrameWriter(worker, store, TimeLimits()), routes)
    await worker.close()


async def test_a_frame_is_kept_described_and_queued(easel: Easel) -> None:
    outcome = await easel.write((frame(0), ONE), (frame(500), OTHER))
    assert (outcome.stored, outcome.duplicates, outcome.quarantined.total()) == (2, 0, 0)
    rows = ask(
        easel.url,
        "SELECT observed_at, received_at, segment, segment_index, sha256, bytes, width, height"
        " FROM frames ORDER BY observed_at",
    )
    assert [tuple(row.values()) for row in rows] == [
        (
            NOW + timedelta(milliseconds=500 * place),
            NOW + timedelta(microseconds=place),
            1,
            place,
            hashlib.sha256(jpeg).digest(),
            len(jpeg),
            rows[place]["width"],
            rows[place]["height"],
        )
        for place, jpeg in enumerate((ONE, OTHER))
    ]
    assert min(rows[0]["width"], rows[0]["height"]) > 100
    assert [easel.store.get(row["sha256"]) for row in rows] == [ONE, OTHER]
    queued = ask(
        easel.url, "SELECT sha256, leased_until, event FROM frame_queue ORDER BY observed_at"
    )
    assert [tuple(row.values()) for row in queued] == [(row["sha256"], None, False) for row in rows]


async def test_the_segment_holds_hashes_in_the_place_of_pictures(easel: Easel) -> None:
    arrivals = arrivals_of((frame(0), ONE), (frame(1), OTHER[:65_536]))
    arrivals.oversized[1] = (10**9, b"h" * 32)
    await easel.write_arrivals(arrivals)
    (row,) = ask(easel.url, "SELECT * FROM segments")
    segment = unpack(row["body"])
    assert segment.payloads == [hashlib.sha256(ONE).digest(), OTHER[:65_536]]
    assert segment.flags[0] & Flag.FRAME
    assert segment.flags[1] & Flag.TRUNCATED
    assert not segment.flags[1] & Flag.FRAME
    (kept,) = ask(easel.url, "SELECT reason, payload_bytes, payload_sha256 FROM quarantine")
    assert tuple(kept.values()) == ("too_large", 10**9, b"h" * 32)


async def test_the_same_frame_again_is_a_duplicate_and_another_one_a_conflict(
    easel: Easel,
) -> None:
    await easel.write((frame(0), ONE))
    again = await easel.write(
        (frame(0), ONE), (frame(1), ONE), (frame(1), ONE), received_us=NOW_US + 9
    )
    assert (again.stored, again.duplicates, again.quarantined.total()) == (1, 2, 0)
    other = await easel.write((frame(0), OTHER), received_us=NOW_US + 99)
    assert (other.stored, other.duplicates, other.quarantined.total()) == (0, 0, 1)
    assert {row["sha256"] for row in ask(easel.url, "SELECT sha256 FROM frames")} == {
        hashlib.sha256(ONE).digest()
    }
    (kept,) = ask(easel.url, "SELECT scope, reason, detail FROM quarantine")
    assert (kept["scope"], kept["reason"]) == ("frame", "conflict")
    assert kept["detail"].startswith("yard/camera-1: ")
    assert easel.store.get(hashlib.sha256(OTHER).digest()) == OTHER
    counted = ask(easel.url, "SELECT what, sum(count)::int AS n FROM ingest_exceptions GROUP BY 1")
    assert {row["what"]: row["n"] for row in counted} == {
        "duplicate_frame": 2,
        "quarantined_frame": 1,
    }


async def test_a_flush_whose_commit_was_not_heard_of_is_not_written_again(easel: Easel) -> None:
    arrivals = arrivals_of((frame(0), ONE))
    await easel.write_arrivals(arrivals)
    await easel.worker.close()
    await easel.worker.open()  # as reading the registry does
    assert (await easel.write_arrivals(arrivals)).already_written
    assert len(ask(easel.url, "SELECT FROM segments")) == 1


async def test_nothing_is_committed_that_the_disk_did_not_take(
    easel: Easel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data: bytes) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(easel.store, "put", full)
        with pytest.raises(DiskUnavailable, match="No space left"):
            await easel.write((frame(0), ONE))
    assert ask(easel.url, "SELECT FROM segments") == []
    assert (await easel.write((frame(0), ONE))).stored == 1


async def test_a_time_that_is_not_believed(easel: Easel) -> None:
    outcome = await easel.write((frame(3_600_000), ONE), (frame(-500 * 86_400_000), ONE))
    assert (outcome.stored, outcome.quarantined.total()) == (0, 2)
    rows = ask(easel.url, "SELECT reason, detail FROM quarantine ORDER BY id")
    assert [row["reason"] for row in rows] == ["time", "time"]
    assert "after its receipt" in rows[0]["detail"]
    assert "before its receipt" in rows[1]["detail"]


def queue(easel: Easel, device: str, *seconds: int, events: Sequence[int] = ()) -> int:
    """Put frames into the queue, and pictures of events, observed and received at these seconds."""
    (row,) = ask(
        easel.url,
        "INSERT INTO devices (site_id, device, kind, expected_every_s)"
        " VALUES ('yard', %(device)s, 'camera', 1) RETURNING id",
        {"device": device},
    )
    for second in (*seconds, *events):
        do(
            easel.url,
            "INSERT INTO frame_queue (device_id, observed_at, received_at, sha256, event)"
            " VALUES (%(id)s, %(at)s, %(at)s, '', %(event)s)",
            {"id": row["id"], "at": at(second), "event": second in events},
        )
    return int(row["id"])


def at(second: float) -> datetime:
    return NOW + timedelta(seconds=second)


def lease(
    easel: Easel,
    now: float,
    at_most: int = 100,
    name: LiteralString = "lease_frames",
    *,
    event: bool = False,
) -> list[tuple[str, int]]:
    rows = easel.run(
        name, now=at(now), until=at(now + 30), at_most=at_most, event=event, worker_id=1
    )
    if name == "lease_frames":
        assert {row[7] for row in rows} <= {event}
    return sorted((row[2], round((row[3] - NOW).total_seconds())) for row in rows)


async def test_the_oldest_of_each_camera_are_leased_until_the_lease_runs_out(easel: Easel) -> None:
    queue(easel, "north", 1, 2, 3, 4)
    queue(easel, "south", 3)
    assert lease(easel, now=10, at_most=3) == [("north", 1), ("north", 2), ("south", 3)]
    # The next to ask gets what is left, in order, and never what another has.
    assert lease(easel, now=11, at_most=3) == [("north", 3), ("north", 4)]
    assert lease(easel, now=12) == []
    assert lease(easel, now=40.5, at_most=3) == [("north", 1), ("north", 2), ("south", 3)]


async def test_when_not_all_can_be_taken_the_oldest_of_every_camera_come_first(
    easel: Easel,
) -> None:
    queue(easel, "north", 1, 2, 3)
    queue(easel, "south", 8, 9)
    assert lease(easel, now=10, at_most=2) == [("north", 1), ("south", 8)]


async def test_cameras_take_turns_by_receipt_whatever_their_clocks_say(easel: Easel) -> None:
    queue(easel, "fast", 9)
    queue(easel, "right", 5)
    do(
        easel.url,
        "UPDATE frame_queue SET received_at = %(now)s WHERE observed_at = %(at)s",
        {"now": at(4), "at": at(9)},
    )
    assert lease(easel, now=10, at_most=1) == [("fast", 9)]


async def test_what_was_held_when_the_looking_stopped_is_free_at_once(easel: Easel) -> None:
    queue(easel, "north", 1)
    assert lease(easel, now=10) == [("north", 1)]
    assert lease(easel, now=11) == []
    easel.do("release_leases", living=None)
    assert lease(easel, now=12, name="lease_suspect") == [("north", 1)]


def attempts(easel: Easel) -> list[int]:
    rows = ask(easel.url, "SELECT attempts FROM frame_queue ORDER BY observed_at, device_id")
    return [row["attempts"] for row in rows]


async def test_what_was_taken_and_came_to_no_end_is_taken_by_itself_the_oldest_first(
    easel: Easel,
) -> None:
    queue(easel, "north", 3, 4, events=[1])
    queue(easel, "south", 3, events=[2])
    assert lease(easel, now=10, name="lease_suspect") == []
    lease(easel, now=10)
    lease(easel, now=10, at_most=1, event=True)
    assert attempts(easel) == [1, 0, 1, 1, 1]
    assert lease(easel, now=11, name="lease_suspect") == []  # they are being looked at
    easel.do("release_leases", living=None)
    taken = [lease(easel, now=12, name="lease_suspect") for _ in range(5)]
    assert taken == [[("north", 1)], [("north", 3)], [("south", 3)], [("north", 4)], []]
    assert attempts(easel) == [2, 0, 2, 2, 2]


async def test_what_the_database_ended_was_no_attempt(easel: Easel) -> None:
    queue(easel, "north", 1, 2)
    lease(easel, now=10, at_most=1)  # by worker 1
    easel.do("release_leases", living=2)
    assert attempts(easel) == [1, 0]
    lease(easel, now=10)
    assert attempts(easel) == [2, 1]
    easel.do("release_leases", living=1)
    assert attempts(easel) == [1, 0]
    easel.do("release_leases", living=1)
    assert attempts(easel) == [1, 0]


async def test_what_ended_every_attempt_is_skipped(easel: Easel) -> None:
    north = queue(easel, "north", 3, 4, events=[1, 2])
    do(
        easel.url,
        "UPDATE frame_queue SET attempts = CASE WHEN observed_at <= %(at)s THEN 3 ELSE 2 END",
        {"at": at(1)},
    )
    do(easel.url, "UPDATE frame_queue SET attempts = 3 WHERE observed_at = %(at)s", {"at": at(3)})
    terms = {"now": at(10), "may_wait": 8, "too_old": at(0)}
    terms |= {"events_too_old": at(0), "attempts_at_most": 3}
    # Of two, one was of the stream.
    assert easel.run("skip_overtaken", **terms) == [(north, "crashed", 2, 1)]
    assert attempts(easel) == [2, 2]
    (counted,) = ask(easel.url, "SELECT reason, count FROM frames_skipped")
    assert tuple(counted.values()) == ("crashed", 2)


async def test_one_session_looks_at_a_time(easel: Easel) -> None:
    with psycopg.connect(easel.url, autocommit=True) as first:
        assert first.execute(SQL["lock_looking"]).fetchone() == (True,)
        assert first.execute(SQL["lock_looking"]).fetchone() == (True,)
        assert easel.run("lock_looking") == [(False,)]


async def test_pictures_of_events_are_leased_by_themselves_the_oldest_of_each_camera_first(
    easel: Easel,
) -> None:
    queue(easel, "north", 8, 9, events=[1, 2, 3])
    queue(easel, "south", 8, events=[5])
    assert lease(easel, now=10) == [("north", 8), ("north", 9), ("south", 8)]
    assert lease(easel, now=10, at_most=3, event=True) == [
        ("north", 1),
        ("north", 2),
        ("south", 5),
    ]
    assert lease(easel, now=11, at_most=3, event=True) == [("north", 3)]
    assert lease(easel, now=12, event=True) == []
    assert lease(easel, now=40.5, at_most=1, event=True) == [("north", 1)]


async def test_the_picture_of_an_event_is_overtaken_by_no_frame_and_grows_too_old(
    easel: Easel,
) -> None:
    for device in ("a", "b", "c", "d"):
        queue(easel, device, 7, 8, events=[-200, 2, 3])
    terms = {"now": at(10), "may_wait": 4}
    terms |= {"too_old": at(5), "events_too_old": at(-100), "attempts_at_most": 3}
    skipped = easel.run("skip_overtaken", **terms)
    assert [row[1:] for row in skipped] == [("event_too_old", 1, 0), ("overload", 1, 1)] * 4
    left = ask(easel.url, "SELECT observed_at FROM frame_queue ORDER BY 1")
    assert [row["observed_at"] for row in left] == [at(t) for t in (2, 3, 8) for _ in range(4)]
    counted = ask(easel.url, "SELECT reason, sum(count)::int FROM frames_skipped GROUP BY 1")
    assert {row["reason"]: row["sum"] for row in counted} == {"event_too_old": 4, "overload": 4}


async def test_of_more_than_may_wait_the_newest_of_each_camera_stay(easel: Easel) -> None:
    busy = queue(easel, "busy", *range(1, 10))
    slow = [queue(easel, device, 7, 8) for device in ("a", "b", "c")]
    terms = {"now": at(10), "too_old": at(0), "events_too_old": at(0), "attempts_at_most": 3}
    assert easel.run("skip_overtaken", **terms, may_wait=15) == []
    # What the others leave free is the busy one's.
    assert easel.run("skip_overtaken", **terms, may_wait=10) == [(busy, "overload", 5, 5)]
    # And as many of one as of another where there is too little for all; one of each in any case.
    terms["now"] = at(11)
    assert [row[2] for row in easel.run("skip_overtaken", **terms, may_wait=2)] == [3, 1, 1, 1]
    assert lease(easel, now=12) == [("a", 8), ("b", 8), ("busy", 9), ("c", 8)]
    counted = ask(easel.url, "SELECT device_id, count FROM frames_skipped ORDER BY 1")
    assert [tuple(row.values()) for row in counted] == [(busy, 8), *((one, 1) for one in slow)]


async def test_what_was_taken_before_is_not_overtaken_while_it_is_tried_again(
    easel: Easel,
) -> None:
    north = queue(easel, "north", 1, 2, 3, 4, 5)
    lease(easel, now=6, at_most=2)
    easel.do("release_leases", living=None)
    terms = {"now": at(10), "may_wait": 2, "too_old": at(0)}
    terms |= {"events_too_old": at(0), "attempts_at_most": 3}
    assert easel.run("skip_overtaken", **terms) == [(north, "overload", 1, 1)]
    assert attempts(easel) == [1, 1, 0, 0]
    left = ask(easel.url, "SELECT observed_at FROM frame_queue ORDER BY 1")
    assert [row["observed_at"] for row in left] == [at(t) for t in (1, 2, 4, 5)]


async def test_what_is_too_old_takes_nobodys_place(easel: Easel) -> None:
    (north, south) = (queue(easel, "north", *range(-9, 0)), queue(easel, "south", 1, 2, 3))
    terms = {"now": at(10), "may_wait": 3, "too_old": at(0)}
    terms |= {"events_too_old": at(0), "attempts_at_most": 3}
    assert easel.run("skip_overtaken", **terms) == [(north, "too_old", 9, 9)]
    rows = ask(easel.url, "SELECT DISTINCT device_id FROM frame_queue")
    assert [row["device_id"] for row in rows] == [south]


async def test_what_was_taken_in_time_does_not_grow_too_old_while_it_is_tried_again(
    easel: Easel,
) -> None:
    north = queue(easel, "north", 1, 2, events=[3])
    lease(easel, now=5, at_most=1)
    lease(easel, now=5, event=True)
    terms = {"too_old": at(100), "events_too_old": at(100), "may_wait": 8, "attempts_at_most": 3}
    easel.do("release_leases", living=None)
    assert easel.run("skip_overtaken", **terms, now=at(110)) == [(north, "too_old", 1, 1)]
    # But not for ever: each time it is taken counts, and one that never ends is skipped.
    for now in (110, 111, 150, 151):  # its leases run out
        lease(easel, now=now, name="lease_suspect")
    assert attempts(easel) == [3, 3]
    easel.do("release_leases", living=None)
    assert easel.run("skip_overtaken", **terms, now=at(152)) == [(north, "crashed", 2, 1)]
    assert ask(easel.url, "SELECT FROM frame_queue") == []


async def test_what_is_overtaken_or_too_old_is_skipped_and_counted(easel: Easel) -> None:
    north = queue(easel, "north", 1, 2, 3, 4, 5)
    south = queue(easel, "south", -50, 5)
    west = queue(easel, "west", 4)
    do(
        easel.url,
        "UPDATE frame_queue SET leased_until = %(until)s WHERE device_id = %(id)s",
        {"until": at(20), "id": west},
    )
    terms = {"now": at(10), "may_wait": 4, "too_old": at(0)}
    terms |= {"events_too_old": at(0), "attempts_at_most": 3}
    assert easel.run("skip_overtaken", **terms) == [
        (north, "overload", 2, 2),
        (south, "too_old", 1, 1),
    ]
    assert easel.run("skip_overtaken", **terms) == []
    left = ask(easel.url, "SELECT device_id, observed_at FROM frame_queue ORDER BY 1, 2")
    assert [(row["device_id"], row["observed_at"]) for row in left] == [
        (north, at(3)),
        (north, at(4)),
        (north, at(5)),
        (south, at(5)),
        (west, at(4)),
    ]
    skipped = ask(easel.url, "SELECT hour, device_id, reason, count FROM frames_skipped ORDER BY 2")
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    assert [tuple(row.values()) for row in skipped] == [
        (hour, north, "overload", 2),
        (hour, south, "too_old", 1),
    ]
