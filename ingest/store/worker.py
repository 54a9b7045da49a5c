"""A worker: one writer's name, its database connection, and its segments without gaps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from device_profiles.native import moment_of
from ingest.errors import DatabaseUnavailable, WorkerTaken
from ingest.segments import Packed
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "sql" / "writing.sql")

REFUSED = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
)
"""What PostgreSQL raises for what a statement holds: it would come again for ever."""

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
    except REFUSED:
        raise
    except (psycopg.OperationalError, psycopg.InterfaceError) as fault:
        said = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise DatabaseUnavailable(f"the database cannot be used: {said}") from fault


async def connect(database_url: str, application: str) -> psycopg.AsyncConnection[Any]:
    """Connect for long work: what hangs is found out, on either side.

    Args:
        database_url: A libpq connection string.
        application: How the server's list of sessions names us.

    Returns:
        A connection in autocommit.

    Raises:
        psycopg.OperationalError: PostgreSQL cannot be reached.
    """
    connection = await psycopg.AsyncConnection.connect(
        database_url,
        autocommit=True,
        connect_timeout=10,
        application_name=application,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,
        options="-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
        # Late data are welcome in TimescaleDB's columns, however many batches they open.
        " -c timescaledb.max_tuples_decompressed_per_dml_transaction=0"
        " -c statement_timeout=120000",
    )
    # A session whose client was killed lets go of its locks, even where it waits for one itself.
    # Servers on platforms that cannot tell refuse it.
    with contextlib.suppress(psycopg.errors.InvalidParameterValue):
        await connection.execute("SET client_connection_check_interval = '2s'")
    return connection


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
        self._backend_pid = 0
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
            connection = await connect(self._url, f"smartsite {self._name}")
            try:
                worker_id = await self._take_name(connection)
                last = await _one(connection, "last_segment", {"worker_id": worker_id})
            except BaseException:
                await connection.close()
                raise
        self.id = worker_id
        self.next_number = last[0] + 1 if last else 1
        self._last_sha256 = last[1] if last else None
        self._connection = connection
        self._backend_pid = connection.info.backend_pid
        return connection

    async def _take_name(self, connection: psycopg.AsyncConnection[Any]) -> int:
        """Find or make the worker's number, and lock it for this session."""
        found = await _one(connection, "find_worker", {"name": self._name})
        if found is None:
            await connection.execute(SQL["add_worker"], {"name": self._name})
            found = await _one(connection, "find_worker", {"name": self._name})
        worker_id: int = found[0]
        if self._backend_pid:
            # After a network failure the server may hold our last session, and its lock, for long.
            await connection.execute(
                SQL["end_own_ghost"],
                {"pid": self._backend_pid, "application": f"smartsite {self._name}"},
            )
        for attempt in range(LOCK_ATTEMPTS):
            (locked,) = await _one(connection, "lock_worker", {"worker_id": worker_id})
            if locked:
                return worker_id
            await asyncio.sleep(0.02 * (attempt + 1))
        fault = (
            f"another process writes as {self._name!r}: give each its own name ([ingest] worker)"
        )
        raise DatabaseUnavailable(fault) if self.id else WorkerTaken(fault)

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
        readings: int | Callable[[T], int],
        redelivered: int = 0,
        once: bool = True,
        observed_days: Sequence[date] | None = None,
    ) -> T | None:
        """Write the next segment and what goes with it, in one transaction.

        Args:
            segment: The packed messages.
            received_us: When each came, microseconds since 1970 UTC.
            rows: Writes what goes with it; run inside the transaction.
            readings: Units of the balance read from the messages, or how to tell them from what
                `rows` returned.
            redelivered: Messages the broker marked as sent before.
            once: Whether the same messages again are this very segment; false where they may
                come back and `rows` knows by itself what was written.
            observed_days: UTC days of the rows' observed times (`ingest.store.days`); None: not
                known, and whoever follows segments looks through all of history.

        Returns:
            What `rows` returned; None if this very segment turned out to be committed already.

        Raises:
            DatabaseUnavailable: It is not known to be written; call again with the same segment.
            WorkerTaken: Another process holds the name.
            psycopg.errors.UniqueViolation: `rows` met a row that is there; nothing was written.
        """
        connection = await self.open()
        # Times of receipt are in it: no other flush has the hash of the last one.
        if once and self._last_sha256 == segment.sha256:
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
                            "readings": readings(result) if callable(readings) else readings,
                            "redelivered": redelivered,
                            "raw_bytes": segment.raw_bytes,
                            "sha256": segment.sha256,
                            "body": segment.body,
                            "observed_days": None if observed_days is None else list(observed_days),
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
