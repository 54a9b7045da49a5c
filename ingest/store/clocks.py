"""Keeps the spans of clocks that are off: decided once, in a transaction of their own, then used.

Two processes may hear one device. Whoever decides holds the device's row, looks whether the spans
are still those it saw, and gives way if they are not.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from device_profiles.native import moment_of
from device_profiles.vocabulary import QUANTITIES
from ingest import metrics
from ingest.blocks import Heard
from ingest.clocks import (
    FIRST_US,
    FOREVER_US,
    Clocks,
    ClockTerms,
    Envelope,
    Regime,
    Span,
    Used,
    horizon_of,
    plan,
)
from ingest.errors import DatabaseUnavailable
from ingest.store.queries import load_queries
from ingest.store.worker import Worker, declared

log = logging.getLogger(__name__)

MOST_AT_ONCE = 50
"""So many clocks are repaired before the next flush is written."""

SQL = load_queries(Path(__file__).parent / "sql" / "clocks.sql")


async def load_clocks(connection: psycopg.AsyncConnection[Any]) -> Clocks:
    """Read the spans of all clocks that are off.

    Args:
        connection: An open connection; its transaction is used.

    Returns:
        A snapshot.
    """
    cursor = await connection.execute(SQL["clock_spans"])
    spans: defaultdict[int, list[Span]] = defaultdict(list)
    for device_id, *span in await cursor.fetchall():
        spans[device_id].append(_span(*span))
    return Clocks(spans)


class ClockKeeper:
    """Hears when readings come, and repairs the clocks that are off.

    Args:
        worker: Whose connection is used.
        terms: When a clock is off.
    """

    def __init__(self, worker: Worker, terms: ClockTerms) -> None:
        self._worker = worker
        self._envelope = Envelope(terms)
        self._heard_us = 0

    def hear(
        self,
        heard: Sequence[Heard],
        flags: Sequence[int],
        received_us: Sequence[int],
        repeated: Counter[int],
    ) -> None:
        """Take in what came and was committed.

        Args:
            heard: The blocks of a flush, as they were read.
            flags: `ingest.segments.Flag` of each message of the flush.
            received_us: When each came, microseconds since 1970 UTC.
            repeated: How many readings of which message were there already, by its index.
        """
        self._envelope.hear(heard, flags, repeated)
        self._heard_us = received_us[-1]

    async def repair(self, clocks: Clocks) -> bool:
        """Decide about clocks that were seen to be off.

        Args:
            clocks: The snapshot of spans in use.

        Returns:
            Whether the snapshot is old now. A database that cannot be asked is asked again: what
            was seen is not forgotten.
        """
        regimes = self._envelope.step(clocks, self._heard_us)[:MOST_AT_ONCE]
        try:
            for regime in regimes:
                connection = await self._worker.open()
                with declared():
                    written = await decide(connection, regime, datetime.now(UTC))
                self._envelope.forget(regime.device_id)
                if written:
                    metrics.CLOCKS_REPAIRED.inc()
        except DatabaseUnavailable as fault:
            log.warning("clocks are repaired later: %s", fault)
            await self._worker.close()
        return bool(regimes)


async def decide(connection: psycopg.AsyncConnection[Any], regime: Regime, now: datetime) -> bool:
    """Write the spans that repair a clock; when this returns, they are committed.

    Args:
        connection: In autocommit.
        regime: The clock.
        now: The present time; aware.

    Returns:
        Whether they were written; false where another process has decided meanwhile, or the device
        is gone. The snapshot that the regime was seen against is old in either case.
    """
    device_id = regime.device_id
    async with connection.transaction():
        cursor = await connection.execute(SQL["lock_clock"], {"device_id": device_id})
        found = await cursor.fetchone()
        if found is None:
            return False
        cursor = await connection.execute(SQL["clock_spans_of_device"], {"device_id": device_id})
        if tuple(_span(*row) for row in await cursor.fetchall()) != regime.known:
            return False
        kind, label = found
        spans = plan(regime, await _used_times(connection, regime, kind))
        await _replace(connection, regime, spans, now)
    log.warning(
        "the clock of %s is off, from now on repaired by %+.0f s: %s",
        label,
        regime.offset_us / 1e6,
        regime.reason,
    )
    return True


async def _used_times(connection: psycopg.AsyncConnection[Any], regime: Regime, kind: str) -> Used:
    horizon_us = horizon_of(regime)
    pieces = _pieces(regime.known)
    # What is not believed was used before it became so.
    doubted = [span for span in regime.known if span.offset_us is None]
    cursor = await connection.execute(
        _of_kind("used_times", kind),
        {
            "device_id": regime.device_id,
            "horizon": moment_of(horizon_us),
            "froms": [moment_of(piece.reported_from_us) for piece in pieces],
            "tos": [moment_of(piece.reported_to_us) for piece in pieces],
            "offsets": [piece.offset_us for piece in pieces],
        },
    )
    before, after, newest = await cursor.fetchone() or (None, None, None)
    return Used(
        max(
            [
                *([] if before is None else [before]),
                *(
                    min(span.reported_to_us - 1, horizon_us)
                    for span in doubted
                    if span.reported_from_us <= horizon_us
                ),
            ],
            default=None,
        ),
        min(
            [
                *([] if after is None else [after]),
                *(
                    max(span.reported_from_us, horizon_us + 1)
                    for span in doubted
                    if span.reported_to_us > horizon_us + 1
                ),
            ],
            default=None,
        ),
        max(
            [
                *([] if newest is None else [newest]),
                *(span.reported_to_us - 1 for span in doubted),
            ],
            default=None,
        ),
    )


def _pieces(spans: Sequence[Span]) -> list[Span]:
    """The device's whole axis in pieces of one offset, those not believed left out."""
    pieces = []
    start = FIRST_US
    for span in spans:
        if start < span.reported_from_us:
            pieces.append(Span(start, span.reported_from_us, 0))
        if span.offset_us is not None:
            pieces.append(span)
        start = span.reported_to_us
    if start < FOREVER_US:
        pieces.append(Span(start, FOREVER_US, 0))
    return pieces


