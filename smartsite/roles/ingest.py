"""The role `ingest`: telemetry, events and status into rows, acknowledged after commit."""

from __future__ import annotations

import asyncio
import logging
import time

from device_profiles.errors import shown
from ingest import metrics
from ingest.consumer import Consumer
from ingest.pipeline import Arrivals, TimeLimits, gather, refuse
from ingest.registry import Routes, load_routes
from ingest.store.worker import REFUSED, Worker, declared
from ingest.store.writer import Outcome, TelemetryWriter
from smartsite.roles.consuming import flushing, session_options
from smartsite.services import Whereabouts
from smartsite.settings import Settings

log = logging.getLogger(__name__)

REST_S = 0.02
"""Messages then come in fewer, larger reads: a quarter of the CPU at 5,000 a second."""

ROUTES_FRESH_S = 5.0
"""How long a snapshot of the registry is used: a new device is heard this soon."""


class RouteBook:
    """The registry's routes, read again when they have aged."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._routes: Routes | None = None
        self._read_at = 0.0

    async def routes(self) -> Routes:
        """The routes.

        Returns:
            A snapshot of the registry, at most `ROUTES_FRESH_S` old.

        Raises:
            DatabaseUnavailable: There is none yet, and the database cannot be asked.
        """
        now = time.monotonic()
        if self._routes is None or now - self._read_at > ROUTES_FRESH_S:
            connection = await self._worker.open()
            with declared():
                self._routes = await load_routes(connection)
            self._read_at = now
        return self._routes


def _count(outcome: Outcome) -> None:
    for kind, count in outcome.stored.items():
        metrics.READINGS.labels(kind).inc(count)
    metrics.DUPLICATES.inc(outcome.duplicates)
    metrics.MERGED.inc(outcome.merged)
    for (scope, reason), count in outcome.put_aside.items():
        metrics.QUARANTINED.labels(scope, reason).inc(count)


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Take readings in until told to stop.

    Args:
        settings: All settings.
        whereabouts: Broker and database.
        stop: Set from outside.

    Raises:
        Misconfigured: Broker or database refuse us, or the worker's name is taken.
    """
    terms = settings.ingest
    limits = TimeLimits(terms.future_s, terms.past_days * 86_400)
    worker = Worker(whereabouts.database_url, terms.worker)
    writer = TelemetryWriter(worker)
    book = RouteBook(worker)

    async def write(arrivals: Arrivals) -> None:
        routes = await book.routes()
        try:
            _count(await writer.write(gather(arrivals, routes, limits)))
        except REFUSED as fault:
            # Refused for what it holds, and would be for ever: find the message, put it aside.
            log.error("the database refuses a flush of %d messages: %s", len(arrivals), fault)  # noqa: TRY400
            if len(arrivals) == 1:
                why = (str(fault).splitlines() or [type(fault).__name__])[0]
                _count(await writer.write(refuse(arrivals, routes, shown(why, 200))))
                return
            for half in arrivals.halves():
                await write(half)

    consumer = Consumer(
        "ingest",
        session_options(
            settings,
            whereabouts,
            terms.worker,
            ("site/+/+/+/+",),
            terms.max_payload_bytes,
            rest_s=REST_S,
        ),
        flushing(settings, terms.flush_rows, terms.flush_ms / 1_000),
        write,
    )
    try:
        await consumer.run(stop)
    finally:
        await worker.close()
