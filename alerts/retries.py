"""What to do after an attempt to tell somebody: taken, again later, or given up. Pure.

What a recipient answered decides alone; all of it stands in `decide`.

- 2xx: taken.
- 410: the recipient is gone and is disabled (Standard Webhooks).
- everything else, redirects and client errors included: again, after the schedule's next pause.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum

SCHEDULE: tuple[timedelta, ...] = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""Pause before each attempt, after the one before failed (Standard Webhooks)."""

JITTER = 0.2
"""A pause grows by up to this part, so that what failed together is not tried together."""

MAX_RETRY_AFTER = timedelta(hours=24)
"""A recipient may put us off this long at most; it may never hurry us."""

_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


class Outcome(StrEnum):
    """What became of one attempt."""

    DELIVERED = "delivered"
    RETRY = "retry"
    GONE = "gone"
    GAVE_UP = "gave_up"


@dataclass(frozen=True, slots=True)
class Answer:
    """How an attempt went.

    Attributes:
        status: HTTP status; None where there was no answer.
        said: One bounded line for people: what came back, or why nothing did.
        retry_after: The header of that name, if any.
    """

    status: int | None
    said: str = ""
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an attempt.

    Attributes:
        outcome: What became of it.
        next_attempt_at: When to try again; None unless it is to be tried again.
        error: Why it was not taken; None where it was.
    """

    outcome: Outcome
    next_attempt_at: datetime | None = None
    error: str | None = None


def decide(
    answer: Answer,
    attempt: int,
    now: datetime,
    chance: float,
    schedule: tuple[timedelta, ...] = SCHEDULE,
) -> Verdict:
    """Judge an attempt.

    Args:
        answer: How it went.
        attempt: Which attempt it was, from 1.
        now: When it ended; aware.
        chance: A random number, 0 to 1.
        schedule: Pause before each attempt.

    Returns:
        What follows.
    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict(Outcome.DELIVERED)
    error = _error(answer)
    if answer.status == 410:
        return Verdict(Outcome.GONE, error=f"{error}: the recipient is gone")
    if attempt >= len(schedule):
        return Verdict(Outcome.GAVE_UP, error=f"gave up after {attempt} attempts: {error}")
    pause = max(
        schedule[attempt] * (1 + JITTER * chance), min(_asked(answer, now), MAX_RETRY_AFTER)
    )
    return Verdict(Outcome.RETRY, next_attempt_at=now + pause, error=error)


def _error(answer: Answer) -> str:
    if answer.status is None:
        return answer.said
    what = f"HTTP {answer.status}"
    if 300 <= answer.status < 400:
        what += " (redirects are not followed)"
    return f"{what}: {answer.said}" if answer.said else what


def _asked(answer: Answer, now: datetime) -> timedelta:
    """How long the recipient asked us to wait; nothing where it asked nothing readable."""
    if answer.retry_after is None or len(answer.retry_after) > 64:
        return timedelta(0)
    text = answer.retry_after.strip()
    if _SECONDS.fullmatch(text):
        return timedelta(seconds=int(text))
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return timedelta(0)
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(until - now, timedelta(0))
