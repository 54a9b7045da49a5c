"""Who has to be told of an event, and why, or why not. Pure.

The path is the list `STAGES`: each stage looks at what the one before let through and passes it
on or stops it with a named reason. What was stopped is kept with the event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

import msgspec

from alerts.life import Event


class Reason(StrEnum):
    """Why a recipient is told, or is not."""

    OPENED = "opened"
    CLOSED = "closed"
    WITHDRAWN = "withdrawn"
    SEVERITY_ROSE = "severity_rose"
    REOPENED = "reopened"
    NOTHING_NEW = "amended_without_rise"
    PEOPLES_STEP = "step_taken_by_people"
    NO_RECIPIENT = "organisation_has_no_recipient"
    RECIPIENT_DISABLED = "recipient_disabled"


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, as far as routing cares.

    Attributes:
        event: The event.
        severity_rose: Whether the violation became worse by it.
        reopened: Whether a violation that had ended goes on by it.
    """

    event: Event
    severity_rose: bool = False
    reopened: bool = False


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One organisation of a site and one of its recipients.

    Attributes:
        organisation: Organisation id.
        recipient: Recipient id; None where the organisation has none.
        disabled: Whether the recipient is disabled.
    """

    organisation: str
    recipient: str | None
    disabled: bool = False


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was decided for one recipient.

    Attributes:
        tell: Whether it is told.
        reason: Why, or why not.
        organisation: Organisation id; None where the event is told to nobody.
        recipient: Recipient id, where there is one.
    """

    tell: bool
    reason: Reason
    organisation: str | None = None
    recipient: str | None = None


Stage = Callable[[Occurrence, Sequence[Decision], Sequence[Party]], Iterable[Decision]]


def worth_telling(
    occurrence: Occurrence, _decided: Sequence[Decision], _parties: Sequence[Party]
) -> Iterable[Decision]:
    """Stage 1: openings, ends and withdrawals are told; amendments that change what one does."""
    if occurrence.event is Event.OPENED:
        yield Decision(tell=True, reason=Reason.OPENED)
    elif occurrence.event is Event.CLOSED:
        yield Decision(tell=True, reason=Reason.CLOSED)
    elif occurrence.event is Event.WITHDRAWN:
        yield Decision(tell=True, reason=Reason.WITHDRAWN)
    elif occurrence.event is not Event.AMENDED:
        yield Decision(tell=False, reason=Reason.PEOPLES_STEP)
    elif occurrence.reopened:
        yield Decision(tell=True, reason=Reason.REOPENED)
    elif occurrence.severity_rose:
        yield Decision(tell=True, reason=Reason.SEVERITY_ROSE)
    else:
        yield Decision(tell=False, reason=Reason.NOTHING_NEW)


def to_recipients(
    _occurrence: Occurrence, decided: Sequence[Decision], parties: Sequence[Party]
) -> Iterable[Decision]:
    """Stage 2: every recipient of the site's contractor and regulator, each once."""
    for decision in decided:
        if not decision.tell:
            yield decision
            continue
        seen: set[tuple[str, str | None]] = set()
        for party in parties:
            if (party.organisation, party.recipient) in seen:
                continue
            seen.add((party.organisation, party.recipient))
            yield Decision(
                tell=party.recipient is not None,
                reason=decision.reason if party.recipient is not None else Reason.NO_RECIPIENT,
                organisation=party.organisation,
                recipient=party.recipient,
            )


def without_disabled(
    _occurrence: Occurrence, decided: Sequence[Decision], parties: Sequence[Party]
) -> Iterable[Decision]:
    """Stage 3: a recipient that said it is gone is not told until a person enables it."""
    disabled = {party.recipient for party in parties if party.disabled}
    for decision in decided:
        if decision.tell and decision.recipient in disabled:
            yield Decision(
                tell=False,
                reason=Reason.RECIPIENT_DISABLED,
                organisation=decision.organisation,
                recipient=decision.recipient,
            )
        else:
            yield decision


STAGES: tuple[Stage, ...] = (worth_telling, to_recipients, without_disabled)


def route(occurrence: Occurrence, parties: Sequence[Party]) -> list[Decision]:
    """Decide who is told.

    Args:
        occurrence: What happened.
        parties: The site's contractor and regulator with their recipients.

    Returns:
        One decision per recipient, or a single one when nobody is to be told.
    """
    decided: list[Decision] = []
    for stage in STAGES:
        decided = list(stage(occurrence, decided, parties))
    return decided
