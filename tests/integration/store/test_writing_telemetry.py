"""Flushes into a real database: every value exact, every message accounted for, nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from ingest.errors import DatabaseUnavailable, WorkerTaken
from ingest.pipeline import Flush
from ingest.registry import Routes
from ingest.segments import Flag, unpack
from ingest.store import worker as worker_module
from ingest.store.worker import Worker
from ingest.store.writer import Outcome, TelemetryWriter
from tests.integration.yard import (
    NOW,
    NOW_US,
    arrivals_of,
    ask,
    balance_of,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

DUST = topic_of("dust-1")
CRANE = topic_of("crane-1")


class Pen:
    """One worker writing to the test's database."""

    def __init__(self, database_url: str, routes: Routes) -> None:
        self.url = database_url
        self.routes = routes
        self._workers: list[Worker] = []
        self.writer = self.another("ingest")

    def another(self, name: str) -> TelemetryWriter:
        worker = Worker(self.url, name)
        self._workers.append(worker)
        return TelemetryWriter(worker)

    def flush(self, *messages: tuple[str | bytes, bytes], received_us: int = NOW_US) -> Flush:
        return flush_of(self.routes, *messages, received_us=received_us)

    async def write(self, *messages: tuple[str | bytes, bytes]) -> Outcome:
        return await self.writer.write(self.flush(*messages))

    async def close(self) -> None:
        for worker in self._workers:
            await worker.close()


@pytest.fixture
async def pen(database_url: str) -> AsyncIterator[Pen]:
    register(database_url, site_file())
    pen = Pen(database_url, await routes_of(database_url))
    yield pen
    await pen.close()


def at(second: float) -> datetime:
    return NOW + timedelta(seconds=second)


async def test_a_dust_reading_comes_back_exactly_as_it_was_sent(pen: Pen) -> None:
    shanghai = timezone(timedelta(hours=8))
    observed = datetime(2026, 11, 21, 15, 59, 59, 123_457, shanghai)
    payload = json.dumps(
        {
            "ts": observed.isoformat(),
            "seq": 2**63 - 1,
            "firmware": "1.2",
            "values": {
                "pm10_ug_m3": 0.1 + 0.2,
                "noise_db": 64,
                "temperature_c": -7.25,
                "humidity_pct": None,
                "voc_ppb": {"raw": [1, 2.5, "中"]},
            },
        }
    ).encode()
    await pen.writer.write(pen.flush((DUST, payload), received_us=NOW_US + 987_653))
    (row,) = ask(pen.url, "SELECT * FROM dust_readings")
    assert (
        row.pop("device_id")
        == ask(pen.url, "SELECT id FROM devices WHERE device = 'dust-1'")[0]["id"]
    )
    assert row == {
        "series": 0,
        "observed_at": observed.astimezone(UTC),
        "reported_at": None,
        "received_at": NOW + timedelta(microseconds=987_653),
        "worker_id": 1,
        "segment": 1,
        "segment_index": 0,
        "seq": 2**63 - 1,
        "pm2_5_ug_m3": None,
        "pm10_ug_m3": 0.1 + 0.2,
        "tsp_ug_m3": None,
        "noise_db": 64.0,
        "leq_db": None,
        "temperature_c": -7.25,
        "humidity_pct": None,
        "pressure_kpa": None,
        "wind_speed_m_s": None,
        "wind_direction_deg": None,
        "rain_mm_h": None,
        "extra": {"firmware": "1.2", "voc_ppb": {"raw": [1, 2.5, "中"]}},
    }


