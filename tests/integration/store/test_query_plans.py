"""No query that is asked again and again reads through history: plans over a million rows."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from device_profiles.vocabulary import Kind
from ingest.store import merging, queries, readings, retention, rollups
from ingest.store.queries import load_queries
from smartsite import judge
from smartsite.embedded.postgres import EmbeddedPostgres
from tests.integration.timescale.test_timescale_queries import VALUES
from tests.integration.yard import NOW, register, site_file

HISTORY = {
    *("dust_readings", "crane_readings", "reading_parts", "segments", "quarantine", "frames"),
    *("detections", "device_status", "device_events"),
    *("dust_1min", "dust_1h", "crane_1min", "crane_1h"),
}

WHOLE = {
    "balance.balance": "the account of all there ever was, asked for by a person or a test",
    "balance.counts_by_kind": "counts all rows, for the demo",
    "balance.messages_of_worker": "sums all segments, for the demo and the bench",
    "balance.receipts": "the account of all there ever was",
    "quarantine.quarantine_totals": "counts all of the quarantine, where no filter is given",
}
"""Asked for seldom, and by what they say about all of history."""

# A million rows: 20 cranes at 1 Hz and 20 monitors at 1/30 Hz for some hours and days, and what
# goes with them. Devices of a kind beyond the yard's own are numbered from 101 and 201.
FILL: list[LiteralString] = [
    """INSERT INTO devices (site_id, device, kind, expected_every_s)
       SELECT 'yard', k || '-' || i, k, 1 FROM generate_series(101, 140) i,
              unnest(ARRAY['dust', 'crane', 'camera']) k""",
    "INSERT INTO workers (name) VALUES ('ingest'), ('frames'), ('vision')",
    """INSERT INTO segments (worker_id, number, received_from, received_to, messages, readings,
                             redelivered, raw_bytes, sha256, body, observed_days)
       SELECT w, i, at - interval '1 s', at, 50, 50, 0, 9000, '\\x00', '\\x00', ARRAY[at::date]
       FROM generate_series(1, 3) w, generate_series(1, 15000) i,
            LATERAL (SELECT %(now)s::timestamptz - i * interval '20 s' AS at) t""",
    """INSERT INTO crane_readings (device_id, series, observed_at, received_at, worker_id, segment,
                                   segment_index, load_t, tilt_deg)
       SELECT d, 0, at, at, 1, 15001 - i / 20, d, i %% 9, 0.1
       FROM (SELECT id AS d FROM devices WHERE kind = 'crane' LIMIT 20) d,
            generate_series(1, 30000) i,
            LATERAL (SELECT %(now)s::timestamptz - i * interval '1 s' AS at) t""",
    """INSERT INTO dust_readings (device_id, series, observed_at, received_at, worker_id, segment,
                                  segment_index, pm10_ug_m3, noise_db)
       SELECT d, 0, at, at, 1, 15001 - i, d, i %% 300, 60
       FROM (SELECT id AS d FROM devices WHERE kind = 'dust' LIMIT 20) d,
            generate_series(1, 14000) i,
            LATERAL (SELECT %(now)s::timestamptz - i * interval '30 s' AS at) t""",
    """INSERT INTO frames (device_id, observed_at, received_at, worker_id, segment, segment_index,
                           sha256, bytes, width, height)
       SELECT d, at, at, 2, 15001 - i, 0, int8send(i * 1000 + d), 90000, 1280, 720
       FROM (SELECT id AS d FROM devices WHERE kind = 'camera' LIMIT 2) d,
            generate_series(1, 15000) i,
            LATERAL (SELECT %(now)s::timestamptz - i * interval '20 s' AS at) t""",
    """INSERT INTO detections (device_id, observed_at, received_at, worker_id, segment,
                               segment_index, frame_sha256, model_sha256, width, height, still,
                               boxes)
       SELECT device_id, observed_at, received_at, 3, segment, 0, sha256, '\\x00', width, height,
              false, '[]' FROM frames""",
    """INSERT INTO quarantine (received_at, worker_id, segment, segment_index, topic, device_id,
                               scope, reason, detail, payload_sha256, payload_bytes, resolved_at)
       SELECT %(now)s::timestamptz - i * interval '15 s', 1, 15001 - i * 3 / 4, 0, 'a/topic/' || i,
              1, (ARRAY['message', 'value', 'frame'])[i %% 3 + 1],
              (ARRAY['range', 'type', 'syntax', 'time'])[i %% 4 + 1], 'a test', int8send(i), 9,
              CASE WHEN i %% 2 = 0 THEN now() END
       FROM generate_series(1, 20000) i""",
    """INSERT INTO device_status
       SELECT d, %(now)s::timestamptz - i * interval '1 h', 1, 15001 - i, 0, true, ''
       FROM generate_series(1, 5) d, generate_series(1, 2000) i""",
    """INSERT INTO device_events
       SELECT d, %(now)s::timestamptz - i * interval '1 h', 1, 15001 - i, 0, '{}'
       FROM generate_series(1, 5) d, generate_series(1, 2000) i""",
    """INSERT INTO reading_parts
       SELECT device_id, series, observed_at, 1, segment, 1 FROM dust_readings
       WHERE device_id = (SELECT min(device_id) FROM dust_readings)""",
]


def _fill(connection: psycopg.Connection[Any]) -> None:
    """Rows first, their indexes after: half the time."""
    indexes = connection.execute(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), 'c'"
        " FROM pg_constraint WHERE contype = 'p'"
        " AND conrelid::regclass::text IN ('crane_readings', 'dust_readings')"
        " UNION ALL SELECT tablename, indexname, indexdef, 'i' FROM pg_indexes"
        " WHERE tablename IN ('crane_readings', 'dust_readings') AND indexname NOT LIKE '%_pkey'"
    ).fetchall()
    for table, name, _, what in indexes:
        drop = "ALTER TABLE {0} DROP CONSTRAINT {1}" if what == "c" else "DROP INDEX {1}"
        connection.execute(sql.SQL(drop).format(sql.Identifier(table), sql.Identifier(name)))
    for table in ("crane_readings", "dust_readings"):
        connection.execute(sql.SQL("ALTER TABLE {} SET UNLOGGED").format(sql.Identifier(table)))
    for statement in FILL:
        connection.execute(statement, {"now": NOW})
    for table, name, definition, what in indexes:
        connection.execute(
            definition.encode()
            if what == "i"
            else sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} ")
            .format(sql.Identifier(table), sql.Identifier(name))
            .as_bytes(connection)
            + definition.encode()
        )
    for kind, source in ((Kind.CRANE, "crane_readings"), (Kind.DUST, "dust_readings")):
        for table in rollups.rollup_tables(kind)[:2]:
            columns = [f"{measure.name}_n" for measure in rollups.MEASURES[kind]]
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} (device_id, series, bucket, n, {}) SELECT device_id, series,"
                    " observed_at, 1, {} FROM {} WHERE segment % 5 = 0"
                ).format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                    sql.SQL(", ").join([sql.SQL("1")] * len(columns)),
                    sql.Identifier(source),
                )
            )
    connection.execute("ANALYZE")


@pytest.fixture(scope="module")
def million(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """Connection string of a database with a million rows of history."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(migrated_template)
            )
        )
        url = postgres_server.url_of(name)
        register(url, site_file())
        with psycopg.connect(url) as filling:
            _fill(filling)
        yield url
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


