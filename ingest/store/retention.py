"""What ages out, and how: every kind after its own number of days, in small bounded steps.

- **Readings and rollups**: on TimescaleDB whole chunks are dropped, on plain PostgreSQL rows go
  device by device through their key. What goes is counted as `aged_out` by device and hour of
  receipt, so that the balance still adds up; and the day up to which a table has aged is written
  down first, so that no rollup is ever computed again from readings that are half gone.
- **Raw segments** lose their bytes; number, times, counts and hash stay. Those that hold what is
  still in quarantine keep them longer.
- **Frames** go row and file, but never one that waits to be looked at or that is evidence of a
  violation. A file goes when nothing refers to its hash any more; file first, row after, so that
  a kill in between leaves a row that is tried again and never a file nobody knows of. A frame
  that arrives with the same hash at that moment is safe: `FrameStore.put` freshens a file that
  is there, and `FrameStore.remove` leaves fresh files alone, one lock between them.
- **Violations, deliveries, coverage, the quarantine's rows and what was counted** never go.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, NamedTuple, TypeAlias

import psycopg
from psycopg import sql

from device_profiles.vocabulary import Kind, Series
from ingest.frame_store import FrameStore
from ingest.store.days import EARLIEST
from ingest.store.hypertables import TIMESCALE_SQL, Server
from ingest.store.queries import load_queries
from ingest.store.rollups import LEVELS, MEASURES

SQL = load_queries(Path(__file__).parent / "sql" / "upkeep.sql")

BATCH_ROWS = 10_000
BATCH_FRAMES = 200
BATCH_SEGMENTS = 200

FRESH = timedelta(hours=1)
"""A picture's row is committed within minutes of its file, or its file is freshened again."""

PATIENCE = timedelta(days=1)
"""Readings wait for the rollups when those are further behind than this."""

PICTURES = "quarantined_pictures"
"""Name of the bound up to which the pictures of the quarantine have aged out."""

Remove: TypeAlias = Callable[[int, list[tuple[datetime, bytes]]], Awaitable[None]]
"""Removes pictures of a camera, by its number: their times and hashes."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days what is kept; 0: for ever. See `smartsite.settings.RetentionSettings`."""

    dust_days: int = 0
    crane_days: int = 0
    frames_days: int = 0
    detections_days: int = 0
    statuses_days: int = 0
    segments_days: int = 0
    quarantine_days: int = 0
    rollups_1min_days: int = 0
    rollups_1h_days: int = 0
    rollups_1d_days: int = 0


class _Aging(NamedTuple):
    """A table that ages by device.

    Attributes:
        table: Its name.
        time: The column its age goes by.
        series: Whether its key has the series.
        chunked: Whether it is a hypertable, where TimescaleDB is.
        counted: Whether its rows are of the balance.
        but: What of it stays, as SQL over `t`.
    """

    table: str
    time: str = "observed_at"
    series: bool = True
    chunked: bool = True
    counted: bool = False
    but: str = "false"

    @property
    def key(self) -> str:
        """The device of a row, and its series."""
        series = " AND t.series = k.series" if self.series else ""
        return f"t.device_id = d.id{series}"


_READINGS = {kind: _Aging(f"{kind}_readings", counted=True) for kind in MEASURES}
_PARTS = _Aging("reading_parts", chunked=False)
_ROLLUPS = {
    level: [_Aging(f"{kind}_{level}", "bucket", chunked=level != "1d") for kind in MEASURES]
    for level, _ in LEVELS
}
_DETECTIONS = _Aging("detections", series=False)
_STATUSES = _Aging(
    "device_status",
    "received_at",
    series=False,
    chunked=False,
    # What a device said last is still so, however long ago.
    but="t.received_at = (SELECT max(n.received_at) FROM device_status n"
    " WHERE n.device_id = t.device_id)",
)
_EVENTS = _Aging("device_events", "received_at", series=False, chunked=False)
_REPORTED = _Aging(
    "reported_events",
    series=False,
    chunked=False,
    but="t.payload_sha256 IS NOT NULL",  # its message goes first, by the days of frames
)


