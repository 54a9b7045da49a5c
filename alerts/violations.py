"""Violations in the database: booking findings, and the steps people take.

Everything happens in the caller's transaction: the violation, its event and what has to be said
to whom are written together or not at all. What a finding means for a violation is decided in
`alerts.episodes`, who is told in `alerts.routing`; this file fetches and writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from alerts.episodes import amendment, latest, match, reach, require_sound
from alerts.errors import UnknownSite, UnknownViolation
from alerts.evidence import (
    StoredEvidence,
    Unpack,
    decode_evidence,
    encode_evidence,
    resolve_evidence,
    unresolved,
)
from alerts.life import Event, State, Violation, step
from alerts.messages import SiteCard, render
from alerts.routing import Occurrence, Party, route
from device_profiles.findings import Evidence, Finding, Severity
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).with_name("queries.sql"))

_ENCODER = msgspec.json.Encoder(order="deterministic")


@dataclass(frozen=True, slots=True)
class Booked:
    """What booking one finding did.

    Attributes:
        violation_id: The violation it speaks of.
        events: What was written about it, in order; empty when it said nothing new.
        deliveries: How many messages were queued.
        merged: Violations withdrawn because they are parts of this one.
        stays_withdrawn: True when the violation was withdrawn before; it stays so.
    """

    violation_id: str
    events: tuple[Event, ...] = ()
    deliveries: int = 0
    merged: tuple[str, ...] = ()
    stays_withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class _Site:
    card: SiteCard
    parties: tuple[Party, ...]


async def book(
    connection: AsyncConnection[Any],
    findings: Sequence[Finding],
    now: datetime,
    actor: str = "judge",
    *,
    unpack: Unpack | None = None,
    anew: bool = False,
) -> list[Booked]:
    """Book findings: open, amend and close violations, and queue what has to be said.

    Of findings with one identity only the last counts. Booking what is booked writes nothing.

    Args:
        connection: In a transaction, which the caller commits.
        findings: In the order the detectors said them.
        now: The time of booking; aware.
        actor: Who books.
        unpack: Reads a raw segment (`ingest.segments.unpack`), so that evidence gets the hashes
            of segment and payload; without it evidence is kept as the detector gave it.
        anew: Whether the findings come of a run over all that is known by now, so that they count
            also where they reach less far than what is booked.

    Returns:
        What was done, per finding that counted.

    Raises:
        UnsoundFinding: A finding contradicts itself; nothing of any finding is written.
        UnknownSite: A finding is about a site that is not registered.
        psycopg.Error: The database failed.
    """
    _require_transaction(connection)
    findings = latest(findings)
    for finding in findings:
        require_sound(finding)
    book_ = _Book(connection, now, actor, unpack, anew=anew)
    await book_.lock(findings)
    booked = [await book_.take(finding) for finding in findings]
    await book_.notify()
    return booked


async def transition(
    connection: AsyncConnection[Any],
    violation_id: str,
    event: Event,
    actor: str,
    now: datetime,
    detail: Mapping[str, str] | None = None,
) -> State:
    """Take a step of a violation's life: acknowledge, rectify, confirm or withdraw it.

    Args:
        connection: In a transaction, which the caller commits.
        violation_id: Which violation.
        event: The step.
        actor: Who takes it.
        now: When; aware.
        detail: What is said of it, by name; a withdrawal needs a `reason`.

    Returns:
        The state it is in now.

    Raises:
        UnknownViolation: There is none of this id.
        IllegalTransition: It has no such step from where it stands; nothing is written.
        psycopg.Error: The database failed.
    """
    _require_transaction(connection)
    book_ = _Book(connection, now, actor, None)
    violation = await book_.one(violation_id)
    said: dict[str, object] = {**(detail or {})}
    after = step(violation_id, violation.state, event, said)
    await book_.step(msgspec.structs.replace(violation, state=after), event, said)
    await book_.notify()
    return after


async def withdraw_unfound(
    connection: AsyncConnection[Any],
    *,
    rule: str,
    site: str,
    devices: Sequence[str],
    from_at: datetime,
    to_at: datetime,
    found: Collection[str],
    now: datetime,
    reason: str,
    actor: str = "judge",
) -> list[str]:
    """Withdraw what a run over more complete data did not find again.

    Args:
        connection: In a transaction, which the caller commits.
        rule: Name of the rule that was run.
        site: Site id.
        devices: The devices it was run over.
        from_at: From when on the run was complete; aware.
        to_at: Until when, exclusive; aware.
        found: Violations it did find: `Booked.violation_id` of its findings.
        now: The time of withdrawal; aware.
        reason: Why, for people.
        actor: Who withdraws.

    Returns:
        The violations withdrawn: those that opened in the span and were not found.

    Raises:
        psycopg.Error: The database failed.
    """
    _require_transaction(connection)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            SQL["book_unfound"],
            {
                "rule": rule,
                "site": site,
                "subject": "+".join(devices),
                "from_at": from_at,
                "to_at": to_at,
                "found": list(found),
            },
        )
        ids = [row["id"] for row in await cursor.fetchall()]
    for violation_id in ids:
        await transition(connection, violation_id, Event.WITHDRAWN, actor, now, {"reason": reason})
    return ids


def _require_transaction(connection: AsyncConnection[Any]) -> None:
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise RuntimeError("booking needs a transaction around it")


class _Book:
    """One transaction's booking."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        now: datetime,
        actor: str,
        unpack: Unpack | None,
        *,
        anew: bool = False,
    ) -> None:
        self._connection = connection
        self._now = now
        self._actor = actor
        self._unpack = unpack
        self._anew = anew
        self._sites: dict[str, _Site] = {}
        self._queued = 0

    async def _rows(self, name: str, values: Mapping[str, object]) -> list[DictRow]:
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(SQL[name], values)
            return await cursor.fetchall() if cursor.description is not None else []

    async def lock(self, findings: Sequence[Finding]) -> None:
        keys = {_lock_key(finding) for finding in findings}
        if keys:
            await self._rows("book_lock", {"keys": sorted(keys)})

    async def notify(self) -> None:
        if self._queued:
            await self._rows("book_notify", {})

    async def one(self, violation_id: str) -> Violation:
        rows = await self._rows("book_one", {"id": violation_id})
        if not rows:
            raise UnknownViolation(f"there is no violation {violation_id!r}")
        return _violation(rows[0])

    async def take(self, finding: Finding) -> Booked:
        near = await self._rows(
            "book_near",
            {
                "rule": finding.rule,
                "site": finding.site,
                "subject": finding.subject,
                "id": finding.identity,
                "opened_at": finding.opened_at,
                "known_to": reach(finding.opened_at, finding.closed_at, finding.evidence),
            },
        )
        matched = match(finding, [_violation(row) for row in near])
        if matched.same is None:
            return await self._open(finding)
        if matched.same.state is State.WITHDRAWN:
            if not await self._withdrew(matched.same):
                return Booked(matched.same.id, stays_withdrawn=True)
            return await self._revive(matched.same, finding)
        return await self._amend(matched.same, matched.merged, finding)

    async def _open(self, finding: Finding) -> Booked:
        violation = Violation(
            id=finding.identity,
            rule=finding.rule,
            kind=finding.kind,
            site=finding.site,
            subject=finding.subject,
            state=State.OPEN,
            severity=finding.severity,
            opened_at=finding.opened_at,
            closed_at=finding.closed_at,
            measured=finding.measured,
            message_zh=finding.message_zh,
            message_en=finding.message_en,
            evidence=await self._evidence(finding.evidence),
        )
        await self._site(finding.site)  # an unknown site is declared before the row refuses it
        await self._rows("book_insert", self._columns(violation))
        # One that ended before it was booked still has an opening and an end to be told.
        events = [Event.OPENED] + [Event.CLOSED] * (finding.closed_at is not None)
        queued = [await self._event(violation, Occurrence(event=event), {}) for event in events]
        return Booked(violation.id, tuple(events), sum(queued))

    async def _amend(
        self, booked: Violation, parts: Sequence[Violation], finding: Finding
    ) -> Booked:
        amended = amendment(booked, finding, anew=self._anew)
        if amended is None:
            return Booked(booked.id)
        violation = msgspec.structs.replace(
            booked,
            severity=finding.severity,
            opened_at=finding.opened_at,
            closed_at=finding.closed_at,
            measured=finding.measured,
            message_zh=finding.message_zh,
            message_en=finding.message_en,
            evidence=await self._evidence(finding.evidence),
        )
        await self._rows("book_update", self._columns(violation))
        occurrence = Occurrence(
            event=amended.event,
            severity_rose=amended.severity_rose,
            reopened=amended.reopened,
        )
        queued = await self._event(violation, occurrence, {"changed": amended.changed})
        for part in parts:
            queued += await self.step(
                msgspec.structs.replace(part, state=State.WITHDRAWN),
                Event.WITHDRAWN,
                {"reason": f"part of violation {booked.id}"},
            )
        return Booked(booked.id, (amended.event,), queued, tuple(part.id for part in parts))

    async def _withdrew(self, violation: Violation) -> bool:
        """Whether who books withdrew it: what a person withdrew is not ours to bring back."""
        rows = await self._rows("book_withdrawn_by", {"id": violation.id})
        return bool(rows) and rows[0]["actor"] == self._actor

    async def _revive(self, booked: Violation, finding: Finding) -> Booked:
        """Late data had refuted it, later data says it again."""
        violation = msgspec.structs.replace(
            booked,
            state=State.OPEN,
            severity=finding.severity,
            opened_at=finding.opened_at,
            closed_at=finding.closed_at,
            measured=finding.measured,
            message_zh=finding.message_zh,
            message_en=finding.message_en,
            evidence=await self._evidence(finding.evidence),
        )
        await self._rows("book_update", self._columns(violation))
        occurrence = Occurrence(event=Event.AMENDED, reopened=True)
        changed = {"changed": {"state": [State.WITHDRAWN, State.OPEN]}}
        queued = await self._event(violation, occurrence, changed)
        return Booked(violation.id, (Event.AMENDED,), queued)

    async def step(self, violation: Violation, event: Event, detail: Mapping[str, object]) -> int:
        """Write a violation's new state and its event; says how many messages were queued."""
        await self._rows("book_update", self._columns(violation))
        return await self._event(violation, Occurrence(event=event), detail)

    async def _event(
        self, violation: Violation, occurrence: Occurrence, detail: Mapping[str, object]
    ) -> int:
        site = await self._site(violation.site)
        decisions = route(occurrence, site.parties)
        told = [decision.recipient for decision in decisions if decision.tell]
        kept = dict(detail)
        untold = [
            decision
            for decision in decisions
            if not decision.tell and decision.organisation is not None
        ]
        if untold:
            kept["untold"] = untold
        (row,) = await self._rows(
            "book_event",
            {
                "violation_id": violation.id,
                "now": self._now,
                "event": occurrence.event,
                "actor": self._actor,
                "detail": _ENCODER.encode(kept).decode(),
            },
        )
        if told:
            reason = detail.get("reason")
            body = render(
                occurrence.event,
                violation,
                site.card,
                self._now,
                reason if isinstance(reason, str) else None,
            )
            for recipient in told:
                await self._rows(
                    "book_delivery",
                    {
                        "event_id": row["id"],
                        "violation_id": violation.id,
                        "recipient_id": recipient,
                        "body": body,
                        "now": self._now,
                    },
                )
        self._queued += len(told)
        return len(told)

    async def _site(self, site: str) -> _Site:
        if site not in self._sites:
            rows = await self._rows("book_site", {"site": site})
            if not rows:
                raise UnknownSite(f"site {site!r} is not registered")
            self._sites[site] = _Site(
                SiteCard(id=rows[0]["id"], name=rows[0]["name"], timezone=rows[0]["timezone"]),
                tuple(
                    Party(
                        organisation=row["organisation"],
                        recipient=row["recipient"],
                        disabled=row["disabled"],
                    )
                    for row in rows
                ),
            )
        return self._sites[site]

    async def _evidence(self, evidence: Sequence[Evidence]) -> tuple[StoredEvidence, ...]:
        if self._unpack is None:
            return unresolved(evidence)
        return await resolve_evidence(self._connection, evidence, self._unpack)

    def _columns(self, violation: Violation) -> dict[str, object]:
        return {
            "id": violation.id,
            "rule": violation.rule,
            "kind": violation.kind,
            "site": violation.site,
            "subject": violation.subject,
            "state": violation.state,
            "severity": violation.severity,
            "opened_at": violation.opened_at,
            "closed_at": violation.closed_at,
            "measured": _ENCODER.encode(violation.measured).decode(),
            "message_zh": violation.message_zh,
            "message_en": violation.message_en,
            "evidence": encode_evidence(violation.evidence),
            "now": self._now,
        }


def _violation(row: DictRow) -> Violation:
    return Violation(
        **{
            **row,
            "state": State(row["state"]),
            "severity": Severity(row["severity"]),
            "measured": msgspec.json.decode(row["measured"], type=dict[str, float]),
            "evidence": decode_evidence(row["evidence"]),
        }
    )


def _lock_key(finding: Finding) -> int:
    text = "\x1f".join((finding.rule, finding.site, finding.subject))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