SPAN: dict[str, Any] = {
    **VALUES,
    "start": NOW - timedelta(hours=1),
    "end": NOW,
    "first": 14_900,
    "last": 14_960,
    "number": 14_900,
    "segment": 14_900,
    "before": NOW - timedelta(hours=8),
    "quarantined_before": NOW - timedelta(hours=8),
    "newer_than": NOW - timedelta(days=400),
    "device_ids": [101, 102],
    "device_id": 101,
    "at": NOW - timedelta(hours=2),
    # Of the judge's questions, and of the health page's.
    "rule": "dust.pm10_mean",
    "rules": ["device.silence"],
    "subject": "dust-1",
    "linger": timedelta(seconds=10),
    "ingest": "ingest",
    "frames": "frames",
    "gateway": "gateway",
}

FILES = {
    file.stem: load_queries(file)
    for file in (
        *sorted((Path(queries.__file__).parent / "sql").glob("*.sql")),
        Path(judge.__file__).with_name("judge.sql"),
        Path(judge.__file__).with_name("health.sql"),
    )
    if file.stem != "timescale"
}


def _sentence(query: str) -> str:
    """A query without its comments."""
    return "\n".join(line for line in query.splitlines() if not line.startswith("--")).strip()


GENERATED: dict[str, tuple[Any, dict[str, Any]]] = {
    **{f"of segments: {table.name}": (text, {}) for table, text in readings._OF_SEGMENTS.items()},
    **{f"of parts: {table.name}": (text, {}) for table, text in readings._OF_PARTS.items()},
    **{f"of devices: {table.name}": (text, {}) for table, text in readings._OF_DEVICES.items()},
    **{f"last: {table.name}": (text, {}) for table, text in readings._LAST.items()},
    **{
        f"rollup: {kind} {level}": (text, {})
        for kind, levels in rollups._COMPUTE.items()
        for text, (level, _) in zip(levels, rollups.LEVELS, strict=True)
    },
    **{
        f"{what}: {aging.table}": (
            write(aging),
            {"series": [0] if write is retention.owners else 0},
        )
        for aging in (
            *retention._READINGS.values(),
            *(rollup for level in retention._ROLLUPS.values() for rollup in level),
            *(retention._PARTS, retention._DETECTIONS, retention._STATUSES, retention._EVENTS),
        )
        for what, write, series in (
            ("owners", retention.owners, [0, 1, 2, 3]),
            ("removal", retention.removal, 0),
        )
    },
    **{
        f"merge {part}: {kind}": (sql.SQL(getattr(merging._MERGING[kind], part)), {})
        for kind in merging._MERGING
        for part in ("insert_new", "meet")
    },
}
SPECIAL: dict[str, dict[str, Any]] = {"put_segment": {"body": b"packed"}}
NAMED: dict[str, tuple[Any, dict[str, Any]]] = {
    f"{stem}.{name}": (sql.SQL(_sentence(query)), SPECIAL.get(name, {}))
    for stem, file in FILES.items()
    for name, query in file.items()
    if _sentence(query).startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE"))
}


