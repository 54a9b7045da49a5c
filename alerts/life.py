"""The life of a violation: its states, its events, and which step is legal.

::

    open ──acknowledged──▶ acknowledged ──rectified──▶ rectified ──confirmed──▶ confirmed
      └──────────────┴───────── withdrawn (with a reason) ─────────┴────────────────┘

The state is what people did about it. Whether the violation lasts is another matter, decided by
the readings alone: `Violation.closed_at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from alerts.errors import IllegalTransition
from alerts.evidence import StoredEvidence
from device_profiles.errors import shown
from device_profiles.findings import Severity


class State(StrEnum):
    """How far people have come with a violation."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RECTIFIED = "rectified"
    CONFIRMED = "confirmed"
    WITHDRAWN = "withdrawn"


class Event(StrEnum):
    """What happened to a violation."""

    OPENED = "opened"
    AMENDED = "amended"
    CLOSED = "closed"
    ACKNOWLEDGED = "acknowledged"
    RECTIFIED = "rectified"
    CONFIRMED = "confirmed"
    WITHDRAWN = "withdrawn"


STEPS: Mapping[tuple[State, Event], State] = {
    (State.OPEN, Event.ACKNOWLEDGED): State.ACKNOWLEDGED,
    (State.ACKNOWLEDGED, Event.RECTIFIED): State.RECTIFIED,
    (State.RECTIFIED, Event.CONFIRMED): State.CONFIRMED,
    (State.OPEN, Event.WITHDRAWN): State.WITHDRAWN,
    (State.ACKNOWLEDGED, Event.WITHDRAWN): State.WITHDRAWN,
    (State.RECTIFIED, Event.WITHDRAWN): State.WITHDRAWN,
    (State.CONFIRMED, Event.WITHDRAWN): State.WITHDRAWN,
}
"""Every legal step; what is not here is refused."""

SEVERITY_RANK: Mapping[Severity, int] = {
    severity: rank
    for rank, severity in enumerate((Severity.INFO, Severity.WARNING, Severity.CRITICAL))
}


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A violation as it is booked.

    Attributes:
        id: `Finding.identity` of its opening; it stays when the opening is amended.
        rule: Name of the rule.
        kind: What people sort by.
        site: Site id.
        subject: What it is about.
        state: What people did about it.
        severity: How much it matters.
        opened_at: When it began, by the readings; aware, UTC.
        closed_at: When it ended; None while it lasts.
        measured: The figures that decide.
        message_zh: One sentence for site people.
        message_en: The same in English.
        evidence: What it rests on, with hashes where the bytes were found.
    """

    id: str
    rule: str
    kind: str
    site: str
    subject: str
    state: State
    severity: Severity
    opened_at: datetime
    closed_at: datetime | None
    measured: dict[str, float]
    message_zh: str
    message_en: str
    evidence: tuple[StoredEvidence, ...]


def storable(text: str) -> bool:
    """Whether PostgreSQL can hold a text: no NUL, no lone surrogate.

    Args:
        text: Any text.

    Returns:
        True where it can.
    """
    return not any(mark == "\0" or "\ud800" <= mark <= "\udfff" for mark in text)


def step(violation_id: str, state: State, event: Event, detail: Mapping[str, object]) -> State:
    """Take one step of a violation's life.

    Args:
        violation_id: For the message.
        state: Where it stands.
        event: What is to happen.
        detail: What is said of it by name; a withdrawal needs a `reason`.

    Returns:
        Where it stands afterwards.

    Raises:
        IllegalTransition: There is no such step, a withdrawal gives no reason, or what is said
            cannot be stored.
    """
    after = STEPS.get((state, event))
    if after is None:
        legal = [str(possible) for (from_, possible) in STEPS if from_ is state]
        raise IllegalTransition(
            violation_id, state, event, f"from here it goes {' or '.join(legal) or 'nowhere'}"
        )
    if event is Event.WITHDRAWN:
        reason = detail.get("reason")
        if not isinstance(reason, str) or not reason.strip():
            raise IllegalTransition(violation_id, state, event, "a withdrawal needs a reason")
    for said in detail.values():
        if isinstance(said, str) and not storable(said):
            raise IllegalTransition(violation_id, state, event, f"{shown(said)} cannot be stored")
    return after
