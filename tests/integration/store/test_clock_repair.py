"""Clocks that are off, on a real database: spans committed before use, keys that never change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest

from device_profiles.native import moment_of
from ingest.clocks import FIRST_US, FOREVER_US, ClockTerms, Regime, Span, horizon_of
from ingest.pipeline import Arrivals, TimeLimits, gather
from ingest.profiles import Readers
from ingest.registry import Routes
from ingest.repairs import retry_repaired_times
from ingest.segments import Flag
from ingest.store import clocks as clocks_module
from ingest.store.clocks import ClockKeeper, decide, load_clocks
from ingest.store.worker import Worker
from ingest.store.writer import NUMBERS_KEPT, Outcome, TelemetryWriter
from smartsite.roles.ingest import Intake
from smartsite.settings import IngestSettings, Settings
from tests.integration.yard import (
    NOW,
    NOW_US,
    ask,
    balance_of,
    do,
    register,
    routes_of,
    site_file,
    topic_of,
)

S = 1_000_000
HOUR = 3_600
LIMITS = TimeLimits()
DUST = topic_of("dust-1").encode()
SOON = NOW + timedelta(days=1)


def said(received_s: float, reported_s: float, flags: int = 1, **values: object) -> Arrivals:
    """One message, times in seconds since `NOW`."""
    seq = values.pop("seq", None)
    reading = {
        "ts": NOW + timedelta(seconds=reported_s),
        "values": values or {"pm10_ug_m3": received_s % 997},
    }
    if seq is not None:
        reading["seq"] = seq
    return Arrivals(
        [DUST], [msgspec.json.encode(reading)], [flags], [NOW_US + round(received_s * S)]
    )


def together(parts: Sequence[Arrivals]) -> Arrivals:
    """Messages as one flush."""
    return Arrivals(
        [topic for part in parts for topic in part.topics],
        [payload for part in parts for payload in part.payloads],
        [flags for part in parts for flags in part.flags],
        [us for part in parts for us in part.received_us],
    )


class Process:
    """An ingest process, as the role wires it."""

    def __init__(self, database_url: str, name: str = "ingest") -> None:
        self.url = database_url
        self.worker = Worker(database_url, name)
        self.writer = TelemetryWriter(self.worker)
        self.clocks = ClockKeeper(self.worker, ClockTerms())
        self.routes: Routes | None = None

    async def take(self, arrivals: Arrivals) -> Outcome:
        if self.routes is None:
            self.routes = await routes_of(self.url)
        flush = gather(arrivals, self.routes, LIMITS)
        outcome = await self.writer.write(flush)
        self.clocks.hear(flush.heard, arrivals.flags, arrivals.received_us, outcome.repeated)
        if await self.clocks.repair(self.routes.clocks):
            self.routes = None
        return outcome

    async def live(self, seconds: range, clock: Callable[[int], float]) -> list[Arrivals]:
        """Take in what a device says once a second, ten seconds a flush."""
        messages = [said(second + 0.25, clock(second)) for second in seconds]
        for start in range(0, len(messages), 10):
            await self.take(together(messages[start : start + 10]))
        return messages


@pytest.fixture
async def process(database_url: str) -> AsyncIterator[Process]:
    register(database_url, site_file())
    process = Process(database_url)
    yield process
    await process.worker.close()


def spans_of(url: str) -> list[tuple[float | None, float | None, float | None]]:
    """From and to in seconds since `NOW`, offsets in seconds; None for no bound."""
    rows = ask(
        url,
        "SELECT CASE WHEN reported_from > '2000-01-01Z' THEN"
        " extract(epoch FROM reported_from - %(now)s) END::float AS a, CASE WHEN"
        " isfinite(reported_to) THEN extract(epoch FROM reported_to - %(now)s) END::float AS b,"
        " offset_us / 1e6::float AS c FROM clock_offsets ORDER BY reported_from",
        {"now": NOW},
    )
    return [(row["a"], row["b"], row["c"]) for row in rows]


def keys_of(url: str) -> list[dict[str, object]]:
    return ask(
        url,
        "SELECT device_id, series, observed_at, reported_at, received_at, segment, pm10_ug_m3"
        " FROM dust_readings ORDER BY 1, 2, 3",
    )


async def test_a_clock_behind_is_repaired_and_the_same_bytes_give_the_same_keys(
    process: Process,
) -> None:
    messages = await process.live(range(300), lambda second: second - 8 * HOUR)
    ((start, end, offset),) = spans_of(process.url)
    assert end is None
    assert offset == 8 * HOUR
    assert start is not None
    assert 130 <= start + 8 * HOUR <= 155
    rows = keys_of(process.url)
    assert len(rows) == 300
    repaired = [row for row in rows if row["reported_at"] is not None]
    assert len(repaired) == 300 - (start + 8 * HOUR)
    for row in repaired:
        assert isinstance(row["observed_at"], datetime)
        assert row["observed_at"] - row["reported_at"] == timedelta(hours=8)  # type: ignore[operator]
        assert row["received_at"] - row["observed_at"] == timedelta(seconds=0.25)  # type: ignore[operator]
    # All of it comes again, to the same process and to one that was started anew.
    for message in messages:
        message.flags[0] |= Flag.DUP
    assert (await process.take(together(messages))).duplicates == 300
    await process.worker.close()
    second = Process(process.url)
    messages[0].received_us[0] += 1  # else it were the flush whose answer was lost
    try:
        assert (await second.take(together(messages))).duplicates == 300
    finally:
        await second.worker.close()
    assert keys_of(process.url) == rows
    balance = balance_of(process.url)
    assert (balance.received, balance.stored, balance.duplicate) == (900, 300, 600)
    assert balance.adds_up


async def test_parts_duplicates_and_conflicts_meet_under_the_repaired_key(
    process: Process,
) -> None:
    await process.live(range(160), lambda second: second - 8 * HOUR)
    at = 1_000 - 8 * HOUR
    await process.take(said(1_000, at, pm10_ug_m3=5))
    assert (await process.take(said(1_001, at, noise_db=61))).merged == 1
    assert (await process.take(said(1_002, at, pm10_ug_m3=5))).duplicates == 1
    assert (await process.take(said(1_003, at, pm10_ug_m3=6))).conflicts == 1
    both = together([said(1_004, at + 1, pm10_ug_m3=5), said(1_004, at + 1, noise_db=62)])
    assert (await process.take(both)).merged == 1
    rows = ask(
        process.url,
        "SELECT observed_at, pm10_ug_m3, noise_db FROM dust_readings WHERE observed_at >= %(at)s"
        " ORDER BY 1",
        {"at": NOW + timedelta(seconds=1_000)},
    )
    assert [tuple(row.values()) for row in rows] == [
        (NOW + timedelta(seconds=1_000), 5, 61),
        (NOW + timedelta(seconds=1_001), 5, 62),
    ]
    assert balance_of(process.url).adds_up


async def test_what_was_put_aside_for_a_fast_clock_comes_back(process: Process) -> None:
    await process.live(range(200), lambda second: second + 8 * HOUR)
    assert spans_of(process.url) == [(None, None, -8 * HOUR)]
    rows = ask(process.url, "SELECT value, resolved_at FROM quarantine ORDER BY id")
    assert 120 <= len(rows) <= 140
    assert rows[0]["value"] == (NOW + timedelta(hours=8)).isoformat()
    assert len(keys_of(process.url)) == 200 - len(rows)
    do(process.url, "UPDATE clock_offsets SET decided_at = %(at)s", {"at": NOW})
    done, until = await retry_repaired_times(process.url, LIMITS, NOW + timedelta(seconds=20))
    assert (done.messages, done.back) == (len(rows), len(rows))
    stored = keys_of(process.url)
    assert len(stored) == 200
    assert {row["received_at"] - row["observed_at"] for row in stored} == {  # type: ignore[operator]
        timedelta(seconds=0.25)
    }
    assert balance_of(process.url).adds_up
    # Once is enough, when the clocks of two hosts can no longer be at issue.
    _, until = await retry_repaired_times(process.url, LIMITS, NOW + timedelta(minutes=20), until)
    do(process.url, "UPDATE quarantine SET resolved_at = NULL")
    done, _ = await retry_repaired_times(process.url, LIMITS, NOW + timedelta(minutes=21), until)
    assert done.messages == 0


async def test_only_what_a_span_covers_is_read_again(process: Process) -> None:
    await process.take(said(0, 8 * HOUR))
    await process.take(said(1, 20 * HOUR))
    await process.take(said(2, -500 * 24 * HOUR))
    do(
        process.url,
        "INSERT INTO clock_offsets SELECT id, %(now)s, %(now)s + interval '10 hours', -28800000000,"
        " %(now)s, 'by hand' FROM devices WHERE device = 'dust-1'",
        {"now": NOW},
    )
    do(
        process.url,
        "INSERT INTO clock_offsets SELECT id, %(now)s + interval '10 hours', 'infinity', NULL,"
        " %(now)s, 'by hand' FROM devices WHERE device = 'dust-1'",
        {"now": NOW},
    )
    done, _ = await retry_repaired_times(process.url, LIMITS, SOON)
    assert (done.messages, done.back) == (1, 1)
    details = ask(process.url, "SELECT detail FROM quarantine WHERE resolved_at IS NULL")
    assert len(details) == 2


async def test_a_clock_set_back_into_used_times(process: Process) -> None:
    """By ten minutes: what it says until then is not believed, then it is repaired."""
    back = 15 * 60
    messages = await process.live(
        range(back + 800), lambda second: second - (600 if second >= back else 0)
    )
    (doubted, repaired) = spans_of(process.url)
    assert doubted[2] is None
    assert repaired[1:] == (None, 600)
    assert doubted[1] == repaired[0]
    assert back <= (repaired[0] or 0) <= back + 12
    # Before it was noticed they contradicted what was stored; the first word stayed.
    balance = balance_of(process.url)
    assert balance.adds_up
    assert balance.conflict + balance.quarantined == 600 + 9
    details = ask(process.url, "SELECT DISTINCT reason FROM quarantine ORDER BY 1")
    assert [row["reason"] for row in details] == ["conflict", "time"]
    rows = keys_of(process.url)
    for message in messages:
        message.flags[0] |= Flag.DUP
    await process.take(together(messages))
    assert keys_of(process.url) == rows


async def test_a_backlog_keeps_its_place(process: Process) -> None:
    await process.live(range(100), lambda second: second)
    backlog = [said(4 * HOUR + number / 20, 100 + number) for number in range(0, 3 * HOUR, 10)]
    for start in range(0, len(backlog), 50):
        await process.take(together(backlog[start : start + 50]))
    assert spans_of(process.url) == []
    assert len(keys_of(process.url)) == 100 + len(backlog)


async def intake_of(process: Process, settings: Settings) -> list[float | None]:
    """What the role decides of a clock an hour behind."""
    intake = Intake(settings, process.worker, Readers())
    for start in range(0, 200, 10):
        seconds = range(start, start + 10)
        await intake.write(together([said(second, second - HOUR) for second in seconds]))
    return [offset for _, _, offset in spans_of(process.url)]


async def test_the_role_repairs_clocks_and_reads_the_spans_anew(process: Process) -> None:
    assert await intake_of(process, Settings()) == [HOUR]
    repaired = [row for row in keys_of(process.url) if row["reported_at"] is not None]
    assert 40 <= len(repaired) <= 65


@pytest.mark.parametrize("terms", [{"repair_clocks": False}, {"clock_tolerance_s": 2 * HOUR}])
async def test_the_role_leaves_clocks_alone_where_it_is_told_to(
    process: Process, terms: dict[str, object]
) -> None:
    settings = Settings(ingest=IngestSettings.model_validate(terms))
    assert await intake_of(process, settings) == []


def regime_of(device_id: int, **changes: object) -> Regime:
    regime = Regime(device_id, HOUR * S, NOW_US, NOW_US, (), 10, 120, HOUR)
    return regime._replace(**changes)  # type: ignore[arg-type]


async def device_of(url: str) -> int:
    return int(ask(url, "SELECT id FROM devices WHERE device = 'dust-1'")[0]["id"])


async def test_of_two_that_decide_at_once_one_gives_way(process: Process) -> None:
    regime = regime_of(await device_of(process.url))

    async def decided(offset_s: int) -> bool:
        connection = await psycopg.AsyncConnection.connect(process.url, autocommit=True)
        async with connection:
            return await decide(connection, regime._replace(offset_us=offset_s * S), NOW)

    answers = await asyncio.gather(*(decided(HOUR + number) for number in range(4)))
    assert sorted(answers) == [False, False, False, True]
    assert spans_of(process.url) == [(None, None, HOUR + answers.index(True))]


async def test_spans_that_overlap_are_refused(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = [Span(FIRST_US, NOW_US, 1), Span(NOW_US - S, FOREVER_US, 2)]
    monkeypatch.setattr(clocks_module, "plan", lambda *_: spans)
    connection = await process.worker.open()
    with pytest.raises(RuntimeError, match="overlap"):
        await decide(connection, regime_of(await device_of(process.url)), NOW)
    assert spans_of(process.url) == []


async def test_a_device_that_is_gone_has_no_clock(process: Process) -> None:
    connection = await process.worker.open()
    assert not await decide(connection, regime_of(999), NOW)


async def test_a_database_that_is_away_is_asked_again(process: Process) -> None:
    """The flush was written; the decision waits until it can be."""
    routes = await routes_of(process.url)
    do(process.url, "ALTER TABLE clock_offsets RENAME TO gone")
    do(
        process.url,
        "CREATE FUNCTION away() RETURNS SETOF gone LANGUAGE plpgsql AS"
        " 'BEGIN RAISE SQLSTATE ''57P03''; END'",
    )
    do(process.url, "CREATE VIEW clock_offsets AS SELECT * FROM away()")
    for start in range(0, 150, 10):
        process.routes = routes
        await process.take(
            together([said(second, second - HOUR) for second in range(start, start + 10)])
        )
    assert len(keys_of(process.url)) == 150
    do(process.url, "DROP VIEW clock_offsets")
    do(process.url, "DROP FUNCTION away")
    do(process.url, "ALTER TABLE gone RENAME TO clock_offsets")
    process.routes = routes
    for start in range(150, 170, 10):
        await process.take(
            together([said(second, second - HOUR) for second in range(start, start + 10)])
        )
    assert [span[2] for span in spans_of(process.url)] == [HOUR]


async def test_used_times_are_found_by_the_offset_they_were_stored_with(process: Process) -> None:
    """The device's own axis: 0 to 99 as it is, 200 to 299 an hour on, 300 and on not believed."""
    device_id = await device_of(process.url)
    known = (
        Span(NOW_US + 150 * S, NOW_US + 300 * S, HOUR * S),
        Span(NOW_US + 300 * S, NOW_US + 400 * S, None),
    )
    for span in known:
        do(
            process.url,
            "INSERT INTO clock_offsets VALUES (%(d)s, %(a)s, %(b)s, %(o)s, %(a)s, 'by hand')",
            {
                "d": device_id,
                "a": moment_of(span.reported_from_us),
                "b": moment_of(span.reported_to_us),
                "o": span.offset_us,
            },
        )
    await process.take(together([said(HOUR, second) for second in (0, 50, 99, 200, 299, 350)]))
    assert len(keys_of(process.url)) == 5
    # Stored where another offset leads, too: it counts for its own only.
    await process.take(said(HOUR, HOUR + 250))
    connection = await process.worker.open()
    assert (await load_clocks(connection)).spans(device_id) == known

    async def used(newest_s: float) -> list[float | None]:
        regime = regime_of(device_id, newest_us=NOW_US + round(newest_s * S), known=known)
        horizon_us = horizon_of(regime)
        assert horizon_us == regime.newest_us + 10 * S
        found = await clocks_module._used_times(connection, regime, "dust")
        return [None if us is None else (us - NOW_US) / S for us in found]

    assert await used(-100) == [None, 0, HOUR + 250]
    assert await used(50) == [50, 99, HOUR + 250]
    assert await used(100) == [99, 200, HOUR + 250]
    assert await used(230) == [200, 299, HOUR + 250]
    assert await used(300) == [310, pytest.approx(310, abs=1e-5), HOUR + 250]
    assert await used(500) == [pytest.approx(400, abs=1e-5), HOUR + 250, HOUR + 250]
    assert await used(2 * HOUR) == [HOUR + 250, None, HOUR + 250]


