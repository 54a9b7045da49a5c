"""Writes flushes of telemetry: the raw segment and its rows in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from device_profiles.errors import Reason
from device_profiles.native import moment_of
from device_profiles.vocabulary import QUANTITIES, Kind
from ingest.blocks import Met, columns_of, table_of
from ingest.numbering import SeqBook, Standing
from ingest.pipeline import Arrivals, Flush, Quarantined, Scope, hour_of, what_became_of
from ingest.store.clocks import last_numbered
from ingest.store.days import days_of
from ingest.store.merging import merge
from ingest.store.queries import load_queries
from ingest.store.worker import Worker

SQL = load_queries(Path(__file__).parent / "sql" / "writing.sql")

_COPY = {
    kind: sql.SQL(
        f"COPY {table_of(kind)} ({', '.join(columns_of(kind))}) FROM STDIN (FORMAT BINARY)"
    )
    for kind in QUANTITIES
}


NUMBERS_KEPT = timedelta(days=7)
"""How far back a device's last number is looked for by a process that has not heard it yet."""


@dataclass(slots=True)
class Outcome:
    """What became of one flush.

    Attributes:
        stored: Readings now stored by it, by kind.
        duplicates: Readings that were there already, equal.
        merged: Readings whose further quantities were merged into a stored row.
        conflicts: Readings that did nothing but contradict an earlier one.
        quarantined: Units of the balance put aside.
        put_aside: Rows of the quarantine, by scope and reason.
        met_stored: Some met readings that were stored before this flush.
        repeated: How many of `duplicates` each message holds, by its index.
        already_written: The flush had been committed before; nothing was written again.
    """

    stored: Counter[Kind] = field(default_factory=Counter)
    duplicates: int = 0
    merged: int = 0
    conflicts: int = 0
    quarantined: int = 0
    put_aside: Counter[tuple[Scope, Reason]] = field(default_factory=Counter)
    met_stored: bool = False
    repeated: Counter[int] = field(default_factory=Counter)
    already_written: bool = False


class TelemetryWriter:
    """Writes flushes of telemetry under one worker's name."""

    def __init__(self, worker: Worker, *, hears_all: bool = True) -> None:
        """Nothing is written yet.

        Args:
            worker: Whose connection is used.
            hears_all: Whether all that a device says comes to this worker. Where workers share
                it, each hears gaps that are none: then nobody looks for gaps in the numbering.
        """
        self._worker = worker
        self._hears_all = hears_all
        self._careful = False
        self._seqs = SeqBook()

    async def write(self, flush: Flush) -> Outcome:
        """Write one flush, wholly or not at all.

        Args:
            flush: What to write.

        Returns:
            What became of it. When this returns, it is committed.

        Raises:
            DatabaseUnavailable: It is not known to be written; call again with the same flush.
            WorkerTaken: Another process holds the worker's name.
        """
        if not self._careful:
            try:
                return await self._write(flush)
            except psycopg.errors.UniqueViolation:
                self._careful = True
        outcome = await self._write(flush)
        # Redelivery comes in bursts: stay careful until a flush held none.
        self._careful = outcome.met_stored
        return outcome

    async def _write(self, flush: Flush) -> Outcome:
        page = self._seqs.open(flush.heard) if self._hears_all else None

        async def rows(
            connection: psycopg.AsyncConnection[Any],
        ) -> tuple[Outcome, Standing | None]:
            outcome = Outcome(
                duplicates=flush.duplicates,
                merged=len(flush.merged),
                conflicts=flush.conflicts,
                quarantined=flush.refused,
                repeated=flush.repeated.copy(),
            )
            # Asked before the rows of this flush are there.
            unheard = page.unheard if page is not None else []
            since = moment_of(min(flush.arrivals.received_us)) - NUMBERS_KEPT
            last = await last_numbered(connection, unheard, since) if unheard else {}
            quarantined = list(flush.quarantined)
            exceptions = Counter(flush.exceptions)
            for columns in flush.blocks:
                copy_bytes = columns.encode(self._worker.id, self._worker.next_number)
                outcome.stored[columns.kind] += len(columns)
                if self._careful:
                    met = await merge(connection, columns.kind, copy_bytes)
                    self._sort_out(flush, columns.kind, met, outcome, quarantined, exceptions)
                    outcome.met_stored |= bool(met)
                else:
                    async with connection.cursor().copy(_COPY[columns.kind]) as copy:
                        await copy.write(copy_bytes)
            outcome.put_aside = Counter((entry.scope, entry.reason) for entry in quarantined)
            where = {"worker_id": self._worker.id, "segment": self._worker.next_number}
            await write_rest(connection, where, flush, quarantined)
            standing = None
            if page is not None:
                gaps, standing = self._seqs.count(page, last, outcome.repeated)
                exceptions.update(gaps)
            await add_exceptions(connection, exceptions)
            return outcome, standing

        written = await self._worker.commit(
            flush.segment,
            flush.arrivals.received_us,
            rows,
            readings=flush.readings,
            redelivered=flush.redelivered,
            observed_days=days_of(columns.observed_us for columns in flush.blocks),
        )
        if written is None:
            if page is not None:
                self._seqs.close(page, self._seqs.count(page, {}, flush.repeated)[1])
            return Outcome(already_written=True)
        outcome, standing = written
        if page is not None and standing is not None:
            self._seqs.close(page, standing)
        return outcome

    def _sort_out(
        self,
        flush: Flush,
        kind: Kind,
        rows: list[Met],
        outcome: Outcome,
        quarantined: list[Quarantined],
        exceptions: Counter[tuple[int, int, str]],
    ) -> None:
        outcome.stored[kind] -= len(rows)
        for met in rows:
            units = 0 if met.merged else 1
            for name, value in met.conflicts.items():
                quarantined.append(
                    Quarantined(
                        met.index,
                        Scope.VALUE,
                        Reason.CONFLICT,
                        f"{flush.labels[met.device_id]}: {name} {value} differs from what is"
                        " stored for this time; the first stays",
                        met.device_id,
                        name,
                        value,
                        units,
                    )
                )
                units = 0
            what = what_became_of(met)
            exceptions[hour_of(flush.received_us(met.index)), met.device_id, what] += 1
            match what:
                case "merged":
                    outcome.merged += 1
                case "duplicate":
                    outcome.duplicates += 1
                    outcome.repeated[met.index] += 1
                case _:
                    outcome.conflicts += 1