async def test_crane_readings_keep_alarms_apart_from_no_alarms(pen: Pen) -> None:
    loud = ["overload", "风速超限", 'a"b\\c{}', ""]
    await pen.write(
        (CRANE, telemetry(at(0), slew_deg=-0.0, alarms=loud)),
        (CRANE, telemetry(at(1), load_t=1e-300, alarms=[])),
        (CRANE, telemetry(at(2), falls=4)),
        (CRANE, telemetry(at(3), alarms=["tilt"])),
        (CRANE, telemetry(at(4), hoist_state="up")),
    )
    rows = ask(pen.url, "SELECT * FROM crane_readings ORDER BY observed_at")
    assert [row["alarms"] for row in rows] == [loud, [], None, ["tilt"], None]
    assert [row["extra"] for row in rows] == [None, None, None, None, {"hoist_state": "up"}]
    assert [row["load_t"] for row in rows] == [None, 1e-300, None, None, None]
    assert [row["falls"] for row in rows] == [None, None, 4.0, None, None]
    assert [row["segment_index"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["observed_at"] for row in rows] == [at(n) for n in range(5)]


async def test_one_message_may_hold_many_readings_and_series_keep_them_apart(pen: Pen) -> None:
    element = {"ts": int(NOW.timestamp() * 1000), "values": {"pm10_ug_m3": 5}}
    batch = [element, element | {"series": "minute"}, element | {"series": "day"}]
    outcome = await pen.write((DUST, json.dumps(batch).encode()))
    assert outcome.stored.total() == 3
    rows = ask(pen.url, "SELECT series, segment_index FROM dust_readings ORDER BY series")
    assert [tuple(row.values()) for row in rows] == [(0, 0), (1, 0), (3, 0)]


async def test_the_segment_holds_the_messages_and_its_hash(pen: Pen) -> None:
    garbage = b"\x00\xffnot json"
    messages = [
        (DUST.encode(), telemetry(at(0), pm10_ug_m3=1)),
        (b"no/such/topic\xff", garbage),
        (topic_of("dust-1", "status").encode(), b'{"online": true}'),
    ]
    arrivals = arrivals_of(*messages)
    arrivals.flags[1] |= Flag.DUP | Flag.RETAIN
    flush = flush_of(pen.routes, *messages)
    flush.arrivals.flags[1] = arrivals.flags[1]
    await pen.writer.write(flush)
    (row,) = ask(pen.url, "SELECT * FROM segments")
    assert row["sha256"] == hashlib.sha256(row["body"]).digest()
    segment = unpack(row["body"])
    assert list(zip(segment.topics, segment.payloads, strict=True)) == messages
    assert segment.received_us == [NOW_US, NOW_US + 1, NOW_US + 2]
    assert (row["messages"], row["readings"], row["redelivered"]) == (3, 2, 1)
    assert row["raw_bytes"] == sum(len(payload) for _, payload in messages)
    assert row["received_from"] == NOW
    assert row["received_to"] == NOW + timedelta(microseconds=2)
    (put_aside,) = ask(pen.url, "SELECT * FROM quarantine")
    assert put_aside["payload_sha256"] == hashlib.sha256(garbage).digest()
    assert put_aside["payload_bytes"] == len(garbage)
    assert put_aside["topic"] == "no/such/topic\ufffd"


async def test_segments_are_numbered_without_gaps_whatever_is_in_them(pen: Pen) -> None:
    for payload in (
        telemetry(at(0), pm10_ug_m3=1),
        b"garbage",
        telemetry(at(0), pm10_ug_m3=1),  # a duplicate: the first try of this flush fails
        telemetry(at(0), pm10_ug_m3=2),  # a conflict
        telemetry(at(1), pm10_ug_m3=1),
    ):
        await pen.write((DUST, payload))
    await pen.another("second").write(pen.flush((DUST, telemetry(at(2), pm10_ug_m3=1))))
    rows = ask(pen.url, "SELECT worker_id, number FROM segments ORDER BY 1, 2")
    assert [tuple(row.values()) for row in rows] == [(1, n) for n in range(1, 6)] + [(2, 1)]


async def test_redelivered_messages_are_counted_and_stored_once(pen: Pen) -> None:
    messages = [(DUST, telemetry(at(n), pm10_ug_m3=n)) for n in range(5)]
    assert (await pen.write(*messages)).stored.total() == 5
    again = await pen.write(*messages, (DUST, telemetry(at(9), pm10_ug_m3=9)))
    assert (again.stored.total(), again.duplicates) == (1, 5)
    calm = await pen.write((DUST, telemetry(at(10), pm10_ug_m3=9)))
    assert (calm.stored.total(), calm.duplicates) == (1, 0)
    balance = balance_of(pen.url)
    assert (balance.received, balance.stored, balance.duplicate) == (12, 7, 5)
    assert balance.adds_up
    sources = ask(pen.url, "SELECT DISTINCT segment FROM dust_readings WHERE pm10_ug_m3 < 5")
    assert sources == [{"segment": 1}]


async def test_duplicates_within_one_flush(pen: Pen) -> None:
    one = (DUST, telemetry(at(0), pm10_ug_m3=1, noise_db=50))
    outcome = await pen.write(one, one, one)
    assert (outcome.stored.total(), outcome.duplicates) == (1, 2)
    assert balance_of(pen.url).adds_up


async def test_pm_and_noise_in_two_messages_make_one_row(pen: Pen) -> None:
    pm = (DUST, telemetry(at(0), pm10_ug_m3=80.5, extra_a=1))
    noise = (DUST, telemetry(at(0), noise_db=61.0, extra_b=2))
    both = await pen.write(pm, noise)
    assert (both.stored.total(), both.merged) == (1, 1)
    pm = (DUST, telemetry(at(1), pm10_ug_m3=80.5))
    noise = (DUST, telemetry(at(1), noise_db=61.0))
    assert (await pen.write(pm)).stored.total() == 1
    assert (await pen.write(noise)).merged == 1
    rows = ask(
        pen.url,
        "SELECT pm10_ug_m3, noise_db, extra, segment FROM dust_readings ORDER BY observed_at",
    )
    assert [tuple(row.values()) for row in rows] == [
        (80.5, 61.0, {"extra_a": 1, "extra_b": 2}, 1),
        (80.5, 61.0, None, 2),
    ]
    parts = ask(pen.url, "SELECT segment, segment_index FROM reading_parts ORDER BY 1")
    assert [tuple(part.values()) for part in parts] == [(1, 1), (3, 0)]
    balance = balance_of(pen.url)
    assert (balance.received, balance.stored, balance.merged) == (4, 2, 2)


async def test_of_two_values_for_one_time_the_first_stays(pen: Pen) -> None:
    await pen.write((DUST, telemetry(at(0), pm10_ug_m3=80.5)))
    outcome = await pen.write((DUST, telemetry(at(0), pm10_ug_m3=81.0)))
    assert (outcome.stored.total(), outcome.conflicts) == (0, 1)
    # A part that adds one thing and contradicts another: the addition is taken.
    mixed = await pen.write((DUST, telemetry(at(0), pm10_ug_m3=82.0, noise_db=60.0)))
    assert (mixed.merged, mixed.conflicts) == (1, 0)
    (row,) = ask(pen.url, "SELECT pm10_ug_m3, noise_db FROM dust_readings")
    assert row == {"pm10_ug_m3": 80.5, "noise_db": 60.0}
    conflicts = ask(
        pen.url, "SELECT scope, reason, field, value, segment FROM quarantine ORDER BY id"
    )
    assert [tuple(row.values()) for row in conflicts] == [
        ("value", "conflict", "pm10_ug_m3", "81", 2),
        ("value", "conflict", "pm10_ug_m3", "82", 3),
    ]
    balance = balance_of(pen.url)
    assert (balance.conflict, balance.quarantined) == (1, 0)
    assert balance.adds_up


async def test_two_workers_may_bring_the_same_readings_at_the_same_time(pen: Pen) -> None:
    messages = [(DUST, telemetry(at(n), pm10_ug_m3=n)) for n in range(300)]
    one, other = pen.another("one"), pen.another("other")

    async def insist(writer: TelemetryWriter, flush: Flush) -> Outcome:
        while True:
            try:
                return await writer.write(flush)
            except DatabaseUnavailable:  # a deadlock is broken by refusing one of the two
                continue

    outcomes = await asyncio.gather(
        insist(one, pen.flush(*messages)), insist(other, pen.flush(*reversed(messages)))
    )
    assert sum(outcome.stored.total() for outcome in outcomes) == 300
    assert sum(outcome.duplicates for outcome in outcomes) == 300
    balance = balance_of(pen.url)
    assert (balance.received, balance.stored, balance.duplicate) == (600, 300, 300)


async def test_a_commit_whose_answer_was_lost_is_not_repeated(pen: Pen) -> None:
    flush = pen.flush((DUST, telemetry(at(0), pm10_ug_m3=1)), (DUST, b"garbage"))
    await pen.writer.write(flush)
    await pen.close()
    outcome = await pen.another("ingest").write(flush)
    assert outcome.already_written
    assert outcome.stored.total() == 0
    balance = balance_of(pen.url)
    assert (balance.received, balance.stored, balance.quarantined) == (2, 1, 1)
    assert len(ask(pen.url, "SELECT FROM segments")) == 1


async def test_nor_when_something_else_has_reconnected_first(pen: Pen) -> None:
    flush = pen.flush((DUST, telemetry(at(0), pm10_ug_m3=1)))
    await pen.writer.write(flush)
    await pen.close()
    worker = Worker(pen.url, "ingest")
    await worker.open()
    assert (await TelemetryWriter(worker).write(flush)).already_written
    await worker.close()
    assert len(ask(pen.url, "SELECT FROM segments")) == 1


async def until_waiting_for_a_lock(database_url: str) -> int:
    """The backend of the worker, once it waits for a lock."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'smartsite %' AND wait_event_type = 'Lock'"
            )
            row = await cursor.fetchone()
            if row is not None:
                return int(row[0])
            await asyncio.sleep(0.01)


async def blocked(pen: Pen, writing: Awaitable[Outcome], kill: bool) -> asyncio.Task[Outcome]:
    """Start writing against a locked table; end the backend, or the task, in mid-transaction."""

    async def run() -> Outcome:
        return await writing

    async with await psycopg.AsyncConnection.connect(pen.url) as holder:
        await holder.execute("LOCK TABLE dust_readings IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(run())
        async with asyncio.timeout(30):
            pid = await until_waiting_for_a_lock(pen.url)
        if kill:
            await holder.execute("SELECT pg_terminate_backend(%s)", (pid,))
        else:
            task.cancel()
        await asyncio.wait((task,), timeout=30)
        await holder.rollback()
    return task


async def test_a_killed_backend_is_declared_and_the_same_flush_written_once(pen: Pen) -> None:
    await pen.write((DUST, telemetry(at(0), pm10_ug_m3=1)))
    flush = pen.flush((DUST, telemetry(at(1), pm10_ug_m3=1)))
    task = await blocked(pen, pen.writer.write(flush), kill=True)
    assert isinstance(task.exception(), DatabaseUnavailable)
    outcome = await pen.writer.write(flush)
    assert outcome.stored.total() == 1
    assert not outcome.already_written
    assert [row["number"] for row in ask(pen.url, "SELECT number FROM segments ORDER BY 1")] == [
        1,
        2,
    ]
    assert balance_of(pen.url).stored == 2


async def test_a_cancelled_write_leaves_nothing_behind(pen: Pen) -> None:
    flush = pen.flush((DUST, telemetry(at(1), pm10_ug_m3=1)))
    task = await blocked(pen, pen.writer.write(flush), kill=False)
    assert task.cancelled()
    assert (await pen.writer.write(flush)).stored.total() == 1
    assert balance_of(pen.url).received == 1


async def test_two_processes_never_write_under_one_name(
    pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LOCK_ATTEMPTS", 2)
    await pen.write((DUST, telemetry(at(0), pm10_ug_m3=1)))
    second = Worker(pen.url, "ingest")
    with pytest.raises(WorkerTaken, match=r"'ingest'.*own name"):
        await second.open()
    await pen.close()
    await second.open()
    assert second.next_number == 2
    await second.close()


async def test_a_database_that_is_not_there_is_declared(database_url: str) -> None:
    worker = Worker(database_url + "_nowhere", "ingest")
    with pytest.raises(DatabaseUnavailable, match="database cannot be used"):
        await worker.open()


HOSTILE: list[tuple[str | bytes, bytes]] = [
    (b"site/\x00/dust/dust-1/telemetry", b"{}"),
    (b"\xff\xfe" * 200, b"\xff"),
    (b"site/" + b"x" * 60_000, b""),
    (DUST, b""),
    (DUST, b"\xef\xbb\xbf{}"),
    (DUST, b"[" * 100_000),
    (DUST, b'{"ts":1e99,"values":{"pm10_ug_m3":1}}'),
    (DUST, b'{"ts":"2026-11-21T08:00:00","values":{"pm10_ug_m3":1}}'),
    (DUST, b'{"ts":"\\u0000","values":{"pm10_ug_m3":1}}'),
    (DUST, telemetry(NOW, pm10_ug_m3="a\0b")),
    (DUST, b'{"ts":1795248000000,"values":{"pm10_ug_m3":' + b"9" * 5_000 + b"}}"),
    (DUST, b'{"ts":1795248000000,"values":{"pm10_ug_m3":1e999,"noise_db":NaN}}'),
    (DUST, b'{"ts":1795248000000,"values":{"a\\u0000b":1,"c":"\\ud800","d":"\\u0000"}}'),
    (DUST, b'{"ts":1795248000000,"values":{"d":' + b"[" * 900 + b"]" * 900 + b"}}"),
    (DUST, b'{"ts":1795248000000,"series":"\\u0000","values":{"pm10_ug_m3":1}}'),
    (DUST, b'{"ts":1795248000000,"seq":99999999999999999999,"values":{"noise_db":1}}'),
    (CRANE, b'{"ts":1795248000000,"values":{"alarms":["\\u0000"]}}'),
    (CRANE, b'{"ts":1795248000000,"values":{"alarms":["\\ud800"]}}'),
    (topic_of("dust-1", "status"), b'{"online":true,"detail":"a\\u0000b"}'),
    (topic_of("dust-1", "status"), b'{"online":1}'),
    (topic_of("dust-1", "event"), b'{"a":"\\u0000"}'),
    (topic_of("dust-1", "event"), b'{"a":"\\ud800"}'),
    (topic_of("dust-1", "event"), b'{"a":1e-99999,"b":' + b"9" * 4_000 + b"}"),
    (topic_of("dust-1", "event"), b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"),
    (topic_of("camera-1", "telemetry"), b"{}"),
    (topic_of("camera-1", "frame/1"), b"\xff\xd8"),
    (topic_of("dust-9"), b"{}"),
]


@pytest.mark.parametrize("place", range(len(HOSTILE)))
async def test_nothing_a_stranger_sends_stops_the_next_message(pen: Pen, place: int) -> None:
    good = (topic_of("dust-2"), telemetry(at(0), pm10_ug_m3=1))
    outcome = await pen.write(HOSTILE[place], good)
    (row,) = ask(
        pen.url,
        "SELECT count(*) AS n FROM dust_readings r JOIN devices d ON d.id = r.device_id"
        " WHERE d.device = 'dust-2'",
    )
    assert row["n"] == 1
    assert balance_of(pen.url).adds_up
    kept = ask(pen.url, "SELECT reason, detail FROM quarantine")
    stored: Any = ask(pen.url, "SELECT body FROM device_events") or ask(
        pen.url, "SELECT detail FROM device_status"
    )
    assert kept or stored or outcome.stored.total() == 2
    assert all(row["reason"] and row["detail"] for row in kept)
