"""The balance of any span: exact where hours cut segments, after retries and ageing out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import Arrivals, TimeLimits, gather
from ingest.retrying import retry
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from simulators.camera import picture_at
from smartsite.balance import SQL, Accounts, Auditor, Difference, snapshot
from smartsite.cli import app
from smartsite.recounting import Recount
from tests.integration.yard import (
    NOW,
    NOW_US,
    SITE,
    ask,
    balance_of,
    do,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

HOUR_US = 3_600_000_000
HOUR = timedelta(hours=1)
PICTURE = picture_at(0.0).jpeg
DUST_9 = Device(site=SITE, id="dust-9", kind=Kind.DUST, expected_every_s=1)

Said = tuple[int, str, bytes]
"""Minutes after NOW at which it comes, topic, payload."""


def spaced(said: Sequence[Said], start_us: int = NOW_US) -> Arrivals:
    return Arrivals(
        topics=[topic.encode() for _, topic, _ in said],
        payloads=[payload for _, _, payload in said],
        flags=[1] * len(said),
        received_us=[start_us + minutes * 60_000_000 for minutes, _, _ in said],
    )


async def write(url: str, *flushes: Sequence[Said], worker: str = "ingest") -> None:
    pen = Worker(url, worker)
    try:
        routes = await routes_of(url)
        writer = TelemetryWriter(pen)
        for said in flushes:
            await writer.write(gather(spaced(said), routes, TimeLimits()))
    finally:
        await pen.close()


async def write_frames(url: str, folder: Path, *flushes: Sequence[Said]) -> None:
    pen = Worker(url, "frames")
    try:
        routes = await routes_of(url)
        writer = FrameWriter(pen, FrameStore(folder), TimeLimits())
        for said in flushes:
            await writer.write(spaced(said), routes)
    finally:
        await pen.close()


async def retry_all(url: str) -> None:
    rows = [row["id"] for row in ask(url, "SELECT id FROM quarantine WHERE resolved_at IS NULL")]
    await retry(url, rows, TimeLimits(), NOW + 24 * HOUR)


def draw(url: str, first: int | None = None, last: int | None = None) -> Accounts:
    """The balance of some hours after NOW."""
    with snapshot(url) as connection:
        return Auditor(connection).draw(
            None if first is None else NOW + first * HOUR,
            None if last is None else NOW + last * HOUR,
        )


def verify(url: str) -> tuple[Recount, list[Difference]]:
    with snapshot(url) as connection:
        auditor = Auditor(connection)
        return auditor.verify(auditor.draw(None, None))


def assert_exact(url: str, hours: int) -> None:
    """Every span adds up, the spans make the whole, and the bytes say the same."""
    assert balance_of(url).adds_up
    with snapshot(url) as connection:
        auditor = Auditor(connection)
        whole = auditor.draw(None, None)
        assert whole.adds_up() is True
        assert whole.received == balance_of(url).received
        singles = []
        for first, last in combinations(range(hours + 1), 2):
            span = auditor.draw(NOW + first * HOUR, NOW + last * HOUR)
            assert span.uncertain == []
            assert span.adds_up() is True
            if last == first + 1:
                singles.append(span)
        assert sum(one.received or 0 for one in singles) == whole.received
        assert sum(one.frames_received or 0 for one in singles) == whole.frames_received
        assert auditor.verify(whole)[1] == []


@pytest.fixture
def url(database_url: str) -> str:
    register(database_url, site_file())
    return database_url


async def test_an_hour_that_cuts_a_segment_is_counted_by_message(url: str) -> None:
    two = msgspec.json.encode(
        [{"ts": NOW + timedelta(seconds=n), "values": {"noise_db": 50}} for n in (1, 2)]
    )
    await write(
        url,
        [
            (50, topic_of("dust-1"), two),
            (59, topic_of("dust-1"), b"{"),
            (60, topic_of("dust-1"), telemetry(NOW + timedelta(seconds=3), noise_db=51)),
            (61, topic_of("dust-9"), two),
            (62, topic_of("dust-1", "status"), b'{"online": true}'),
            (130, topic_of("dust-2"), two),
        ],
    )
    assert [draw(url, hour, hour + 1).received for hour in range(3)] == [3, 2, 2]
    assert_exact(url, 3)
    (line,) = draw(url, 1, 2).lines("total")
    assert (line.stored, line.quarantined) == (1, 1)
    first, *rest = draw(url).lines("device")
    assert (first.site, first.quarantined) == (None, 1)
    assert [(line.device, line.stored, line.quarantined) for line in rest] == [
        ("dust-1", 3, 1),
        ("dust-2", 2, 0),
    ]
    assert [line.hour for line in draw(url).lines("hour")] == [NOW + n * HOUR for n in range(3)]


async def test_gaps_in_the_numbering_are_shown_as_they_stand(url: str) -> None:
    await write(url, [(0, topic_of("dust-1"), telemetry(NOW, noise_db=50))])
    for what, count in (("seq_missing", 5), ("seq_late", 2), ("seq_restart", 1)):
        do(
            url,
            "INSERT INTO ingest_exceptions VALUES (%(hour)s, 1, %(what)s, %(count)s)",
            {"hour": NOW, "what": what, "count": count},
        )
    (line,) = draw(url).lines("device")
    assert (line.seq_missing, line.seq_restarts) == (3, 1)
    assert draw(url).adds_up() is True


async def test_what_is_lost_is_found_and_named(url: str) -> None:
    readings = [
        (n, topic_of("dust-1"), telemetry(NOW + timedelta(seconds=n), noise_db=50))
        for n in (0, 70, 71)
    ]
    await write(url, readings)
    do(
        url,
        "DELETE FROM dust_readings WHERE observed_at = %(at)s",
        {"at": NOW + timedelta(seconds=70)},
    )
    assert draw(url).adds_up() is False
    assert draw(url).missing() == 1
    assert draw(url, 0, 1).adds_up() is True
    assert draw(url, 1, 2).adds_up() is False
    assert verify(url)[1] == [Difference(SITE, "dust-1", NOW + HOUR, "readings", 1, 2)]


async def test_what_came_back_from_quarantine_counts_in_the_hour_it_was_received(url: str) -> None:
    two = msgspec.json.encode(
        [{"ts": NOW + timedelta(seconds=n), "values": {"noise_db": 50}} for n in (1, 2)]
    )
    await write(
        url,
        [
            (10, topic_of("dust-9"), two),
            (70, topic_of("dust-9"), telemetry(NOW + timedelta(seconds=3), noise_db=50)),
            (130, topic_of("dust-9", "status"), b'{"online": true}'),
            (131, topic_of("dust-9"), b"{"),
            (190, topic_of("dust-1"), two),
        ],
    )
    assert_exact(url, 4)
    register(url, site_file(devices=[DUST_9]))
    await retry_all(url)
    assert [draw(url, hour, hour + 1).received for hour in range(4)] == [2, 1, 1, 2]
    assert_exact(url, 4)


async def test_retired_devices_are_still_counted(url: str) -> None:
    await write(
        url,
        [
            (59, topic_of("dust-1"), telemetry(NOW, noise_db=50)),
            (61, topic_of("dust-1"), telemetry(NOW + HOUR, noise_db=50)),
        ],
    )
    do(url, "UPDATE devices SET retired_at = now() WHERE device = 'dust-1'")
    await write(url, [(62, topic_of("dust-1"), telemetry(NOW + HOUR, noise_db=50))])
    assert_exact(url, 2)


async def test_what_aged_out_is_accounted_for(url: str) -> None:
    await write(url, [(0, topic_of("dust-1"), telemetry(NOW, noise_db=50))])
    do(url, "DELETE FROM dust_readings")
    assert draw(url).adds_up() is False
    do(
        url,
        "INSERT INTO ingest_exceptions VALUES (%(hour)s, 1, 'aged_out', 1)",
        {"hour": NOW},
    )
    assert draw(url).adds_up() is True
    assert balance_of(url).adds_up


async def test_a_cut_segment_without_its_bytes_is_not_guessed_at(url: str) -> None:
    await write(
        url,
        [
            (59, topic_of("dust-1"), telemetry(NOW, noise_db=50)),
            (60, topic_of("dust-1"), telemetry(NOW + HOUR, noise_db=50)),
        ],
    )
    do(url, "UPDATE segments SET body = NULL")
    assert draw(url).adds_up() is True
    cut = draw(url, 0, 1)
    assert cut.adds_up() is None
    assert "segment 1 of worker 'ingest'" in cut.uncertain[0]
    found, differences = verify(url)
    assert differences == []
    assert found.unknown == {NOW, NOW + HOUR}


async def test_pictures_are_counted_by_message(url: str, tmp_path: Path) -> None:
    def picture(minutes: int, ms: int, payload: bytes = PICTURE) -> Said:
        return minutes, topic_of("camera-1", f"frame/{NOW_US // 1_000 + ms}"), payload

    await write(url, [(0, topic_of("dust-1"), telemetry(NOW, noise_db=50))])
    await write_frames(
        url,
        tmp_path,
        [picture(0, 0), picture(1, 1), picture(59, 0), picture(60, 2), picture(61, 3, b"no")],
        [(62, topic_of("camera-9", "frame/1"), PICTURE), picture(63, 4)],
    )
    assert_exact(url, 2)
    (line,) = draw(url).lines("total")
    assert (line.frames_stored, line.frames_duplicate, line.frames_quarantined) == (4, 1, 2)
    do(url, "DELETE FROM frames WHERE observed_at = %(at)s", {"at": NOW})
    whole = draw(url)
    assert whole.frames_missing() == 1
    assert whole.adds_up() is False
    assert whole.adds_up(frames_kept_from=NOW - HOUR) is False
    assert whole.adds_up(frames_kept_from=NOW + HOUR) is True
    assert verify(url)[1] == [Difference(SITE, "camera-1", NOW, "frames", 2, 3)]


async def test_all_is_read_in_one_snapshot(url: str) -> None:
    await write(url, [(0, topic_of("dust-1"), telemetry(NOW, noise_db=50))])
    with snapshot(url) as connection:
        auditor = Auditor(connection)
        await write(
            url, [(1, topic_of("dust-1"), telemetry(NOW + timedelta(seconds=1), noise_db=50))]
        )
        accounts = auditor.draw(None, None)
        assert (accounts.received, accounts.total()["stored"]) == (1, 1)
        assert auditor.verify(accounts)[1] == []
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM segments")
        connection.rollback()


values = st.sampled_from((1.0, 2.0))
good = st.builds(
    lambda second, value: telemetry(NOW + timedelta(seconds=second), noise_db=value),
    st.integers(0, 3),
    values,
)
batch = st.builds(
    lambda seconds, value: msgspec.json.encode(
        [
            {"ts": NOW + timedelta(seconds=second), "values": {"noise_db": value}}
            for second in seconds
        ]
    ),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    values,
)
bad = st.sampled_from((b"{", b"[]", telemetry(NOW, noise_db=1e9), telemetry(NOW + 99 * HOUR)))
status = st.sampled_from((b'{"online": true}', b"?"))
spoken = st.one_of(
    st.tuples(
        st.integers(0, 179),
        st.sampled_from([topic_of(one) for one in ("dust-1", "dust-2", "dust-9")]),
        st.one_of(good, batch, bad),
    ),
    st.tuples(st.integers(0, 179), st.just(topic_of("dust-9", "status")), status),
)
histories = st.lists(
    st.lists(spoken, min_size=1, max_size=6).map(lambda said: sorted(said, key=lambda one: one[0])),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=6,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories)
def test_every_span_of_any_history_adds_up(database_url: str, history: list[list[Said]]) -> None:
    do(
        database_url,
        "TRUNCATE segments, dust_readings, reading_parts, quarantine, ingest_exceptions,"
        " device_status, devices CASCADE",
    )
    register(database_url, site_file())
    asyncio.run(write(database_url, *history))
    assert_exact(database_url, 3)
    register(database_url, site_file(devices=[DUST_9]))
    asyncio.run(retry_all(database_url))
    assert_exact(database_url, 3)


def test_rows_are_counted_through_the_segments_alone(url: str) -> None:
    do(
        url,
        "INSERT INTO dust_readings (device_id, series, observed_at, received_at, worker_id,"
        " segment, segment_index, noise_db)"
        " SELECT 1 + n %% 5, 0, %(at)s::timestamptz + n * interval '1 s',"
        " %(at)s::timestamptz + n * interval '1 s', 1, n / 100, n %% 100, 50"
        " FROM generate_series(0, 99999) n",
        {"at": NOW - timedelta(days=2)},
    )
    do(url, "ANALYZE dust_readings")
    with psycopg.connect(url) as connection:
        plan = connection.execute(
            b"EXPLAIN (FORMAT JSON) " + SQL["stored_dust"].encode(),
            {
                "worker_id": 1,
                "first": 100,
                "last": 140,
                "observed_from": NOW - timedelta(days=2),
                "observed_to": NOW + timedelta(days=2),
                "start": NOW - timedelta(days=2),
                "end": NOW,
            },
        ).fetchone()
    assert plan is not None
    nodes = list(_nodes(plan[0][0]["Plan"]))
    assert {"dust_readings_segment"} == {
        node["Index Name"] for node in nodes if "Index Name" in node
    }
    assert not any("Seq Scan" in node["Node Type"] for node in nodes)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


async def test_the_command_says_it_by_its_status(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    address, _, password = url.partition("@")[0].rpartition(":")
    monkeypatch.setenv("SECRET", password)
    monkeypatch.setenv("SMARTSITE_DATABASE__URL", f"{address}@{url.partition('@')[2]}")
    monkeypatch.setenv("SMARTSITE_DATABASE__PASSWORD", "env:SECRET")

    def run(*more: str) -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(app, ["balance", "--all", "--verify", "--json", *more])
        return result.exit_code, json.loads(result.stdout) if result.stdout else {}

    assert run()[0] == 0  # an empty house is in order
    await write(
        url,
        [
            (0, topic_of("dust-1"), telemetry(NOW, noise_db=50)),
            (1, topic_of("dust-2"), telemetry(NOW, noise_db=50)),
        ],
    )
    code, told = run()
    assert (code, told["adds_up"], told["received"]) == (0, True, 2)
    assert told["verified"]["differences"] == []
    code, told = run("--device", f"{SITE}/dust-1")
    assert (code, told["adds_up"], told["received"]) == (0, True, None)
    assert [row["device"] for row in told["rows"]] == ["dust-1"]
    do(url, "DELETE FROM dust_readings WHERE device_id = 1")
    code, told = run("--by", "hour")
    assert (code, told["adds_up"], told["missing"]) == (1, False, 1)
    (difference,) = told["verified"]["differences"]
    assert difference["device"] == "dust-1"
    assert run("--device", f"{SITE}/dust-2")[0] == 0
    assert run("--site", SITE)[0] == 1
    people = CliRunner().invoke(app, ["balance", "--all"])
    assert people.exit_code == 1
    assert "NOT add up: 1 readings are missing" in people.output
