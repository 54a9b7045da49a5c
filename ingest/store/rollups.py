"""Rollups: what readings come to by minute, hour and day, exact however late they came.

They are kept in tables, the same on either server, by whoever calls `Rollups.step`: it follows
the new segments of every worker, finds the minutes their rows touch (parts merged into older
readings too), and computes those minutes anew from the readings, then the hours from the minutes
and the days from the hours, in one transaction with its place. So a bucket is at all times what
the readings stored before its last step come to: late data, redelivery and a kill in between
change nothing about that.

TimescaleDB's continuous aggregates are not used. They note for each transaction the span from
its oldest to its newest reading: one reading that is late by ten days, written beside fresh ones,
has ten days of every device computed again, and a fleet that buffers brings such readings in
every flush (docs/adr/0006-upkeep.md).

Sums are of double precision, added in the order the server reads the rows: the last digits of a
mean may differ from one server to the next; counts, least and greatest do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql

from device_profiles.vocabulary import Kind
from ingest.store.days import Span, spans_of
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "sql" / "upkeep.sql")
READING_SQL = load_queries(Path(__file__).parent / "sql" / "reading.sql")

SEGMENTS_AT_ONCE = 500
READINGS_AT_ONCE = 200_000
"""Most segments and readings of one transaction: a minute of a city's first cranes, some 2 s."""

Aggregate = Literal["sum", "energy", "min", "max"]


class Measure(NamedTuple):
    """What is kept of one quantity, beside the count of readings that had it.

    Attributes:
        name: Of the quantity.
        kept: "sum" (for the mean), "energy" (of a sound level), "min", "max".
    """

    name: str
    kept: tuple[Aggregate, ...]


_MEAN: tuple[Aggregate, ...] = ("sum", "min", "max")
MEASURES: Mapping[Kind, tuple[Measure, ...]] = {
    Kind.DUST: (
        Measure("pm2_5_ug_m3", _MEAN),
        Measure("pm10_ug_m3", _MEAN),
        Measure("tsp_ug_m3", _MEAN),
        Measure("noise_db", ("energy", "max")),
        Measure("temperature_c", _MEAN),
        Measure("humidity_pct", _MEAN),
        Measure("wind_speed_m_s", ("sum", "max")),
    ),
    Kind.CRANE: (
        Measure("load_t", ("max",)),
        Measure("moment_pct", ("max",)),
        Measure("wind_speed_m_s", ("sum", "max")),
        Measure("tilt_deg", ("min", "max")),
        Measure("hook_height_m", ("max",)),
    ),
}

LEVELS = (("1min", "1 minute"), ("1h", "1 hour"), ("1d", "1 day"))
"""Names of the buckets, as tables end in them, and their lengths."""

_FROM_READINGS: Mapping[Aggregate, str] = {
    "sum": "sum(r.{0})",
    "energy": "sum(power(10, r.{0} / 10))",  # 10^(L/10): levels are added as energies
    "min": "min(r.{0})",
    "max": "max(r.{0})",
}


def rollup_tables(kind: Kind) -> tuple[str, ...]:
    """Name the rollup tables of a kind.

    Args:
        kind: Of the devices.

    Returns:
        The tables of minutes, hours and days.
    """
    return tuple(f"{kind}_{level}" for level, _ in LEVELS)


