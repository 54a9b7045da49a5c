"""Writes flushes of telemetry: the raw segment and its rows in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from device_profiles.errors import Reason
from device_profiles.native import moment_of
from device_profiles.vocabulary import QUANTITIES, Kind
from ingest.blocks import Met, columns_of, table_of
from ingest.pipeline import Arrivals, Flush, Quarantined, Scope, hour_of, what_became_of
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


@dataclass(slots=True)
class Outcome:
    """What became of one flush.

    Attributes:
        stored: Readings now stored by it, by kind.
        duplicates: Readings that were there already, equal.
        merged: Readings whose further quantities were merged into a stored row.
        quarantined: Units of the balance put aside, conflicts among them.
        put_aside: Rows of the quarantine, by scope and reason.
        met_stored: Some met readings that were stored before this flush.
        already_written: The flush had been committed before; nothing was written again.
    """

    stored: Counter[Kind] = field(default_factory=Counter)
    duplicates: int = 0
    merged: int = 0
    quarantined: int = 0
    put_aside: Counter[tuple[Scope, Reason]] = field(default_factory=Counter)
    met_stored: bool = False
    already_written: bool = False


class TelemetryWriter:
    """Writes flushes of telemetry under one worker's name."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._careful = False

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
        async def rows(connection: psycopg.AsyncConnection[Any]) -> Outcome:
            outcome = Outcome(
                duplicates=flush.duplicates, merged=len(flush.merged), quarantined=flush.refused
            )
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
            await self._write_rest(connection, flush, quarantined)
            await add_exceptions(connection, exceptions)
            return outcome

        outcome = await self._worker.commit(
            flush.segment,
            flush.arrivals.received_us,
            rows,
            readings=flush.readings,
            redelivered=flush.redelivered,
        )
        return outcome or Outcome(already_written=True)

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
                    )
                )
            what = what_became_of(met)
            exceptions[hour_of(flush.received_us(met.index)), met.device_id, what] += 1
            match what:
                case "merged":
                    outcome.merged += 1
                case "duplicate":
                    outcome.duplicates += 1
                case _:
                    outcome.quarantined += 1

    async def _write_rest(
        self,
        connection: psycopg.AsyncConnection[Any],
        flush: Flush,
        quarantined: list[Quarantined],
    ) -> None:
        where = {"worker_id": self._worker.id, "segment": self._worker.next_number}
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
                "topic": _storable(arrivals.topics[entry.index].decode("utf-8", "replace")),
                "device_id": entry.device_id,
                "scope": entry.scope,
                "reason": entry.reason,
                "detail": _storable(entry.detail),
                "field": entry.field and _storable(entry.field),
                "value": entry.value and _storable(entry.value),
                "payload_bytes": facts[entry.index][0],
                "payload_sha256": facts[entry.index][1],
            }
            for entry in quarantined
        ],
    )


def _storable(text: str) -> str:
    """Put marks in the place of what PostgreSQL cannot keep: NUL and lone surrogates.

    What a stranger sent must not stop the transaction that puts it aside.
    """
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
