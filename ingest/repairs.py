"""What was put aside for its time, read again once the clock's offset is known."""

from __future__ import annotations

from datetime import datetime, timedelta

from ingest.pipeline import TimeLimits
from ingest.profiles import Readers
from ingest.retrying import Retried, retry
from ingest.store.clocks import repaired_times
from ingest.store.worker import connect, declared

SETTLED_S = 15.0
"""So long after a span was decided nobody goes on with a snapshot that lacks it."""

OVERLAP_S = 600.0
"""How far the clocks of two hosts may be apart without a decision being overlooked."""

FIRST_DAYS = 7
"""How far back decisions are looked for by a process that has not looked yet."""


async def retry_repaired_times(
    database_url: str,
    limits: TimeLimits,
    now: datetime,
    since: datetime | None = None,
    readers: Readers | None = None,
) -> tuple[Retried, datetime]:
    """Read again what was put aside for its time and is covered by a span decided meanwhile.

    Args:
        database_url: Password included.
        limits: Which times are believed.
        now: The present time; aware.
        since: Up to when decisions were looked for the last time; None: not known.
        readers: The profiles in force; None: every device speaks the native contract.

    Returns:
        What became of it, and what to hand in as `since` the next time.

    Raises:
        RetryUnderWay: Another process reads quarantined messages again.
        DatabaseUnavailable: What was committed by then stays; call again with the same `since`.
    """
    until = now - timedelta(seconds=SETTLED_S)
    if since is None:
        since = now - timedelta(days=FIRST_DAYS)
    with declared():
        connection = await connect(database_url, "smartsite clocks")
        async with connection:
            rows = await repaired_times(connection, since, until)
    done = Retried()
    if rows:
        done = await retry(database_url, rows, limits, now, readers=readers)
    # Looked at twice rather than missed: the deciding host's clock is not this one's.
    return done, max(since, until - timedelta(seconds=OVERLAP_S))