def _statement(kind: Kind, level: int) -> sql.SQL:
    """Write the statement that computes the touched buckets of one level anew."""
    name, length = LEVELS[level]
    columns: dict[str, str] = {}
    if level == 0:
        source, time, columns["n"] = f"{kind}_readings", "observed_at", "count(*)"
    else:
        source, time, columns["n"] = f"{kind}_{LEVELS[level - 1][0]}", "bucket", "sum(r.n)"
    for measure in MEASURES[kind]:
        counted = f"{measure.name}_n"
        columns[counted] = f"count(r.{measure.name})" if level == 0 else f"sum(r.{counted})"
        for aggregate in measure.kept:
            column = f"{measure.name}_{aggregate}"
            how = aggregate if level == 0 or aggregate != "energy" else "sum"
            of = measure.name if level == 0 else column
            columns[column] = _FROM_READINGS[how].format(of)
    listed = ", ".join(columns)
    # The rows are fetched bucket by bucket through the key (an aggregate in LATERAL cannot become
    # a join over all of history), and the span lets TimescaleDB leave other chunks alone.
    text = f"""
        INSERT INTO {kind}_{name} (device_id, series, bucket, {listed})
        SELECT t.device_id, t.series, t.bucket, {", ".join(f"a.{column}" for column in columns)}
        FROM (
            SELECT DISTINCT device_id, series,
                   date_bin('{length}', bucket, TIMESTAMPTZ '2000-01-01 00:00Z') AS bucket
            FROM touched_buckets
            WHERE kind = '{kind}' AND bucket >= %(start)s AND bucket < %(end)s
        ) t
        CROSS JOIN LATERAL (
            SELECT {", ".join(f"{how} AS {column}" for column, how in columns.items())}
            FROM {source} r
            WHERE r.device_id = t.device_id AND r.series = t.series
              AND r.{time} >= t.bucket AND r.{time} < t.bucket + INTERVAL '{length}'
              AND r.{time} >= %(start)s AND r.{time} < %(end)s
        ) a
        WHERE a.n > 0
        ORDER BY 1, 2, 3
        ON CONFLICT (device_id, series, bucket) DO UPDATE SET
            {", ".join(f"{column} = excluded.{column}" for column in columns)}"""  # noqa: S608
    return sql.SQL(text)  # from the tables above alone, never from what a peer sent


_COMPUTE = {kind: [_statement(kind, level) for level in range(len(LEVELS))] for kind in MEASURES}


class Rollups:
    """Keeps the rollups of a database.

    Attributes:
        behind: Segments stored and not in the rollups yet, when last looked.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self.behind = 0

    async def step(self) -> int:
        """Bring some of what is new into the rollups, in one transaction.

        Returns:
            How many segments; 0 when there is nothing new.

        Raises:
            psycopg.Error: The database failed; nothing was changed.
        """
        newest = await self._rows(READING_SQL["newest_segments"])
        places = dict(await self._rows(SQL["rollup_places"]))
        new = {
            worker: (places.get(worker, 1), last)
            for worker, last, _ in newest
            if last >= places.get(worker, 1)
        }
        self.behind = sum(last + 1 - first for first, last in new.values())
        done = 0
        for worker, (first, last) in new.items():
            done += await self._follow(worker, first, last)
        self.behind -= done
        return done

    async def _follow(self, worker: int, first: int, newest: int) -> int:
        found = await self._rows(
            SQL["segments_to_roll_up"],
            {
                "worker_id": worker,
                "first": first,
                "at_most": min(SEGMENTS_AT_ONCE, newest + 1 - first),
            },
        )
        taken, readings = 0, 0
        for _, count, _ in found:
            if taken and readings + count > READINGS_AT_ONCE:
                break
            taken += 1
            readings += count
        spans = spans_of(days for _, _, days in found[:taken])
        last: int = found[taken - 1][0]
        terms = {"worker_id": worker, "first": first, "last": last}
        async with self._connection.transaction():
            bounds = dict(await self._rows(SQL["history_bounds"]))
            if spans:
                await self._connection.execute(SQL["create_touched"])
            for span in spans:
                for kind in MEASURES:
                    await self._compute(kind, terms, _within(span, kind, bounds))
            await self._connection.execute(
                SQL["save_rollup_place"], {"worker_id": worker, "next_number": last + 1}
            )
        return last + 1 - first

    async def _compute(self, kind: Kind, terms: Mapping[str, object], span: Span) -> None:
        start, end = span
        if start >= end:
            return
        where = {**terms, "start": start, "end": end}
        cursor = await self._connection.execute(SQL[f"touch_{kind}"], where)
        if not cursor.rowcount:
            return
        for statement in _COMPUTE[kind]:
            await self._connection.execute(statement, where)

    async def _rows(
        self, query: Any, values: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(query, values)
        return await cursor.fetchall()


def _within(span: Span, kind: Kind, bounds: Mapping[str, datetime]) -> Span:
    """Leave out what lies before what has aged out: its buckets are final."""
    sources = (f"{kind}_readings", *rollup_tables(kind))
    floor = max((bounds[what] for what in sources if what in bounds), default=None)
    start, end = span
    return (start if floor is None else max(start, floor.astimezone(UTC)), end)
