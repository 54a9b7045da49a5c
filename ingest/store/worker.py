"""A worker: one writer's name, its database connection, and its segments without gaps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from device_profiles.native import moment_of
from ingest.errors import DatabaseUnavailable, WorkerTaken
from ingest.segments import Packed
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "sql" / "writing.sql")

LOCK_ATTEMPTS = 50
"""A backend whose client was killed lets go of its lock within moments; 25 s are plenty."""

T = TypeVar("T")


@contextlib.contextmanager
def declared() -> Iterator[None]:
    """Turn what a broken database raises into the declared error.

    Raises:
        DatabaseUnavailable: Gone, restarting, out of connections or memory, disk full: all of
            these may pass.
    """
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as fault:
        said = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise DatabaseUnavailable(f"the database cannot be used: {said}") from fault


class Worker:
    """One worker's pen.

    A commit whose answer was lost is neither repeated nor given up: after reconnecting, the
    hash of the last segment says whether it happened.

    Attributes:
        id: The worker's number; 0 before `open`.
        next_number: Of the segment to be written next.
    """

    def __init__(self, database_url: str, name: str) -> None:
        self._url = database_url
        self._name = name
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._last_sha256: bytes | None = None
        self.id = 0
        self.next_number = 1

    async def open(self) -> psycopg.AsyncConnection[Any]:
        """Connect, take the name and find the place to go on; nothing if that is done.

        Returns:
            The open connection, in autocommit.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.
            WorkerTaken: Another process holds the name.
        """
        if self._connection is not None and not self._connection.closed:
            return self._connection
        with declared():
            connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                connect_timeout=10,
                application_name=f"smartsite {self._name}",
            )
            try:
                (worker_id,) = await _one(connection, "claim_worker", {"name": self._name})
                for attempt in range(LOCK_ATTEMPTS):
                    (locked,) = await _one(connection, "lock_worker", {"worker_id": worker_id})
                    if locked:
                        break
                    await asyncio.sleep(0.02 * (attempt + 1))
                else:
                    raise WorkerTaken(
                        f"another process writes as {self._name!r}: give each its own name"
                        " ([ingest] worker)"
                    )
                last = await _one(connection, "last_segment", {"worker_id": worker_id})
            except BaseException:
                await connection.close()
                raise
        self.id = worker_id
        self.next_number = last[0] + 1 if last else 1
        self._last_sha256 = last[1] if last else None
        self._connection = connection
        return connection

    async def close(self) -> None:
        """Let the connection and the name go."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def commit(
        self,
        segment: Packed,
        received_us: list[int],
        rows: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]],
        *,
        readings: int,
        redelivered: int = 0,
    ) -> T | None:
        """Write the next segment and what goes with it, in one transaction.

        Args:
            segment: The packed messages.
            received_us: When each came, microseconds since 1970 UTC.
            rows: Writes what goes with it; run inside the transaction.
            readings: Units of the balance read from the messages.
            redelivered: Messages the broker marked as sent before.

        Returns:
            What `rows` returned; None if this very segment turned out to be committed already.

        Raises:
            DatabaseUnavailable: It is not known to be written; call again with the same segment.
            WorkerTaken: Another process holds the name.
            psycopg.errors.UniqueViolation: `rows` met a row that is there; nothing was written.
        """
        connection = await self.open()
        # Times of receipt are in it: no other flush has the hash of the last one.
        if self._last_sha256 == segment.sha256:
            return None
        try:
            with declared():
                async with connection.transaction():
                    result = await rows(connection)
                    await connection.execute(
                        SQL["put_segment"],
                        {
                            "worker_id": self.id,
                            "number": self.next_number,
                            "received_from": moment_of(min(received_us)),
                            "received_to": moment_of(max(received_us)),
                            "messages": len(received_us),
                            "readings": readings,
                            "redelivered": redelivered,
                            "raw_bytes": segment.raw_bytes,
                            "sha256": segment.sha256,
                            "body": segment.body,
                        },
                    )
                    await connection.execute(SQL["notify_segment"], {"worker_id": self.id})
        except psycopg.errors.UniqueViolation:
            raise
        except BaseException:
            # Cancelled or broken in mid-sentence: only a fresh connection is known to be clean.
            await self.close()
            raise
        self.next_number += 1
        self._last_sha256 = segment.sha256
        return result


async def _one(
    connection: psycopg.AsyncConnection[Any], name: str, values: Mapping[str, Any]
) -> Any:
    cursor = await connection.execute(SQL[name], values)
    return await cursor.fetchone()
