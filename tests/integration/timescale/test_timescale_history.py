"""Rollups, columns and what ages out, on hypertables as on plain tables."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.store import hypertables
from ingest.store.hypertables import (
    COLUMNAR,
    Server,
    chunk_interval,
    look_at_server,
    size_chunks,
    turn_into_columns,
)
from ingest.store.retention import Aging, Retention
from ingest.store.rollups import MEASURES, Rollups, rollup_tables
from ingest.store.worker import Worker, connect
from ingest.store.writer import Outcome, TelemetryWriter
from tests.integration.yard import (
    NOW,
    NOW_US,
    ask,
    balance_of,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

DUST, CRANE = topic_of("dust-1"), topic_of("crane-1")
Message = tuple[str | bytes, bytes]
ROLLUPS = [table for kind in MEASURES for table in rollup_tables(kind)]


def days_ago(days: int, seconds: int = 0) -> datetime:
    return NOW - timedelta(days=days, seconds=-seconds)


FRESH: list[Message] = [
    *((DUST, telemetry(days_ago(d, s), pm10_ug_m3=s, noise_db=50 + d)) for d in (0, 9, 30, 95)
      for s in range(5)),
    *((CRANE, telemetry(days_ago(d, s), load_t=s, tilt_deg=d / 100)) for d in (0, 9, 30, 95)
      for s in range(5)),
]  # fmt: skip
LATE: list[Message] = [
    (DUST, telemetry(days_ago(9, 2), pm10_ug_m3=2, noise_db=59)),  # there already
    (DUST, telemetry(days_ago(9, 3), temperature_c=21)),  # a further part
    (DUST, telemetry(days_ago(30, 4), pm10_ug_m3=99)),  # a conflict
    (DUST, telemetry(days_ago(30, 7), pm10_ug_m3=7)),  # new
    (CRANE, telemetry(days_ago(9, 8), load_t=8)),
    (CRANE, telemetry(days_ago(30, 1), wind_speed_m_s=8)),
    (DUST, telemetry(NOW + timedelta(seconds=9), pm10_ug_m3=1)),
]


async def write(url: str, messages: list[Message], late_s: int = 0) -> Outcome:
    routes = await routes_of(url)
    worker = Worker(url, "ingest")
    writer = TelemetryWriter(worker)
    try:
        return await writer.write(
            flush_of(routes, *messages, received_us=NOW_US + late_s * 1_000_000)
        )
    finally:
        await worker.close()


async def roll_up(url: str) -> None:
    async with await connect(url, "a test") as connection:
        rollups = Rollups(connection)
        while await rollups.step():
            pass


async def server_of(url: str) -> Server:
    async with await connect(url, "a test") as connection:
        return await look_at_server(connection)


async def turn_all(url: str, before: datetime) -> set[str]:
    """Turn everything older into columns; where there are none, nothing happens."""
    turned: set[str] = set()
    async with await connect(url, "a test") as connection:
        server = await look_at_server(connection)
        while await turn_into_columns(connection, server, before, turned):
            pass
        assert await turn_into_columns(connection, server, before, set()) is None
    return turned


def history(url: str) -> dict[str, list[dict[str, Any]]]:
    with psycopg.connect(url) as connection:
        found = {}
        for table in (*ROLLUPS, "dust_local_day", "crane_local_day", "dust_readings",
                      "crane_readings", "ingest_exceptions", "history_bounds"):  # fmt: skip
            cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
            names = [column.name for column in cursor.description or ()]
            rows = sorted(cursor.fetchall(), key=lambda row: tuple(map(str, row)))
            found[table] = [dict(zip(names, row, strict=True)) for row in rows]
        return found


def require_same(one: dict[str, list[dict[str, Any]]], other: object) -> None:
    def rounded(value: object) -> object:
        return float(f"{value:.12g}") if isinstance(value, float) else value

    assert isinstance(other, dict)
    for table, rows in one.items():
        assert [{name: rounded(value) for name, value in row.items()} for row in rows] == [
            {name: rounded(value) for name, value in row.items()} for row in other[table]
        ], table


async def test_rollups_are_those_of_plain_postgresql(timescale_url: str, database_url: str) -> None:
    """Late data, parts and conflicts fall into chunks that are columns by then."""
    outcomes = []
    for url in (timescale_url, database_url):
        register(url, site_file())
        await write(url, FRESH)
        await roll_up(url)
        turned = await turn_all(url, days_ago(7))
        assert bool(turned) == (url == timescale_url)
        outcomes.append(await write(url, LATE, late_s=1))
        await roll_up(url)
        assert bool(await turn_all(url, days_ago(7))) == (url == timescale_url)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].duplicates
    assert outcomes[0].merged
    assert outcomes[0].stored.total() == 3
    require_same(history(timescale_url), history(database_url))
    assert balance_of(timescale_url).adds_up


async def test_old_chunks_are_columns_and_new_ones_are_rows(timescale_url: str) -> None:
    register(timescale_url, site_file())
    await write(timescale_url, FRESH)
    await roll_up(timescale_url)
    await turn_all(timescale_url, days_ago(7))
    chunks = ask(
        timescale_url,
        "SELECT hypertable_name AS name, is_compressed AS columns, range_end AS to"
        " FROM timescaledb_information.chunks WHERE hypertable_name = ANY(%(names)s)",
        {"names": list(COLUMNAR)},
    )
    assert {chunk["name"] for chunk in chunks if chunk["columns"]} == set(COLUMNAR)
    for chunk in chunks:
        assert chunk["columns"] == (chunk["to"] <= days_ago(7)), chunk
    assert not await turn_all(timescale_url, days_ago(7))


async def test_what_follows_segments_leaves_other_chunks_alone(timescale_url: str) -> None:
    """A segment's rows are sought in the chunks of its days, or all columns would be read."""
    register(timescale_url, site_file())
    await write(timescale_url, FRESH)
    await turn_all(timescale_url, days_ago(7))
    await write(timescale_url, [(DUST, telemetry(days_ago(0, 60), pm10_ug_m3=1))], late_s=1)
    (segment,) = ask(timescale_url, "SELECT observed_days FROM segments WHERE number = 2")
    assert segment["observed_days"] == [NOW.date()]
    today = NOW.replace(hour=0)
    with psycopg.connect(timescale_url) as connection:
        connection.execute(hypertables.SQL["create_touched"])
        plan = connection.execute(
            b"EXPLAIN " + hypertables.SQL["touch_dust"].encode(),
            {
                "worker_id": 1,
                "first": 2,
                "last": 2,
                "start": today,
                "end": today + timedelta(days=1),
            },
        ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert text.count("dust_readings_segment") == 1
    assert "compress_hyper" not in text


async def test_readings_age_out_by_chunks_and_stay_in_the_account(
    timescale_url: str, database_url: str, tmp_path: Any
) -> None:
    terms = Retention(dust_days=60, crane_days=20, rollups_1min_days=50)
    gone = []
    for url in (timescale_url, database_url):
        register(url, site_file())
        await write(url, FRESH)
        await write(url, LATE, late_s=1)
        await roll_up(url)
        await turn_all(url, days_ago(7))
        async with await connect(url, "a test") as connection:
            server = await look_at_server(connection)
            aging = Aging(connection, server, terms, FrameStore(tmp_path), NOW)
            assert await aging.run()
            gone.append(aging.gone)
            again = Aging(connection, server, terms, FrameStore(tmp_path), NOW)
            assert await again.run()
            assert not again.gone.total()
        # What comes too late for its day to be computed again is stored, and goes the same way.
        await write(url, [(DUST, telemetry(days_ago(95, 30), pm10_ug_m3=400))], late_s=2)
        await roll_up(url)
    readings = [
        {name: count for name, count in some.items() if name.endswith("_readings")} for some in gone
    ]
    assert readings[0] == readings[1] == {"dust_readings": 5, "crane_readings": 10}
    here, plain = history(timescale_url), history(database_url)
    # Chunks of rollups go when they are old as a whole.
    for table in ("dust_1min", "crane_1min", "dust_local_day", "crane_local_day"):
        assert len(here.pop(table)) >= len(plain.pop(table))
    require_same(here, plain)
    assert {row["n"] for row in here["dust_1d"]} == {5, 6}
    counted = ask(
        timescale_url,
        "SELECT sum(count)::int AS n FROM ingest_exceptions WHERE what = 'aged_out'",
    )
    assert counted == [{"n": 15}]


async def test_without_the_columnstore_nothing_is_turned(timescale_url: str) -> None:
    """The Apache edition has none; neither has plain PostgreSQL."""
    register(timescale_url, site_file())
    await write(timescale_url, FRESH)
    async with await connect(timescale_url, "a test") as connection:
        server = (await look_at_server(connection))._replace(columnstore=False)
        assert server.timescale
        assert await turn_into_columns(connection, server, NOW, set()) is None


@asynccontextmanager
async def as_they_were(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """Other tests meet chunks of a day: the database is theirs too."""
    yield
    await connection.execute(
        hypertables.TIMESCALE_SQL["set_chunk_interval"],
        {"table": "dust_readings", "interval": timedelta(days=1)},
    )


async def test_new_chunks_fit_the_rate(timescale_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(timescale_url, site_file())
    server = await server_of(timescale_url)
    await write(timescale_url, FRESH)
    await write(timescale_url, [(DUST, telemetry(days_ago(1), pm10_ug_m3=1))], late_s=1)
    await roll_up(timescale_url)
    async with await connect(timescale_url, "a test") as connection, as_they_were(connection):
        # One dust reading yesterday, none of a crane: no rate, nothing to go by.
        assert await size_chunks(connection, server, NOW) == {
            "dust_readings": chunk_interval(1, server.memory_bytes)
        }
        assert await size_chunks(connection, server, NOW) == {}
        monkeypatch.setattr(hypertables, "READING_BYTES", server.memory_bytes)
        assert await size_chunks(connection, server, NOW) == {"dust_readings": timedelta(days=1)}


async def test_plain_postgresql_has_no_chunks_to_size(database_url: str) -> None:
    server = await server_of(database_url)
    assert not server.timescale
    assert not server.columnstore
    assert server.memory_bytes >= 2**20
    async with await connect(database_url, "a test") as connection:
        assert await size_chunks(connection, server, NOW) == {}
        assert await turn_into_columns(connection, server, NOW, set()) is None


def test_every_kind_of_reading_has_rollups() -> None:
    assert set(MEASURES) == {Kind.DUST, Kind.CRANE}