async def test_gaps_in_the_numbering_are_counted_also_over_a_restart(process: Process) -> None:
    def counted() -> dict[str, int]:
        rows = ask(
            process.url,
            "SELECT what, count FROM ingest_exceptions WHERE what LIKE 'seq%%' ORDER BY 1",
            {},
        )
        return {row["what"]: row["count"] for row in rows}

    await process.take(together([said(n, n, seq=n) for n in (1, 2, 5)]))
    assert counted() == {"seq_missing": 2}
    await process.take(said(6, 3, seq=3))
    assert counted() == {"seq_missing": 2, "seq_late": 1}
    again = together([said(7, n, flags=1 | Flag.DUP, pm10_ug_m3=n, seq=n) for n in (1, 2, 5)])
    assert (await process.take(again)).duplicates == 3
    assert counted() == {"seq_missing": 2, "seq_late": 1}
    await process.worker.close()
    second = Process(process.url)
    try:
        # Whose numbering began anew, and who sends none.
        await second.take(said(8, 8, seq=8))
        assert counted() == {"seq_missing": 4, "seq_late": 1}
        await second.take(together([said(9, 9, seq=0), said(10, 10)]))
        assert counted() == {"seq_missing": 4, "seq_late": 1, "seq_restart": 1}
    finally:
        await second.worker.close()
    hours = ask(process.url, "SELECT DISTINCT hour FROM ingest_exceptions")
    assert [row["hour"].astimezone(UTC) for row in hours] == [NOW]


