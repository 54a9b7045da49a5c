"""The balance: what was published is what was received is what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import psycopg

from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent.parent / "ingest" / "store" / "sql" / "reading.sql")


class Balance(msgspec.Struct, frozen=True):
    """Readings, one by one; a message that cannot be decoded counts as one.

    Attributes:
        received: As read from the socket, counted before anything is decided about them.
        stored: As `SELECT count(*)` of the tables says.
        duplicate: Were there already, equal.
        merged: Brought further quantities to a stored reading.
        quarantined: Put aside with a reason.
        redelivered: Messages the broker marked as sent before.
    """

    received: int
    stored: int
    duplicate: int
    merged: int
    quarantined: int
    redelivered: int

    @property
    def adds_up(self) -> bool:
        """Whether nothing is unaccounted for."""
        return self.received == self.stored + self.duplicate + self.merged + self.quarantined


def read_balance(connection: psycopg.Connection[Any]) -> Balance:
    """Read the balance of a database.

    Args:
        connection: An open connection.

    Returns:
        The balance over all that was ever received.
    """
    row = connection.execute(SQL["balance"]).fetchone()
    return Balance(*(row or (0, 0, 0, 0, 0, 0)))


def messages_written(connection: psycopg.Connection[Any], worker: str) -> int:
    """Count the messages a worker has written into segments.

    Args:
        connection: An open connection.
        worker: Its name.

    Returns:
        How many, of every channel.
    """
    row = connection.execute(SQL["messages_of_worker"], {"name": worker}).fetchone()
    return int(row[0]) if row else 0


def count_by_kind(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Count what is stored.

    Args:
        connection: An open connection.

    Returns:
        Rows of "dust" and "crane" readings and of "frames".
    """
    row = connection.execute(SQL["counts_by_kind"]).fetchone() or (0, 0, 0)
    return dict(zip(("dust", "crane", "frames"), row, strict=True))
