"""Commands to devices: put by people, sent by the gateway that holds the device's connection."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg.rows import class_row

from ingest.errors import Misconfigured
from ingest.store.queries import load_queries
from ingest.store.worker import declared

SQL = load_queries(Path(__file__).parent / "sql" / "gateway.sql")


class Wish(NamedTuple):
    """A command to be sent now.

    Attributes:
        id: Its number.
        device_id: To whom.
        cn: Command number.
        begin_at: Data of the past: from; None: it asks for none.
        end_at: And to.
    """

    id: int
    device_id: int
    cn: str
    begin_at: datetime | None
    end_at: datetime | None


class Ending(msgspec.Struct, frozen=True):
    """How far a command has come.

    Attributes:
        state: "waiting", "sent", "done", "refused", "failed" or "unanswered".
        qn: The request number of its answers.
        sendings: How often it was sent.
        frames: That came with what was asked for.
        qn_rtn: Whether the device would do it, as HJ 212 counts.
        exe_rtn: What became of it, likewise.
        detail: What else is to be said.
    """

    state: str
    qn: str | None = None
    sendings: int = 0
    frames: int = 0
    qn_rtn: int | None = None
    exe_rtn: int | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in ("waiting", "sent")


def put_command(
    connection: psycopg.Connection[Any],
    device: tuple[str, str],
    cn: str,
    now: datetime,
    expires_at: datetime,
    span: tuple[datetime, datetime] | None = None,
) -> int:
    """Put a command for whoever holds the device's connection.

    Args:
        connection: An open connection; the caller commits.
        device: Site id and device id.
        cn: Command number.
        now: The present time; aware.
        expires_at: It is not sent after this.
        span: Data of the past: from and to.

    Returns:
        Its number.

    Raises:
        Misconfigured: There is no such device.
    """
    site, name = device
    begin_at, end_at = span or (None, None)
    row = connection.execute(
        SQL["put_command"],
        {
            "site": site,
            "device": name,
            "cn": cn,
            "begin_at": begin_at,
            "end_at": end_at,
            "now": now,
            "expires_at": expires_at,
        },
    ).fetchone()
    if row is None:
        raise Misconfigured(f"{site}/{name} is not registered: see `smartsite devices`")
    connection.execute(SQL["notify_commands"])
    return int(row[0])


def ending_of(connection: psycopg.Connection[Any], command_id: int) -> Ending:
    """Look how far a command has come.

    Args:
        connection: An open connection.
        command_id: As `put_command` returned it.

    Returns:
        How far.
    """
    with connection.cursor(row_factory=class_row(Ending)) as cursor:
        found = cursor.execute(SQL["command_state"], {"command_id": command_id}).fetchone()
    return found or Ending("failed", detail="there is no such command")


def cancel_command(
    connection: psycopg.Connection[Any], command_id: int, now: datetime, detail: str
) -> None:
    """Take a command back that was not sent yet.

    Args:
        connection: An open connection; the caller commits.
        command_id: As `put_command` returned it.
        now: The present time; aware.
        detail: Why.
    """
    connection.execute(
        SQL["cancel_command"], {"command_id": command_id, "now": now, "detail": detail}
    )


async def claim_commands(
    connection: psycopg.AsyncConnection[Any],
    worker_id: int,
    device_ids: Collection[int],
    now: datetime,
) -> list[Wish]:
    """Take the commands that are for devices connected here; one of each device.

    Args:
        connection: An open connection in autocommit.
        worker_id: Who takes them.
        device_ids: Who is connected and not being asked.
        now: The present time; aware.

    Returns:
        The commands; nobody else sends them.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    with declared():
        cursor = await connection.execute(
            SQL["claim_commands"],
            {"worker_id": worker_id, "device_ids": list(device_ids), "now": now},
        )
        return [Wish(*row) for row in await cursor.fetchall()]


async def end_command(
    connection: psycopg.AsyncConnection[Any], command_id: int, ending: Ending, now: datetime
) -> None:
    """Write down what became of a command.

    Args:
        connection: An open connection in autocommit.
        command_id: Which.
        ending: What.
        now: The present time; aware.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    with declared():
        await connection.execute(
            SQL["end_command"],
            msgspec.structs.asdict(ending)
            | {"command_id": command_id, "frame_count": ending.frames, "now": now},
        )


async def end_orphans(
    connection: psycopg.AsyncConnection[Any], worker_id: int, now: datetime
) -> None:
    """Give up what an earlier process of a worker had sent.

    Args:
        connection: An open connection in autocommit.
        worker_id: The worker.
        now: The present time; aware.

    Raises:
        DatabaseUnavailable: The database cannot be used.
    """
    with declared():
        await connection.execute(SQL["end_orphans"], {"worker_id": worker_id, "now": now})
