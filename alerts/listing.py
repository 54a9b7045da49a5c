"""What was found, for people and programs: violations with their evidence and who was told."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from alerts.evidence import StoredEvidence, decode_evidence
from alerts.life import Event, State
from device_profiles.findings import Severity
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).with_name("queries.sql"))


class ListedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a violation.

    Attributes:
        event: What.
        at: When it was booked.
        actor: By whom.
        detail: What was said of it: what changed, why it was withdrawn, who was not told.
    """

    event: Event
    at: datetime
    actor: str
    detail: dict[str, Any]


class ListedDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one recipient.

    Attributes:
        id: The webhook's id.
        event: What it tells.
        recipient: Recipient id.
        organisation: Whose recipient it is.
        state: "pending", "delivered" or "failed".
        attempts: How many were made.
        last_status: HTTP status of the last answer, if there was one.
        last_error: Why the last attempt was not taken.
        next_attempt_at: When it is tried again, while pending.
        created_at: When it was queued.
        delivered_at: When it was taken.
    """

    id: str
    event: Event
    recipient: str
    organisation: str
    state: str
    attempts: int
    last_status: int | None
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None


class ListedViolation(msgspec.Struct, frozen=True, kw_only=True):
    """A violation with all that is known of it; times in UTC.

    Attributes:
        id: Its id.
        rule: Name of the rule.
        kind: "dust", "crane", "helmet", "vest", "presence", "reported", "device_health".
        site: Site id.
        site_name: What people call the site.
        timezone: The site's zone.
        subject: What it is about.
        state: What people did about it.
        severity: How much it matters.
        opened_at: When it began, by the readings.
        closed_at: When it ended; None while it lasts.
        measured: The figures that decided.
        message_zh: One sentence.
        message_en: The same in English.
        evidence: Readings and frames it rests on, by hash.
        booked_at: When it was booked.
        changed_at: When it changed last.
        events: Its history, oldest first.
        deliveries: Who was told, oldest first.
    """

    id: str
    rule: str
    kind: str
    site: str
    site_name: str
    timezone: str
    subject: str
    state: State
    severity: Severity
    opened_at: datetime
    closed_at: datetime | None
    measured: dict[str, float]
    message_zh: str
    message_en: str
    evidence: tuple[StoredEvidence, ...]
    booked_at: datetime
    changed_at: datetime
    events: tuple[ListedEvent, ...]
    deliveries: tuple[ListedDelivery, ...]


async def violations(
    connection: AsyncConnection[Any],
    site: str | None = None,
    since: datetime | None = None,
    state: State | None = None,
    limit: int = 100,
    violation_id: str | None = None,
) -> list[ListedViolation]:
    """List violations, those that opened last first.

    Args:
        connection: An open connection; its transaction is used.
        site: Only this site's.
        since: Only those that lasted at this instant or later; aware.
        state: Only those people have brought to this state.
        limit: How many at most.
        violation_id: Only this one.

    Returns:
        The violations.

    Raises:
        psycopg.Error: The database failed.
    """
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            SQL["list_violations"],
            {"id": violation_id, "site": site, "since": since, "state": state, "limit": limit},
        )
        return [_listed(row) for row in await cursor.fetchall()]


def _listed(row: dict[str, Any]) -> ListedViolation:
    times = {
        name: row[name].astimezone(UTC)
        for name in ("opened_at", "closed_at", "booked_at", "changed_at")
        if row[name] is not None
    }
    return ListedViolation(
        **{
            **row,
            **times,
            "state": State(row["state"]),
            "severity": Severity(row["severity"]),
            "measured": msgspec.json.decode(row["measured"], type=dict[str, float]),
            "evidence": decode_evidence(row["evidence"]),
            "events": msgspec.json.decode(row["events"], type=tuple[ListedEvent, ...]),
            "deliveries": msgspec.json.decode(row["deliveries"], type=tuple[ListedDelivery, ...]),
        }
    )