def owners(aging: _Aging) -> sql.SQL:
    """Write the question which devices and series have rows to age out.

    Args:
        aging: Of which table.

    Returns:
        A statement; named values `series`, `before`.
    """
    text = f"""
        SELECT d.id, k.series FROM devices d
        CROSS JOIN unnest(%(series)s::smallint[]) AS k (series)
        CROSS JOIN LATERAL (
            SELECT FROM {aging.table} t
            WHERE {aging.key} AND t.{aging.time} < %(before)s AND NOT ({aging.but})
            ORDER BY t.{aging.time} LIMIT 1
        ) old
        ORDER BY 1, 2"""  # noqa: S608
    return sql.SQL(text)  # from the tables above alone


def removal(aging: _Aging) -> sql.SQL:
    """Write the statement that ages out a batch of one device's oldest rows. Plain tables only.

    Args:
        aging: Of which table.

    Returns:
        A statement; named values `device_id`, `series`, `before`, `at_most`.
    """
    series = " AND t.series = %(series)s" if aging.series else ""
    columns, counted = ("device_id, received_at", _COUNTED) if aging.counted else ("device_id", "")
    text = f"""
        WITH gone AS (
            DELETE FROM {aging.table} WHERE ctid = ANY(ARRAY(
                SELECT t.ctid FROM {aging.table} t
                WHERE t.device_id = %(device_id)s{series} AND t.{aging.time} < %(before)s
                  AND NOT ({aging.but})
                ORDER BY t.{aging.time} LIMIT %(at_most)s))
            RETURNING {columns}
        ){counted}
        SELECT count(*) FROM gone"""  # noqa: S608
    return sql.SQL(text)


_COUNTED = """, counted AS (
            INSERT INTO ingest_exceptions (hour, device_id, what, count)
            SELECT date_trunc('hour', received_at, 'UTC'), device_id, 'aged_out', count(*)
            FROM gone GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT (hour, device_id, what) DO UPDATE
                SET count = ingest_exceptions.count + excluded.count
        )"""
"""What goes is counted by device and hour of receipt, as the balance is."""


