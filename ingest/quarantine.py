"""What was put aside, for people to look at: rows, their bytes, and who is not registered yet."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.rows import class_row

from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.segments import Flag, unpack
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "quarantine.sql")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows of the quarantine.

    Attributes:
        ids: Only these; None: any.
        reason: Only this one's.
        site: Only what came on this site's topics.
        device: And of these only this device's.
        since: First time of receipt; aware.
        resolved_too: Also those that came back.
    """

    ids: tuple[int, ...] | None = None
    reason: str | None = None
    site: str | None = None
    device: str | None = None
    since: datetime | None = None
    resolved_too: bool = False

    @property
    def terms(self) -> dict[str, Any]:
        """What the queries ask for."""
        return {
            "quarantine_ids": None if self.ids is None else list(self.ids),
            "reason": self.reason,
            "topic_pattern": self.site and topic_pattern(self.site, self.device),
            "since": self.since,
            "resolved_too": self.resolved_too,
        }


def topic_pattern(site: str, device: str | None = None) -> str:
    """A regular expression of the topics of a device, or of a whole site.

    Args:
        site: Site id.
        device: Device id within the site; None: any.

    Returns:
        What PostgreSQL's ``~`` takes. What is unknown has no number in the registry, so it is
        found by its topic.
    """
    # A hostile topic may hold "site" twice: what counts is how it ends.
    end = "/(telemetry|event|status|frame/[0-9]+)$"
    name = "[^/]+" if device is None else re.escape(device)
    return f"(^|/)site/{re.escape(site)}/[^/]+/{name}{end}"


class QuarantineRow(msgspec.Struct, frozen=True):
    """One row of the quarantine.

    Attributes:
        id: Its number.
        received_at: When the message came.
        topic: Where.
        site: Of the registered device; None: unknown.
        device: Likewise.
        scope: What was refused: message, reading, value, frame or status.
        reason: The class of fault.
        detail: What is wrong, in one line.
        field: The quantity, for values.
        value: The offending value as text.
        units: Readings of the balance that it holds.
        payload_bytes: Length of the payload as it was sent.
        payload_sha256: Its hash, hexadecimal.
        worker: Who wrote the segment that holds the message.
        segment: That segment's number.
        segment_index: The message's place in it.
        resolved_at: When it came back; None: it is open.
        resolved_worker: Who wrote the segment it came back in.
        resolved_segment: That segment's number.
    """

    id: int
    received_at: datetime
    topic: str
    site: str | None
    device: str | None
    scope: str
    reason: str
    detail: str
    field: str | None
    value: str | None
    units: int
    payload_bytes: int
    payload_sha256: str
    worker: str
    segment: int
    segment_index: int
    resolved_at: datetime | None
    resolved_worker: str | None
    resolved_segment: int | None


class Total(msgspec.Struct, frozen=True):
    """Rows of one reason.

    Attributes:
        reason: The class of fault.
        rows: All that were asked for.
        open: Of these, how many did not come back.
    """

    reason: str
    rows: int
    open: int


class Payload(msgspec.Struct, frozen=True):
    """The bytes of a message that was put aside.

    Attributes:
        data: As they were sent; None: they have aged out.
        cut: Only the first bytes were kept: the payload was above the limit.
        intact: Whether segment and payload have the hashes that were written down; None where
            that cannot be told.
    """

    data: bytes | None
    cut: bool = False
    intact: bool | None = None


class PendingDevice(msgspec.Struct, frozen=True):
    """Who spoke and is not registered.

    Attributes:
        site: Site id, by the topic.
        device: Device id, by the topic.
        kind: What it says it is.
        prefix: The topic prefix it publishes under.
        messages: How many wait.
        first_received_at: When the first of them came.
        last_received_at: When the last one came.
        site_registered: Whether the site is known.
        district: The prefix of the registered site; None: it is not.
        retired_at: When it was retired; None: it never was registered.
    """

    site: str
    device: str
    kind: Kind
    prefix: str
    messages: int
    first_received_at: datetime
    last_received_at: datetime
    site_registered: bool
    district: str | None
    retired_at: datetime | None

    @property
    def prefix_is_right(self) -> bool:
        """Whether its site publishes where it does."""
        return self.district == self.prefix


class PendingExternal(msgspec.Struct, frozen=True):
    """Who is spoken of by an external id that nobody is registered with.

    Attributes:
        external_id: As it was sent.
        topic: Where, of one of the messages.
        detail: Which profile read it, and the id.
        messages: How many wait.
        first_received_at: When the first of them came.
        last_received_at: When the last one came.
    """

    external_id: str
    topic: str
    detail: str
    messages: int
    first_received_at: datetime
    last_received_at: datetime