async def test_a_number_of_long_ago_is_not_looked_for(process: Process) -> None:
    await process.take(said(1, 1, seq=1))
    await process.worker.close()
    second = Process(process.url)
    later = NUMBERS_KEPT.total_seconds() + 10
    try:
        await second.take(together([said(later, later, seq=5), said(later + 1, later + 1, seq=7)]))
    finally:
        await second.worker.close()
    rows = ask(process.url, "SELECT what, count FROM ingest_exceptions")
    assert [tuple(row.values()) for row in rows] == [("seq_missing", 1)]


async def test_who_hears_a_share_looks_for_no_gaps(process: Process) -> None:
    process.writer = TelemetryWriter(process.worker, hears_all=False)
    await process.take(together([said(n, n, seq=n) for n in (1, 5)]))
    assert len(keys_of(process.url)) == 2
    assert ask(process.url, "SELECT what, count FROM ingest_exceptions") == []


async def test_a_flush_that_was_committed_before_moves_the_numbering_on(process: Process) -> None:
    process.routes = await routes_of(process.url)
    flush = gather(said(1, 1, seq=1), process.routes, LIMITS)
    await process.writer.write(flush)
    second = TelemetryWriter(process.worker)
    assert (await second.write(flush)).already_written
    await second.write(gather(said(3, 3, seq=3), process.routes, LIMITS))
    rows = ask(process.url, "SELECT what, count FROM ingest_exceptions")
    assert [tuple(row.values()) for row in rows] == [("seq_missing", 1)]