def _day(moment: datetime) -> datetime:
    """Start of the UTC day: what ages out is whole days."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


class Aging:
    """One turn of aging out; made anew for each.

    Args:
        connection: In autocommit.
        server: What the database can do.
        terms: How long what is kept.
        frames: The pictures.
        now: The present time; aware.
        enough: Asked between steps: whether to leave the rest to the next turn.

    Attributes:
        gone: How much has aged out, by what.
        said: What had to wait and why.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        server: Server,
        terms: Retention,
        frames: FrameStore,
        now: datetime,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        self._connection = connection
        self._server = server
        self._terms = terms
        self._frames = frames
        self._now = now
        self._enough = enough
        self.gone: Counter[str] = Counter()
        self.said: list[str] = []

    async def run(self) -> bool:
        """Age out what is old.

        Returns:
            Whether that was all; False: the turn was ended by `enough`.

        Raises:
            psycopg.Error: The database failed; what was done so far is whole.
            OSError: The frame store cannot be written.
        """
        terms = self._terms
        waiting = await self._value(SQL["rollups_wait_since"])
        if waiting is not None and self._now - waiting > PATIENCE:
            self.said.append(f"readings stay: the rollups have not followed since {waiting}")
        else:
            for kind, days in ((Kind.DUST, terms.dust_days), (Kind.CRANE, terms.crane_days)):
                await self._age_table(_READINGS[kind], days)
            if terms.dust_days and terms.crane_days:
                await self._age_table(_PARTS, max(terms.dust_days, terms.crane_days))
        for level, days in (
            ("1min", terms.rollups_1min_days),
            ("1h", terms.rollups_1h_days),
            ("1d", terms.rollups_1d_days),
        ):
            for rollup in _ROLLUPS[level]:
                await self._age_table(rollup, days)
        await self._age_table(_DETECTIONS, terms.detections_days)
        await self._age_table(_STATUSES, terms.statuses_days)
        await self._age_table(_EVENTS, terms.statuses_days)
        await self._age_segments()
        if self._frames.there:
            await self._age_frames()
            await self._age_messages()
            await self._age_pictures()
        await self._age_table(_REPORTED, terms.detections_days)
        return not self._enough()

    async def _age_table(self, aging: _Aging, days: int) -> None:
        if not days or self._enough():
            return
        before = _day(self._now - timedelta(days=days))
        # First the bound, then the rows: what is half gone is never computed from.
        await self._set_bound(aging.table, before)
        if aging.chunked and self._server.timescale:
            await self._drop_chunks(aging, before)
            return
        series = [series.value for series in Series] if aging.series else [0]
        owned = await self._rows(owners(aging), {"series": series, "before": before})
        statement = removal(aging)
        for device_id, one in owned:
            values = {
                "device_id": device_id,
                "series": one,
                "before": before,
                "at_most": BATCH_ROWS,
            }
            while not self._enough():
                count = await self._value(statement, values)
                self._count(aging.table, count)
                if count < BATCH_ROWS:
                    break

    async def _drop_chunks(self, aging: _Aging, before: datetime) -> None:
        chunks = await self._rows(
            TIMESCALE_SQL["chunks_before"], {"table": aging.table, "before": before}
        )
        for name, start, end in chunks:
            if self._enough():
                return
            async with self._connection.transaction():
                span = {"table": aging.table, "start": start, "end": end}
                if aging.counted:
                    # Late readings may be on their way into it: what is counted is what goes.
                    await self._connection.execute(
                        sql.SQL("LOCK TABLE {} IN SHARE MODE").format(
                            sql.Identifier(*_unquoted(name))
                        )
                    )
                    gone = await self._value(_counting(aging), span)
                else:
                    gone = 1
                await self._connection.execute(TIMESCALE_SQL["drop_chunk"], span)
            self._count(aging.table if aging.counted else f"{aging.table}_chunks", gone)

    async def _age_segments(self) -> None:
        terms = self._terms
        if not terms.segments_days:
            return
        before = self._now - timedelta(days=terms.segments_days)
        kept = self._now - timedelta(days=max(terms.segments_days, terms.quarantine_days))
        values = {
            "before": before,
            # 0 days of quarantine: what is in it stays for ever.
            "quarantined_before": kept if terms.quarantine_days else EARLIEST,
            "at_most": BATCH_SEGMENTS,
        }
        while not self._enough():
            count = await self._value(SQL["age_out_segments"], values)
            self._count("segments", count)
            if count < BATCH_SEGMENTS:
                return

    async def _age_frames(self) -> None:
        await self._age_batches(SQL["frames_to_age_out"], self._remove_frames)

    async def _age_messages(self) -> None:
        """Remove the files of AI boxes' messages; what they said stays as long as detections."""
        await self._age_batches(SQL["messages_to_age_out"], self._remove_messages)

    async def _age_batches(self, query: LiteralString, remove: Remove) -> None:
        """Remove what a query finds of each camera, batch by batch, the oldest first."""
        days = self._terms.frames_days
        if not days:
            return
        before = self._now - timedelta(days=days)
        for (device_id,) in await self._rows(SQL["cameras"]):
            after = EARLIEST
            while not self._enough():
                batch = await self._rows(
                    query,
                    {
                        "device_id": device_id,
                        "before": before,
                        "newer_than": after,
                        "at_most": BATCH_FRAMES,
                    },
                )
                if batch:
                    after = batch[-1][0]
                    await remove(device_id, batch)
                if len(batch) < BATCH_FRAMES:
                    break

    async def _remove_messages(self, device_id: int, batch: list[tuple[datetime, bytes]]) -> None:
        async with self._connection.transaction():
            fresh = await self._remove_pictures(
                {sha256 for _, sha256 in batch},
                device_id=device_id,
                observed=[observed_at for observed_at, _ in batch],
            )
            gone = [sha256 for _, sha256 in batch if sha256 not in fresh]
            cursor = await self._connection.execute(
                SQL["forget_messages"], {"device_id": device_id, "hashes": gone}
            )
        self._count("reported_messages", cursor.rowcount)

    async def _remove_frames(self, device_id: int, batch: list[tuple[datetime, bytes]]) -> None:
        async with self._connection.transaction():
            fresh = await self._remove_pictures(
                {sha256 for _, sha256 in batch},
                device_id=device_id,
                observed=[observed_at for observed_at, _ in batch],
            )
            going = [observed_at for observed_at, sha256 in batch if sha256 not in fresh]
            cursor = await self._connection.execute(
                SQL["remove_frames"], {"device_id": device_id, "observed": going}
            )
        self._count("frames", cursor.rowcount)

    async def _age_pictures(self) -> None:
        """Remove the files of pictures that were put aside long ago; their rows stay."""
        days = self._terms.quarantine_days
        if not days:
            return
        before = self._now - timedelta(days=days)
        bounds: Mapping[str, datetime] = dict(await self._rows(SQL["history_bounds"]))
        start, after = bounds.get(PICTURES, EARLIEST), 0
        while not self._enough():
            batch = await self._rows(
                SQL["pictures_of_quarantine"],
                {"start": start, "after_id": after, "end": before, "at_most": BATCH_FRAMES},
            )
            await self._remove_pictures({sha256 for _, _, sha256 in batch})
            if len(batch) < BATCH_FRAMES:
                await self._set_bound(PICTURES, before)
                return
            after, start, _ = batch[-1]
            await self._set_bound(PICTURES, start)

    async def _remove_pictures(
        self, hashes: set[bytes], *, device_id: int = 0, observed: list[datetime] | None = None
    ) -> set[bytes]:
        """Remove the files nothing refers to but what is about to go.

        Args:
            hashes: Of the pictures.
            device_id: A camera, some of whose frames are about to go.
            observed: Their times.

        Returns:
            Those somebody has just put there again: what refers to them has to wait.
        """
        if not hashes:
            return set()
        days = self._terms.quarantine_days
        wanted = await self._rows(
            SQL["pictures_wanted"],
            {
                "hashes": sorted(hashes),
                "device_id": device_id,
                "observed": observed or [],
                "quarantined_before": self._now - timedelta(days=days) if days else EARLIEST,
            },
        )
        idle = hashes - {bytes(sha256) for (sha256,) in wanted}
        since = (self._now - FRESH).timestamp()
        return await asyncio.to_thread(self._unlink, idle, since)

    def _unlink(self, hashes: set[bytes], since: float) -> set[bytes]:
        fresh = set()
        for sha256 in sorted(hashes):
            if self._frames.remove(sha256, since):
                self._count("pictures", 1)
            elif self._frames.path(sha256).exists():
                fresh.add(sha256)
        return fresh

    async def _set_bound(self, what: str, since: datetime) -> None:
        await self._connection.execute(SQL["set_history_bound"], {"what": what, "since": since})

    def _count(self, what: str, count: int) -> None:
        if count:
            self.gone[what] += count

    async def _rows(
        self, query: Any, values: Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(query, values)
        return await cursor.fetchall()

    async def _value(self, query: Any, values: Mapping[str, object] | None = None) -> Any:
        (row,) = await self._rows(query, values)
        return row[0]


def _counting(aging: _Aging) -> sql.SQL:
    """Write the statement that counts what goes with a chunk."""
    text = f"""
        WITH gone AS MATERIALIZED (
            SELECT device_id, received_at FROM {aging.table}
            WHERE {aging.time} >= %(start)s AND {aging.time} < %(end)s
        ){_COUNTED}
        SELECT count(*) FROM gone"""  # noqa: S608
    return sql.SQL(text)


def _unquoted(name: str) -> tuple[str, ...]:
    """A chunk's schema and table; TimescaleDB's names need no quotes."""
    return tuple(part.strip('"') for part in name.split("."))
