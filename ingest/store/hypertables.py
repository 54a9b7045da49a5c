"""How TimescaleDB lays history down: chunks sized by the rate, columns after days.

**Chunks.** Rows arrive in the newest chunk, and every one of them goes into the chunk's key and
its index on segments, at random places. As long as both lie in memory that costs nothing; beyond
it every row reads and writes pages of the disk. TimescaleDB's own advice is that the chunks being
written, indexes included, take a quarter of the memory; PostgreSQL's is that `shared_buffers` be
a quarter of the memory. So the newest chunk should fit into `shared_buffers`.

A reading of eight quantities takes 200 bytes with both indexes where it was measured, devices in
order; pages of the key split where devices speak in turns, and some send more quantities: counted
are 300. A city of
3,000 sites with 12,000 readings a second fills 3.6 MB a second: with 32 GB of `shared_buffers`
an hour (13 GB) fits and six hours (78 GB) do not. One site with four cranes at 1 Hz, 0.1 GB a
day, has chunks of a day with 128 MB and of a week with 1 GB. Shorter than an hour there are too
many chunks to plan with, longer than a week too little goes at once when it ages out.

**Columns.** Days later, when late data have become rare, a chunk is turned into columns by device,
ordered as the key is: a tenth of the bytes. Late data still find their way: TimescaleDB opens the
batches they belong to, and what they left beside the columns is put in order at the next turn.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from device_profiles.vocabulary import Kind
from ingest.store.queries import load_queries
from ingest.store.rollups import MEASURES

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).parent / "sql" / "upkeep.sql")
TIMESCALE_SQL = load_queries(Path(__file__).parent / "sql" / "timescale.sql")

INTERVALS = (timedelta(hours=1), timedelta(hours=6), timedelta(days=1), timedelta(days=7))
READING_BYTES = 300

COLUMNAR = ("dust_readings", "crane_readings", "dust_1min", "crane_1min")
"""Hypertables that have columns of old; frames and detections are few and carry jsonb."""


class Server(NamedTuple):
    """What the database can do.

    Attributes:
        timescale: TimescaleDB is here.
        columnstore: In an edition that has the columnstore.
        memory_bytes: PostgreSQL's `shared_buffers`.
    """

    timescale: bool
    columnstore: bool
    memory_bytes: int


async def look_at_server(connection: psycopg.AsyncConnection[Any]) -> Server:
    """Ask the database what it can do.

    Args:
        connection: An open connection.

    Returns:
        The answer.
    """
    cursor = await connection.execute(SQL["history_server"])
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return Server(*row)


def chunk_interval(readings_per_day: float, memory_bytes: int) -> timedelta:
    """Choose how much time a chunk spans: the longest interval whose rows fit into memory. Pure.

    Args:
        readings_per_day: As measured.
        memory_bytes: What the newest chunk may take with its indexes.

    Returns:
        One of `INTERVALS`; the shortest where none fits.
    """
    fitting = [
        interval
        for interval in INTERVALS
        if readings_per_day * READING_BYTES * (interval / timedelta(days=1)) <= memory_bytes
    ]
    return fitting[-1] if fitting else INTERVALS[0]


async def size_chunks(
    connection: psycopg.AsyncConnection[Any], server: Server, now: datetime
) -> dict[str, timedelta]:
    """Give new chunks the size that yesterday's rate asks for; older ones stay as they are.

    Args:
        connection: An open connection.
        server: From `look_at_server`.
        now: The present time; aware.

    Returns:
        What was changed: the new interval by hypertable.
    """
    if not server.timescale:
        return {}
    cursor = await connection.execute(TIMESCALE_SQL["chunk_intervals"])
    present: Mapping[str, timedelta] = dict(await cursor.fetchall())
    changed = {}
    for kind in MEASURES:
        table = f"{kind}_readings"
        rate = await _readings_of_yesterday(connection, kind, now)
        wanted = chunk_interval(rate, server.memory_bytes)
        if rate and table in present and present[table] != wanted:
            await connection.execute(
                TIMESCALE_SQL["set_chunk_interval"], {"table": table, "interval": wanted}
            )
            log.info("%s: %.0f readings a day, new chunks span %s", table, rate, wanted)
            changed[table] = wanted
    return changed


async def _readings_of_yesterday(
    connection: psycopg.AsyncConnection[Any], kind: Kind, now: datetime
) -> float:
    yesterday = (now.astimezone(UTC) - timedelta(days=1)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    cursor = await connection.execute(SQL[f"{kind}_readings_of_day"], {"day": yesterday})
    row = await cursor.fetchone()
    return float(row[0]) if row else 0.0


async def turn_into_columns(
    connection: psycopg.AsyncConnection[Any], server: Server, before: datetime, tried: set[str]
) -> str | None:
    """Turn one old chunk into columns, or put in order what late data left beside them.

    Args:
        connection: In autocommit: it is a transaction of its own.
        server: From `look_at_server`.
        before: Chunks that end before this time; aware.
        tried: Chunks that had their turn; the one that has it now is added.

    Returns:
        The chunk; None when there is no more to do, or no columnstore to be had.
    """
    if not server.columnstore:
        return None
    for table in COLUMNAR:
        cursor = await connection.execute(
            TIMESCALE_SQL["chunks_to_turn"], {"table": table, "before": before}
        )
        chunks: list[str] = [chunk for (chunk,) in await cursor.fetchall() if chunk not in tried]
        if chunks:
            tried.add(chunks[0])
            await connection.execute(
                sql.SQL("CALL convert_to_columnstore({}, if_not_columnstore => true)").format(
                    sql.Literal(chunks[0])
                )
            )
            return chunks[0]
    return None