def find_rows(
    connection: psycopg.Connection[Any], wanted: Wanted, at_most: int
) -> list[QuarantineRow]:
    """List rows of the quarantine.

    Args:
        connection: An open connection.
        wanted: Which.
        at_most: How many.

    Returns:
        The rows, the newest first.
    """
    with connection.cursor(row_factory=class_row(QuarantineRow)) as cursor:
        return cursor.execute(
            SQL["quarantine_rows"], wanted.terms | {"at_most": at_most}
        ).fetchall()


def count_by_reason(connection: psycopg.Connection[Any], wanted: Wanted) -> list[Total]:
    """Count rows of the quarantine.

    Args:
        connection: An open connection.
        wanted: Which.

    Returns:
        By reason, the most frequent first.
    """
    with connection.cursor(row_factory=class_row(Total)) as cursor:
        return cursor.execute(SQL["quarantine_totals"], wanted.terms).fetchall()


def open_ids(connection: psycopg.Connection[Any], wanted: Wanted) -> list[int]:
    """Find what may be read again.

    Args:
        connection: An open connection.
        wanted: Which; those that came back are left out.

    Returns:
        Ids of open rows, ascending.
    """
    cursor = connection.execute(SQL["open_quarantine_ids"], wanted.terms)
    return [id_ for (id_,) in cursor]


async def unknown_but_registered(
    connection: psycopg.AsyncConnection[Any], at_most: int
) -> list[int]:
    """Find what was put aside as unknown of devices that are registered by now.

    Args:
        connection: An open connection.
        at_most: How many.

    Returns:
        Ids of open rows whose segment is kept, the newest first.
    """
    cursor = await connection.execute(SQL["unknown_but_registered"], {"at_most": at_most})
    return [id_ for (id_,) in await cursor.fetchall()]


async def registry_state(connection: psycopg.AsyncConnection[Any]) -> tuple[object, ...]:
    """Tell whether the registry has changed, at little cost.

    Args:
        connection: An open connection.

    Returns:
        Something that differs after a device was registered, retired or taken back.
    """
    cursor = await connection.execute(SQL["registry_state"])
    return tuple(await cursor.fetchone() or ())


def fetch_payload(
    connection: psycopg.Connection[Any], row_id: int, frames: FrameStore
) -> Payload | None:
    """Fetch the bytes of a row's message.

    Args:
        connection: An open connection.
        row_id: Of the row.
        frames: Where pictures lie.

    Returns:
        The payload; None if there is no such row.
    """
    found = connection.execute(SQL["quarantine_source"], {"quarantine_id": row_id}).fetchone()
    if found is None:
        return None
    index, sha256, length, body, body_sha256 = found
    if body is None:
        return Payload(None)
    if hashlib.sha256(body).digest() != body_sha256:
        return Payload(None, intact=False)
    segment = unpack(body)
    data, flags = segment.payloads[index], segment.flags[index]
    if flags & Flag.FRAME:
        try:
            data = frames.get(data)
        except FileNotFoundError:
            return Payload(None)
        except ValueError:
            return Payload(None, intact=False)
    if flags & Flag.TRUNCATED:
        return Payload(data, cut=True)
    return Payload(data, intact=len(data) == length and hashlib.sha256(data).digest() == sha256)


def pending_external_ids(connection: psycopg.Connection[Any]) -> list[PendingExternal]:
    """List who is spoken of by an external id that nobody is registered with.

    Args:
        connection: An open connection.

    Returns:
        One entry for each external id, in their order.
    """
    with connection.cursor(row_factory=class_row(PendingExternal)) as cursor:
        return cursor.execute(SQL["pending_external_ids"]).fetchall()


def open_ids_of_external_id(connection: psycopg.Connection[Any], external_id: str) -> list[int]:
    """Find what may be read again once an external id is registered.

    Args:
        connection: An open connection.
        external_id: As it was sent.

    Returns:
        Ids of open rows, ascending.
    """
    cursor = connection.execute(SQL["open_rows_of_external_id"], {"external_id": external_id})
    return [id_ for (id_,) in cursor]


def pending_devices(
    connection: psycopg.Connection[Any], site: str | None = None
) -> list[PendingDevice]:
    """List who spoke and is not registered.

    Args:
        connection: An open connection.
        site: Only of this site.

    Returns:
        One entry for each site, device, kind and prefix, in this order.
    """
    terms = {"site": site, "topic_pattern": site and topic_pattern(site)}
    with connection.cursor(row_factory=class_row(PendingDevice)) as cursor:
        return cursor.execute(SQL["pending_devices"], terms).fetchall()
