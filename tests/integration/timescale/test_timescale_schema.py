"""What the migrations make of a database with TimescaleDB at hand, and of one without."""

from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from ingest.store.migrate import latest_revision, migrate
from tests.integration.yard import ask

CHUNK_INTERVALS = {
    "crane_readings": timedelta(days=1),
    "detections": timedelta(days=7),
    "dust_readings": timedelta(days=1),
    "frames": timedelta(days=7),
}
ROLLUP_INTERVALS = {
    f"{kind}_{level}": interval
    for level, interval in {"1min": timedelta(days=7), "1h": timedelta(days=90)}.items()
    for kind in ("crane", "dust")
}
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

# One row of each hypertable: the columns that are never NULL.
_SOURCE = {
    "device_id": 7,
    "observed_at": NOON,
    "received_at": NOON,
    "worker_id": 1,
    "segment": 1,
    "segment_index": 0,
}
_PICTURE = {"width": 1280, "height": 720}
ROWS: dict[str, dict[str, Any]] = {
    "crane_readings": _SOURCE | {"series": 0},
    "detections": _SOURCE
    | _PICTURE
    | {"frame_sha256": b"f", "model_sha256": b"m", "still": False, "boxes": Jsonb([])},
    "dust_readings": _SOURCE | {"series": 0},
    "frames": _SOURCE | _PICTURE | {"sha256": b"f", "bytes": 90_000},
}

SCHEMA: list[LiteralString] = [
    (
        "SELECT table_name, table_type FROM information_schema.tables"
        " WHERE table_schema = 'public' ORDER BY 1"
    ),
    (
        "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity"
        " FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
    ),
    # Newer versions of PostgreSQL count NOT NULL ("n") among the constraints.
    (
        "SELECT conrelid::regclass::text AS table, conname, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
        " ORDER BY 1, 2"
    ),
    # TimescaleDB adds an index of its own on the time.
    (
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        " AND indexname NOT LIKE '%\\_observed\\_at\\_idx' ORDER BY 1, 2"
    ),
]


def _insert(table: str, *, calmly: bool = False) -> sql.Composed:
    return sql.SQL("INSERT INTO {} ({}) VALUES ({}) {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(sql.Identifier(column) for column in ROWS[table]),
        sql.SQL(", ").join(sql.Placeholder(column) for column in ROWS[table]),
        sql.SQL("ON CONFLICT DO NOTHING" if calmly else ""),
    )


def test_history_lies_in_hypertables_by_observed_time(
    timescale_url: str,
) -> None:
    found = ask(
        timescale_url,
        "SELECT hypertable_name AS name, column_name AS column, time_interval AS interval"
        " FROM timescaledb_information.dimensions WHERE hypertable_schema = 'public' ORDER BY 1",
    )
    times = [(name, "observed_at", interval) for name, interval in CHUNK_INTERVALS.items()]
    times += [(name, "bucket", interval) for name, interval in ROLLUP_INTERVALS.items()]
    assert found == [
        {"name": name, "column": column, "interval": interval}
        for name, column, interval in sorted(times)
    ]


def test_without_the_extension_they_are_plain_tables(database_url: str) -> None:
    assert not ask(database_url, "SELECT FROM pg_extension WHERE extname = 'timescaledb'")
    names = sorted([*CHUNK_INTERVALS, *ROLLUP_INTERVALS])
    found = ask(
        database_url,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname = ANY(%(names)s) ORDER BY 1",
        {"names": names},
    )
    assert [row["relname"] for row in found] == names


def test_migrating_once_more_changes_nothing(timescale_url: str) -> None:
    assert migrate(timescale_url) == (latest_revision(), latest_revision())


def test_the_schema_is_that_of_plain_postgresql(timescale_url: str, database_url: str) -> None:
    for question in SCHEMA:
        plain = ask(database_url, question)
        assert len(plain) > len(CHUNK_INTERVALS)
        assert ask(timescale_url, question) == plain


@pytest.mark.parametrize("table", CHUNK_INTERVALS)
def test_a_key_is_taken_once(table: str, timescale_url: str) -> None:
    with psycopg.connect(timescale_url, autocommit=True) as connection:
        connection.execute(_insert(table), ROWS[table])
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(_insert(table), ROWS[table])
        again = connection.execute(_insert(table, calmly=True), ROWS[table])
        assert again.rowcount == 0
        other = ROWS[table] | {"device_id": 8}
        again = connection.execute(_insert(table, calmly=True), other)
        assert again.rowcount == 1


@pytest.mark.parametrize("table", CHUNK_INTERVALS)
def test_rows_lie_in_the_chunk_of_their_time(table: str, timescale_url: str) -> None:
    interval = CHUNK_INTERVALS[table]
    times = [NOON, NOON + timedelta(seconds=1), NOON + interval, NOON - 40 * interval]
    with psycopg.connect(timescale_url) as connection:
        for time in times:
            connection.execute(_insert(table), ROWS[table] | {"observed_at": time})
        rows = connection.execute(
            sql.SQL(
                "SELECT t.observed_at, c.range_start, c.range_end"
                " FROM {} t JOIN pg_class p ON p.oid = t.tableoid"
                " JOIN timescaledb_information.chunks c"
                " ON c.chunk_name = p.relname AND c.hypertable_name = %s ORDER BY 1"
            ).format(sql.Identifier(table)),
            (table,),
        ).fetchall()
    assert [row[0] for row in rows] == sorted(times)
    assert all(start <= time < end for time, start, end in rows)
    assert {end - start for _, start, end in rows} == {interval}
    assert len({start for _, start, _ in rows}) == 3