def _scanned(plan: Any) -> Iterator[str]:
    """Tables a plan reads through from one end to the other."""
    if isinstance(plan, list):
        for part in plan:
            yield from _scanned(part)
    elif isinstance(plan, dict):
        if plan.get("Node Type") == "Seq Scan":
            yield plan["Relation Name"]
        for part in plan.values():
            yield from _scanned(part)


def plan_of(connection: psycopg.Connection[Any], query: sql.SQL, values: dict[str, Any]) -> Any:
    explain = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query)
    with connection.transaction(force_rollback=True):
        row = connection.execute(explain, values).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture(scope="module")
def asking(million: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose temporary tables hold what comes with a flush, and what it touches."""
    with psycopg.connect(million) as connection:
        connection.execute(rollups.SQL["create_touched"])
        connection.execute(
            "INSERT INTO touched_buckets SELECT DISTINCT kind, device_id, 0,"
            " date_trunc('minute', observed_at) FROM dust_readings, (VALUES ('dust'), ('crane')) k"
            " (kind) WHERE segment > 14900"
        )
        for kind, made in merging._MERGING.items():
            connection.execute(made.create.encode())
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} OVERRIDING USER VALUE SELECT *, 1 FROM {} WHERE segment > 14900"
                ).format(sql.Identifier(made.incoming), sql.Identifier(f"{kind}_readings"))
            )
        yield connection
        connection.rollback()


QUERIES = {**NAMED, **GENERATED}


@pytest.mark.parametrize(
    "group", sorted({name.partition(".")[0].partition(":")[0] for name in QUERIES})
)
def test_history_is_not_read_through(group: str, asking: psycopg.Connection[Any]) -> None:
    read: dict[str, set[str]] = {}
    for name, (query, special) in QUERIES.items():
        if name.startswith((f"{group}.", f"{group}:")) and name not in WHOLE:
            plan = plan_of(asking, query, {**SPAN, **special})
            if scanned := set(_scanned(plan)) & HISTORY:
                read[name] = scanned
    assert not read


def test_there_are_a_million_rows_and_a_plan_that_reads_them_is_seen(
    asking: psycopg.Connection[Any],
) -> None:
    rows = asking.execute(
        "SELECT sum(reltuples) FROM pg_class WHERE relname = ANY(%s)", (sorted(HISTORY),)
    ).fetchone()
    assert rows is not None
    assert rows[0] >= 1_000_000
    plan = plan_of(asking, sql.SQL("SELECT * FROM dust_readings WHERE pm10_ug_m3 > 1"), {})
    assert set(_scanned(plan)) == {"dust_readings"}


def test_exceptions_are_queries_there_are() -> None:
    assert WHOLE.keys() <= NAMED.keys()
