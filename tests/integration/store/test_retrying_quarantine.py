"""What was put aside comes back: once, with its own time, and the balance adds up."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.rules import Rules
from device_profiles.sites import Device
from device_profiles.vocabulary import QUANTITIES, Kind, Quantity
from ingest import pipeline, retrying
from ingest.errors import RetryUnderWay
from ingest.exporting import recorded
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import Arrivals, TimeLimits, gather
from ingest.retrying import Found, Retried, retry, settle
from ingest.segments import Flag, unpack
from ingest.store import worker as worker_module
from ingest.store.hypertables import look_at_server
from ingest.store.merging import merge
from ingest.store.rollups import Rollups
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter, write_rest
from simulators.camera import picture_at
from smartsite.judge import Judge
from smartsite.roles.upkeep import Upkeep, take_back
from smartsite.services import Whereabouts
from smartsite.settings import Settings
from tests.integration.yard import (
    NOW,
    NOW_US,
    SITE,
    arrivals_of,
    ask,
    balance_of,
    do,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

LATER = NOW + timedelta(hours=1)
DUST = topic_of("dust-1")
NEW = topic_of("dust-9")

DUST_9 = Device(site=SITE, id="dust-9", kind=Kind.DUST, expected_every_s=1)
CAMERA_9 = Device(site=SITE, id="camera-9", kind=Kind.CAMERA, expected_every_s=1)

NARROW = {
    **QUANTITIES,
    Kind.DUST: tuple(
        Quantity(one.name, one.unit, one.low, min(one.high, 1.5), one.zh, one.en)
        if one.name == "noise_db"
        else one
        for one in QUANTITIES[Kind.DUST]
    ),
}
"""A profile that is wrong: it refuses noise above 1.5 dB."""


def adopt(database_url: str, *devices: Device) -> None:
    register(database_url, site_file(devices=devices))


async def write(
    database_url: str,
    *messages: tuple[str | bytes, bytes],
    received_us: int = NOW_US,
    worker: str = "ingest",
    limits: TimeLimits | None = None,
) -> None:
    await write_arrivals(
        database_url, arrivals_of(*messages, received_us=received_us), worker, limits
    )


async def write_arrivals(
    database_url: str, arrivals: Arrivals, name: str = "ingest", limits: TimeLimits | None = None
) -> None:
    worker = Worker(database_url, name)
    try:
        routes = await routes_of(database_url)
        await TelemetryWriter(worker).write(gather(arrivals, routes, limits or TimeLimits()))
    finally:
        await worker.close()


def open_rows(database_url: str) -> list[dict[str, Any]]:
    return ask(database_url, "SELECT * FROM quarantine WHERE resolved_at IS NULL ORDER BY id")


async def retry_all(database_url: str, **more: Any) -> Retried:
    rows = [row["id"] for row in open_rows(database_url)]
    return await retry(database_url, rows, more.pop("limits", TimeLimits()), LATER, **more)


def held(database_url: str) -> int:
    """Units that open rows hold; frames are no readings."""
    (row,) = ask(
        database_url,
        "SELECT COALESCE(sum(units), 0)::int AS n FROM quarantine"
        " WHERE resolved_at IS NULL AND scope <> 'frame'",
    )
    return int(row["n"])


def counted(database_url: str) -> dict[str, int]:
    rows = ask(database_url, "SELECT what, sum(count)::int AS n FROM ingest_exceptions GROUP BY 1")
    return {row["what"]: row["n"] for row in rows if row["n"]}


def put_aside(database_url: str) -> int:
    counts = counted(database_url)
    return counts.get("quarantined", 0) + counts.get("conflict", 0)


@pytest.fixture
def url(database_url: str) -> str:
    register(database_url, site_file())
    return database_url


async def test_an_unknown_devices_readings_come_back_with_their_own_time(url: str) -> None:
    messages = [(NEW, telemetry(NOW + timedelta(seconds=n), pm10_ug_m3=n)) for n in range(3)]
    await write(url, *messages, (DUST, telemetry(NOW, pm10_ug_m3=7)))
    assert [row["reason"] for row in open_rows(url)] == ["unknown_device"] * 3
    before = balance_of(url)
    assert (await retry_all(url)).refused == {"unknown_device": 3}
    assert (
        ask(
            url,
            "SELECT FROM segments s JOIN workers w ON w.id = s.worker_id WHERE w.name = 'retry'",
        )
        == []
    )

    adopt(url, DUST_9)
    done = await retry_all(url)
    assert (done.messages, done.back, done.stored, done.refused) == (3, 3, {"dust": 3}, {})
    rows = ask(
        url,
        "SELECT r.observed_at, r.received_at, r.pm10_ug_m3, r.segment_index"
        " FROM dust_readings r JOIN devices d ON d.id = r.device_id"
        " WHERE d.device = 'dust-9' ORDER BY 1",
    )
    assert [tuple(row.values()) for row in rows] == [
        (NOW + timedelta(seconds=n), NOW + timedelta(microseconds=n), float(n), n) for n in range(3)
    ]
    resolved = ask(url, "SELECT * FROM quarantine ORDER BY id")
    assert {row["resolved_at"] for row in resolved} == {LATER}
    (segment,) = ask(
        url,
        "SELECT s.* FROM segments s JOIN workers w ON w.id = s.worker_id WHERE w.name = 'retry'",
    )
    assert {(row["resolved_worker"], row["resolved_segment"]) for row in resolved} == {
        (segment["worker_id"], segment["number"])
    }
    assert segment["readings"] == 0
    assert (segment["received_from"], segment["redelivered"]) == (NOW, 0)
    held_again = unpack(segment["body"])
    assert held_again.payloads == [payload for _, payload in messages]
    assert held_again.received_us == [NOW_US, NOW_US + 1, NOW_US + 2]
    assert all(flags & Flag.RETRIED for flags in held_again.flags)
    after = balance_of(url)
    assert (after.received, after.stored) == (before.received, before.stored + 3)
    assert after.adds_up
    assert held(url) == put_aside(url) == 0


async def test_a_recording_holds_what_was_retried_once(url: str, tmp_path: Path) -> None:
    await write(url, (NEW, telemetry(NOW, pm10_ug_m3=1)))
    adopt(url, DUST_9)
    await retry_all(url)
    with psycopg.connect(url) as connection:
        messages = list(recorded(connection, FrameStore(tmp_path), NOW, LATER, lambda topic: True))
    assert [message.topic for message in messages] == [NEW]


async def test_a_message_that_held_many_readings_counts_them_now(url: str) -> None:
    batch = msgspec.json.encode(
        [{"ts": NOW + timedelta(seconds=n), "values": {"noise_db": 5}} for n in range(4)]
        + [{"ts": NOW, "values": {"noise_db": "loud"}}]
    )
    await write(url, (NEW, batch))
    assert (balance_of(url).received, held(url)) == (1, 1)
    adopt(url, DUST_9)
    done = await retry_all(url)
    assert (done.back, done.stored, done.refused) == (0, {"dust": 4}, {"type": 1})
    balance = balance_of(url)
    assert (balance.received, balance.stored, balance.quarantined) == (5, 4, 1)
    assert balance.adds_up
    (left,) = open_rows(url)
    (segment,) = ask(url, "SELECT max(worker_id) AS worker FROM segments")
    assert (left["worker_id"], left["scope"], left["units"]) == (segment["worker"], "reading", 1)
    assert left["payload_sha256"] == hashlib.sha256(batch).digest()
    assert (await retry_all(url)).refused == {"type": 1}
    assert balance_of(url) == balance


async def test_a_status_put_aside_as_unknown_is_no_reading(url: str) -> None:
    await write(
        url,
        (topic_of("dust-9", "status"), b'{"online": true}'),
        (topic_of("dust-9", "event"), b'{"door": "open"}'),
        (topic_of("dust-1", "status"), b'{"online": "perhaps"}'),
    )
    assert balance_of(url).received == 2
    adopt(url, DUST_9)
    done = await retry_all(url)
    assert (done.back, done.statuses, done.refused) == (2, 2, {"type": 1})
    balance = balance_of(url)
    assert (balance.received, balance.adds_up) == (0, True)
    (status,) = ask(url, "SELECT received_at, online FROM device_status")
    assert status == {"received_at": NOW, "online": True}
    assert counted(url) == {"quarantined_status": 1}


async def test_a_value_that_is_believed_now_goes_into_its_stored_row(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setattr(pipeline, "QUANTITIES", NARROW)
        await write(url, (DUST, telemetry(NOW, pm10_ug_m3=5, noise_db=60)))
    (row,) = ask(url, "SELECT noise_db FROM dust_readings")
    assert row["noise_db"] is None
    before = balance_of(url)
    done = await retry_all(url)
    assert (done.back, done.merged, done.stored.total()) == (1, 1, 0)
    (row,) = ask(url, "SELECT pm10_ug_m3, noise_db, segment FROM dust_readings")
    assert (row["pm10_ug_m3"], row["noise_db"]) == (5.0, 60.0)
    assert balance_of(url) == before
    assert before.adds_up
    assert counted(url) == {}


async def test_what_came_again_meanwhile_is_a_duplicate(url: str) -> None:
    one = (NEW, telemetry(NOW, pm10_ug_m3=1))
    await write(url, one, one)
    adopt(url, DUST_9)
    done = await retry_all(url)
    assert (done.back, done.stored, done.duplicates) == (2, {"dust": 1}, 1)
    balance = balance_of(url)
    assert (balance.received, balance.stored, balance.duplicate) == (2, 1, 1)
    assert balance.adds_up


async def test_what_contradicts_what_is_stored_stays_aside(url: str) -> None:
    limits = TimeLimits(future_s=0)
    late = NOW + timedelta(seconds=30)
    await write(url, (DUST, telemetry(late, pm10_ug_m3=1)), limits=limits)
    await write(url, (DUST, telemetry(late, pm10_ug_m3=2)), received_us=NOW_US + 40_000_000)
    done = await retry_all(url)
    assert (done.back, done.refused) == (0, {"conflict": 1})
    (left,) = open_rows(url)
    assert (left["field"], left["value"], left["units"]) == ("pm10_ug_m3", "1", 1)
    assert balance_of(url).adds_up
    assert (await retry_all(url)).refused == {"conflict": 1}
    assert len(ask(url, "SELECT FROM quarantine")) == 2


async def test_the_same_bytes_may_come_back_in_steps(url: str) -> None:
    await write(url, (NEW, telemetry(NOW + timedelta(seconds=9), pm10_ug_m3=1)))
    adopt(url, DUST_9)
    first = await retry_all(url, limits=TimeLimits(future_s=0))
    assert first.refused == {"time": 1}
    assert (await retry_all(url)).stored == {"dust": 1}
    bodies = ask(url, "SELECT sha256 FROM segments ORDER BY worker_id, number")
    assert len(bodies) == 3
    assert bodies[1] == bodies[2]
    assert balance_of(url).adds_up


async def test_nothing_is_written_by_a_dry_run(url: str) -> None:
    await write(url, (NEW, telemetry(NOW, pm10_ug_m3=1)), (NEW, b"{"), (DUST, b"{"))
    adopt(url, DUST_9)
    before = (balance_of(url), open_rows(url))
    done = await retry_all(url, dry_run=True)
    assert (done.messages, done.back, done.stored) == (3, 1, {"dust": 1})
    assert done.refused == {"syntax": 2}
    assert (balance_of(url), open_rows(url)) == before


async def test_bytes_that_are_cut_or_gone_are_said_to_be(url: str) -> None:
    arrivals = arrivals_of((NEW, b"x" * 100))
    arrivals.flags[0] |= Flag.TRUNCATED
    arrivals.oversized[0] = (10**9, b"h" * 32)
    await write_arrivals(url, arrivals)
    adopt(url, DUST_9)
    done = await retry_all(url)
    assert (done.cut, done.refused) == (1, {"too_large": 1})
    (left,) = open_rows(url)
    assert (left["payload_bytes"], left["payload_sha256"]) == (10**9, b"h" * 32)
    do(url, "UPDATE segments SET body = '\\x00' WHERE number = 1")
    assert (await retry_all(url)).damaged == 1
    do(url, "UPDATE segments SET body = NULL")
    done = await retry_all(url)
    assert (done.messages, done.aged_out) == (0, 1)
    assert len(open_rows(url)) == 1


async def test_what_the_database_refuses_stays_where_it_is(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(url, *((NEW, telemetry(NOW + timedelta(seconds=n), noise_db=n)) for n in range(5)))
    adopt(url, DUST_9)

    async def refusing(connection: Any, kind: Kind, block: bytes) -> Any:
        if (b"\x40\x08" + bytes(6)) in block:  # 3.0
            raise psycopg.errors.InvalidTextRepresentation("no threes")
        return await merge(connection, kind, block)

    with monkeypatch.context() as patch:
        patch.setattr(retrying, "merge", refusing)
        done = await retry_all(url)
    assert (done.messages, done.back, done.refused) == (5, 4, {"unknown_device": 1})
    assert balance_of(url).adds_up
    assert (await retry_all(url)).back == 1


class KilledError(Exception):
    """Stands for a kill -9."""


async def test_a_retry_that_dies_is_gone_on_with(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(6):
        await write(
            url, (NEW, telemetry(NOW + timedelta(seconds=n), pm10_ug_m3=1)), received_us=NOW_US + n
        )
    adopt(url, DUST_9)
    monkeypatch.setattr(retrying, "BATCH_MESSAGES", 2)

    def die(done: Retried) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        await retry_all(url, progress=die)
    assert (balance_of(url).stored, held(url)) == (2, 4)

    async def dying(*arguments: Any) -> None:
        await write_rest(*arguments)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(retrying, "write_rest", dying)
        with pytest.raises(KilledError):
            await retry_all(url)
    assert (balance_of(url).stored, held(url), put_aside(url)) == (2, 4, 4)
    assert (await retry_all(url)).stored == {"dust": 4}
    assert (balance_of(url).received, balance_of(url).stored, held(url)) == (6, 6, 0)


async def test_one_retry_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "LOCK_ATTEMPTS", 2)
    other = Worker(url, retrying.WORKER)
    await other.open()
    with pytest.raises(RetryUnderWay):
        await retry(url, [], TimeLimits(), LATER)
    await other.close()
    assert (await retry(url, [], TimeLimits(), LATER)).messages == 0


async def test_frames_come_back_too(url: str, tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    one, other = picture_at(0.0).jpeg, picture_at(7.0).jpeg
    first, second = (topic_of("camera-9", f"frame/{NOW_US // 1_000 + ms}") for ms in (0, 500))
    worker = Worker(url, "frames")
    writer = FrameWriter(worker, store, TimeLimits())
    arrivals = arrivals_of((first, one), (first, one), (first, other), (second, b"no picture"))
    await writer.write(arrivals, await routes_of(url))
    await writer.write(arrivals_of((second, other), received_us=NOW_US + 9), await routes_of(url))
    await worker.close()
    assert counted(url) == {"quarantined_frame": 5}
    adopt(url, CAMERA_9)
    assert (await retry_all(url)).left == 5

    missing = store.path(hashlib.sha256(other).digest())
    aside = missing.rename(tmp_path / "aside")
    done = await retry_all(url, frames=store)
    assert (done.stored, done.duplicates, done.aged_out) == ({"camera": 1}, 1, 2)
    assert done.refused == {open_rows(url)[-1]["reason"]: 1}
    aside.rename(missing)
    done = await retry_all(url, frames=store)
    assert (done.stored, done.refused.total(), done.refused["conflict"]) == ({"camera": 1}, 2, 1)
    frames = ask(url, "SELECT observed_at, received_at, sha256 FROM frames ORDER BY 1")
    assert [tuple(row.values()) for row in frames] == [
        (NOW, NOW, hashlib.sha256(one).digest()),
        (
            NOW + timedelta(milliseconds=500),
            NOW + timedelta(microseconds=9),
            hashlib.sha256(other).digest(),
        ),
    ]
    assert len(ask(url, "SELECT FROM frame_queue")) == 2
    assert counted(url) == {"quarantined_frame": 2, "duplicate_frame": 1}
    assert balance_of(url).received == 0
    again = await retry_all(url, frames=store)
    assert (again.messages, again.refused.total(), again.stored.total()) == (2, 2, 0)


async def test_the_judge_takes_what_came_back_as_late_data(url: str) -> None:
    """An exceedance that nobody could read, before readings that are judged already."""
    minute = timedelta(minutes=1)
    minutes = [NOW - n * minute for n in range(60, 0, -1)]
    adopt(url, Device(site=SITE, id="dust-1", kind=Kind.DUST, expected_every_s=60))
    for place, at in enumerate(minutes):
        payload = telemetry(at, pm10_ug_m3=900 if place < 30 else 20)
        await write(
            url,
            (DUST, payload),
            received_us=NOW_US + place,
            limits=TimeLimits(past_s=1_500),
        )
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        judge = Judge(connection, Rules())
        await judge.start(NOW)
        await judge.step(NOW)
        await judge.tick(NOW, timedelta(seconds=5))
        assert ask(url, "SELECT FROM violations WHERE kind = 'dust'") == []
        done = await retry_all(url)
        assert done.stored["dust"] > 30
        assert await judge.step(LATER) >= 1
    (found,) = ask(url, "SELECT opened_at, closed_at FROM violations WHERE kind = 'dust'")
    assert minutes[0] <= found["opened_at"] < minutes[30]
    assert found["closed_at"] is not None


async def test_strangers_are_taken_back_once_they_are_registered(url: str, tmp_path: Path) -> None:
    where = Whereabouts(pid=0, started=0.0, broker_url="", database_url=url)
    await write(url, (NEW, telemetry(NOW, pm10_ug_m3=1)), (topic_of("dust-8"), b"{}"))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        upkeep = Upkeep(
            connection,
            Settings(data_dir=tmp_path),
            where,
            await look_at_server(connection),
            Rollups(connection),
        )
        await take_back(upkeep)
        assert balance_of(url).stored == 0
        adopt(url, DUST_9)
        await take_back(upkeep)
        assert balance_of(url).stored == 1
        # Put aside by a role that had not heard of it yet.
        late = (NEW, telemetry(NOW + timedelta(seconds=1), pm10_ug_m3=1))
        do(url, "UPDATE devices SET retired_at = now() WHERE device = 'dust-9'")
        routes = await routes_of(url)
        do(url, "UPDATE devices SET retired_at = NULL WHERE device = 'dust-9'")
        worker = Worker(url, "ingest")
        await TelemetryWriter(worker).write(gather(arrivals_of(late), routes, TimeLimits()))
        await worker.close()
        await take_back(upkeep)
        assert balance_of(url).stored == 2
        assert [row["topic"] for row in open_rows(url)] == [topic_of("dust-8")]
        # Settled: no look at the quarantine until the registry changes again.
        assert upkeep.registry[0] == upkeep.registry[1]
        assert not await take_back(upkeep)


def test_units_of_resolved_rows_have_one_fate_each() -> None:
    # Two of three readings were stored at once and now meet themselves.
    assert settle(Found(stored=1, duplicate=2), 1, whole=False) == Found(stored=1)
    assert settle(Found(duplicate=3), 1, whole=False) == Found(duplicate=1)
    assert settle(Found(merged=1, duplicate=2), 0, whole=False) == Found()
    assert settle(Found(quarantined=1, duplicate=2), 2, whole=False).units == 2
    # Nothing of it was known.
    assert settle(Found(stored=1, duplicate=2), 1, whole=True).units == 3


# --- any mixture -------------------------------------------------------------------------------

Values = dict[str, object]


@dataclass(frozen=True)
class Sent:
    """One reading as it is sent; those of second 100 are believed only by whoever is patient."""

    second: int
    values: Values
    readable: bool = True


@dataclass(frozen=True)
class Message:
    """One message, and how many units of the balance it is."""

    device: str
    sent: tuple[Sent, ...] = ()
    body: bytes | None = None
    channel: str = "telemetry"

    @property
    def bytes(self) -> tuple[str, bytes]:
        topic = topic_of(self.device, self.channel)
        if self.body is not None:
            return topic, self.body
        elements = [
            {"ts": NOW + timedelta(seconds=one.second), "values": one.values} for one in self.sent
        ]
        return topic, msgspec.json.encode(elements if len(elements) != 1 else elements[0])

    def units(self, known: bool) -> int:
        if not known:
            return 1
        if self.channel == "status":
            return 0
        return len(self.sent) if self.body is None else 1


@dataclass
class Model:
    """What the store ought to hold: for each key the first value of each quantity."""

    rows: dict[tuple[str, int], Values] = field(default_factory=dict)

    def take(self, message: Message, *, most_db: float, until: int) -> None:
        for one in message.sent:
            good = {
                name: value
                for name, value in one.values.items()
                if isinstance(value, float)
                and 0 <= value <= (most_db if name == "noise_db" else 10_000)
            }
            if one.readable and one.second <= until and good:
                row = self.rows.setdefault((message.device, one.second), {})
                for name, value in good.items():
                    row.setdefault(name, value)


second = st.sampled_from((0, 1, 2, 100))
quantity = st.sampled_from((1.0, 2.0))
readable = st.builds(
    Sent,
    second,
    st.fixed_dictionaries(
        {}, optional={"pm10_ug_m3": quantity, "noise_db": quantity, "humidity_pct": quantity}
    ).filter(bool),
)
partly = st.builds(
    Sent,
    second,
    st.fixed_dictionaries(
        {"pm10_ug_m3": st.sampled_from(("three", True, -1.0, 1e9)), "noise_db": quantity}
    ),
)
unreadable = st.one_of(
    st.just(Sent(0, {}, readable=False)),
    st.just(Sent(1, {"noise_db": "loud"}, readable=False)),
    st.just(Sent(10**6, {"noise_db": 1.0}, readable=False)),
)
device = st.sampled_from(("dust-1", "dust-9"))
one_message = st.one_of(
    st.builds(Message, device, st.lists(readable, min_size=1, max_size=4).map(tuple)),
    st.builds(
        Message,
        device,
        st.lists(st.one_of(readable, partly, unreadable), min_size=1, max_size=4).map(tuple),
    ),
    st.builds(Message, device, body=st.sampled_from((b"", b"{", b"[]", b"7"))),
    st.builds(Message, device, body=st.just(b'{"online":true}'), channel=st.just("status")),
)
flushes = st.lists(
    st.tuples(st.sampled_from(("one", "other")), st.lists(one_message, min_size=1, max_size=6)),
    min_size=1,
    max_size=4,
)


def rows_of(database_url: str) -> dict[tuple[str, int], Values]:
    rows = ask(
        database_url,
        "SELECT d.device, r.observed_at, pm10_ug_m3, noise_db, humidity_pct"
        " FROM dust_readings r JOIN devices d ON d.id = r.device_id",
    )
    return {
        (row["device"], round((row["observed_at"] - NOW).total_seconds())): {
            name: row[name]
            for name in ("pm10_ug_m3", "noise_db", "humidity_pct")
            if row[name] is not None
        }
        for row in rows
    }


def everything(database_url: str) -> list[Any]:
    return [
        rows_of(database_url),
        ask(database_url, "SELECT * FROM quarantine ORDER BY id"),
        ask(database_url, "SELECT worker_id, number, readings FROM segments ORDER BY 1, 2"),
        ask(database_url, "SELECT * FROM ingest_exceptions ORDER BY hour, device_id, what"),
        ask(database_url, "SELECT * FROM device_status"),
    ]


def require_sums(database_url: str, received: int) -> None:
    balance = balance_of(database_url)
    assert balance.received == received
    assert balance.adds_up
    assert held(database_url) == put_aside(database_url)
    assert ask(database_url, "SELECT FROM ingest_exceptions WHERE count < 0") == []


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(given_=flushes, most=st.sampled_from((1, 3, 2_048)))
def test_any_mixture_comes_back_once_and_every_reading_is_accounted_for(
    database_url: str, given_: Sequence[tuple[str, Sequence[Message]]], most: int
) -> None:
    do(
        database_url,
        "TRUNCATE devices, sites, segments, workers, dust_readings, reading_parts, quarantine,"
        " ingest_exceptions, device_status CASCADE",
    )
    register(database_url, site_file())
    model = Model()
    messages = [message for _, messages in given_ for message in messages]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrying, "BATCH_MESSAGES", most)
        with patch.context() as wrong:
            wrong.setattr(pipeline, "QUANTITIES", NARROW)
            for place, (name, of_flush) in enumerate(given_):
                asyncio.run(
                    write(
                        database_url,
                        *(message.bytes for message in of_flush),
                        received_us=NOW_US + 1_000 * place,
                        worker=name,
                        limits=TimeLimits(future_s=50),
                    )
                )
        for message in messages:
            if message.device == "dust-1":
                model.take(message, most_db=1.5, until=50)
        assert rows_of(database_url) == model.rows
        require_sums(
            database_url, sum(message.units(message.device == "dust-1") for message in messages)
        )

        adopt(database_url, DUST_9)
        asyncio.run(retry_all(database_url))
        for message in messages:
            model.take(message, most_db=160.0, until=300)
        assert rows_of(database_url) == model.rows
        require_sums(database_url, sum(message.units(known=True) for message in messages))

        before = everything(database_url)
        asyncio.run(retry_all(database_url))
        assert everything(database_url) == before