async def _replace(
    connection: psycopg.AsyncConnection[Any], regime: Regime, spans: Sequence[Span], now: datetime
) -> None:
    """Bring the device's rows to what `spans` say; what stays of one keeps why it was decided."""
    device_id = regime.device_id
    wanted = {span.reported_from_us: span for span in spans}
    kept = set()
    for span in regime.known:
        found = wanted.get(span.reported_from_us)
        key = {"device_id": device_id, "reported_from": moment_of(span.reported_from_us)}
        if found is None or found.offset_us != span.offset_us:
            await connection.execute(SQL["remove_clock_span"], key)
            continue
        kept.add(found)
        if found.reported_to_us != span.reported_to_us:
            end = _end(found)
            await connection.execute(SQL["end_clock_span"], key | {"reported_to": end})
    for span in spans:
        if span in kept:
            continue
        cursor = await connection.execute(
            SQL["add_clock_span"],
            {
                "device_id": device_id,
                "reported_from": moment_of(span.reported_from_us),
                "reported_to": _end(span),
                "offset_us": span.offset_us,
                "now": now,
                "reason": regime.reason,
            },
        )
        if not cursor.rowcount:
            raise RuntimeError(f"the spans of device {device_id} overlap: {spans}")


def _span(from_us: int, to_us: int | None, offset_us: int | None) -> Span:
    return Span(from_us, FOREVER_US if to_us is None else min(to_us, FOREVER_US), offset_us)


def _end(span: Span) -> datetime | None:
    return None if span.reported_to_us >= FOREVER_US else moment_of(span.reported_to_us)


async def last_numbered(
    connection: psycopg.AsyncConnection[Any], device_ids: Sequence[int], since: datetime
) -> dict[int, tuple[int, int]]:
    """Read the number of the last stored reading of some devices.

    Args:
        connection: An open connection.
        device_ids: The registry's numbers.
        since: Readings observed before this are not looked for.

    Returns:
        Number and observed time in microseconds, by device; those without are left out.
    """
    found = {}
    for kind in QUANTITIES:
        cursor = await connection.execute(
            _of_kind("last_numbered", kind),
            {"device_ids": list(device_ids), "kind": kind, "since": since},
        )
        found.update({device: (seq, us) for device, seq, us in await cursor.fetchall()})
    return found


async def repaired_times(
    connection: psycopg.AsyncConnection[Any], since: datetime, until: datetime
) -> list[int]:
    """Find what was put aside for its time and could be read since a span was decided.

    Args:
        connection: An open connection.
        since: Spans decided after this.
        until: And not after this.

    Returns:
        Ids of quarantine rows.
    """
    cursor = await connection.execute(SQL["repaired_times"], {"since": since, "until": until})
    return [row[0] for row in await cursor.fetchall()]


def _of_kind(query: str, kind: str) -> bytes:
    return SQL[query].replace("dust_readings", f"{kind}_readings").encode()