async def write_rest(
    connection: psycopg.AsyncConnection[Any],
    where: dict[str, int],
    flush: Flush,
    quarantined: Sequence[Quarantined],
) -> None:
    """Write what goes with the readings of a flush: quarantine, parts, statuses, events.

    Args:
        connection: In a transaction.
        where: `worker_id` and `segment` of the segment that holds the messages.
        flush: Whose messages they are.
        quarantined: What could not be read, or contradicted what is stored.
    """
    async with connection.cursor() as cursor:
        await put_quarantined(cursor, where, flush.arrivals, quarantined)
        if flush.merged:
            await cursor.executemany(
                SQL["put_part"],
                [
                    where
                    | {
                        "device_id": met.device_id,
                        "series": met.series,
                        "observed_at": moment_of(met.observed_us),
                        "index": met.index,
                    }
                    for met in flush.merged
                ],
            )
        if flush.statuses:
            await cursor.executemany(
                SQL["put_status"],
                [
                    where
                    | {
                        "device_id": device_id,
                        "index": index,
                        "received_at": moment_of(flush.received_us(index)),
                        "online": status.online,
                        "detail": status.detail,
                    }
                    for device_id, index, status in flush.statuses
                ],
            )
        if flush.events:
            await cursor.executemany(
                SQL["put_event"],
                [
                    where
                    | {
                        "device_id": device_id,
                        "index": index,
                        "received_at": moment_of(flush.received_us(index)),
                        "body": body.decode(),
                    }
                    for device_id, index, body in flush.events
                ],
            )


async def add_exceptions(
    connection: psycopg.AsyncConnection[Any], exceptions: Counter[tuple[int, int, str]]
) -> None:
    """Add to the counted exceptions.

    Args:
        connection: In a transaction.
        exceptions: Counts by (hour in microseconds, device number, what).
    """
    if not exceptions:
        return
    # Sorted, so that two workers never wait for each other's rows in a circle.
    entries = sorted(exceptions.items())
    await connection.execute(
        SQL["add_exceptions"],
        {
            "hours": [moment_of(hour) for (hour, _, _), _ in entries],
            "device_ids": [device_id for (_, device_id, _), _ in entries],
            "whats": [what for (_, _, what), _ in entries],
            "counts": [count for _, count in entries],
        },
    )


async def put_quarantined(
    cursor: psycopg.AsyncCursor[Any],
    where: dict[str, int],
    arrivals: Arrivals,
    quarantined: Sequence[Quarantined],
) -> None:
    """Write quarantine rows.

    Args:
        cursor: In a transaction.
        where: `worker_id` and `segment` of the segment that holds the messages.
        arrivals: The messages.
        quarantined: What could not be read of them.
    """
    if not quarantined:
        return
    facts = {entry.index: arrivals.payload_facts(entry.index) for entry in quarantined}
    await cursor.executemany(
        SQL["put_quarantined"],
        [
            where
            | {
                "received_at": moment_of(arrivals.received_us[entry.index]),
                "index": entry.index,
                "topic": storable(arrivals.topics[entry.index].decode("utf-8", "replace")),
                "device_id": entry.device_id,
                "scope": entry.scope,
                "reason": entry.reason,
                "detail": storable(entry.detail),
                "field": entry.field and storable(entry.field),
                "value": entry.value and storable(entry.value),
                "units": entry.units,
                "payload_bytes": facts[entry.index][0],
                "payload_sha256": facts[entry.index][1],
            }
            for entry in quarantined
        ],
    )


def storable(text: str) -> str:
    """Put marks in the place of what PostgreSQL cannot keep: NUL and lone surrogates.

    What a stranger sent must not stop the transaction that puts it aside.

    Args:
        text: As a stranger sent it.

    Returns:
        The same, or with marks.
    """
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
