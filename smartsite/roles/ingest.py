"""The role `ingest`: telemetry, events and status into rows, acknowledged after commit."""

from __future__ import annotations

import asyncio
import logging
import time

from device_profiles.errors import Reason, shown
from ingest import metrics
from ingest.clocks import ClockTerms
from ingest.consumer import Consumer
from ingest.newcomers import Newcomers
from ingest.pipeline import Arrivals, TimeLimits, gather, refuse
from ingest.profiles import Readers
from ingest.registry import Routes, load_routes
from ingest.store.clocks import ClockKeeper
from ingest.store.worker import REFUSED, Worker, declared
from ingest.store.writer import Outcome, TelemetryWriter
from smartsite.profiles import filters_for, readers_of
from smartsite.roles.consuming import flushing, session_options, take_name
from smartsite.services import Whereabouts
from smartsite.settings import Settings

log = logging.getLogger(__name__)

REST_S = 0.02
"""Messages then come in fewer, larger reads: a quarter of the CPU at 5,000 a second."""

ROUTES_FRESH_S = 5.0
"""How long a snapshot of the registry is used: a new device is heard this soon."""


class RouteBook:
    """The registry's routes, read again when they have aged."""

    def __init__(self, worker: Worker, readers: Readers | None = None) -> None:
        self._worker = worker
        self._readers = readers
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
                self._routes = await load_routes(connection, self._readers)
            self._read_at = now
        return self._routes

    def age(self) -> None:
        """Have the routes read anew before they are next used."""
        self._routes = None

    async def renew(self) -> Routes:
        """The routes, read anew.

        Returns:
            A snapshot of the registry as it is.

        Raises:
            DatabaseUnavailable: The database cannot be asked.
        """
        self.age()
        return await self.routes()


def newcomers(settings: Settings, worker: Worker) -> Newcomers | None:
    """Who registers strangers.

    Args:
        settings: Whether anybody does.
        worker: Whose connection is used.

    Returns:
        It; None where registration is closed.
    """
    terms = settings.ingest
    return Newcomers(worker, terms.max_new_devices) if terms.registration == "open" else None


def _count(outcome: Outcome) -> None:
    for kind, count in outcome.stored.items():
        metrics.READINGS.labels(kind).inc(count)
    metrics.DUPLICATES.inc(outcome.duplicates)
    metrics.MERGED.inc(outcome.merged)
    for (scope, reason), count in outcome.put_aside.items():
        metrics.QUARANTINED.labels(scope, reason).inc(count)


class Intake:
    """Writes messages of devices: strangers welcomed, clocks repaired, what is refused put aside.

    Attributes:
        book: The registry as it is used.
    """

    def __init__(self, settings: Settings, worker: Worker, readers: Readers) -> None:
        """Nothing is read yet.

        Args:
            settings: All settings.
            worker: Whose connection is used, and under whose name segments are written.
            readers: The profiles in force.
        """
        terms = settings.ingest
        self.book = RouteBook(worker, readers)
        self._limits = TimeLimits(terms.future_s, terms.past_days * 86_400)
        self._writer = TelemetryWriter(worker, hears_all=settings.broker.share_group is None)
        self._welcoming = newcomers(settings, worker)
        self._clocks = None
        if terms.repair_clocks:
            clock_terms = ClockTerms(terms.clock_window_s, terms.clock_tolerance_s)
            self._clocks = ClockKeeper(worker, clock_terms)

    async def write(self, arrivals: Arrivals) -> None:
        """Write messages wholly and durably.

        Args:
            arrivals: They.

        Raises:
            DatabaseUnavailable: It is not known to be written; call again with the same.
            WorkerTaken: Another process holds the worker's name.
        """
        routes = await self.book.routes()
        flush = gather(arrivals, routes, self._limits)
        if self._welcoming is not None and flush.quarantined:
            unknown = [
                entry.index for entry in flush.quarantined if entry.reason is Reason.UNKNOWN_DEVICE
            ]
            if await self._welcoming.welcome(arrivals, unknown, routes):
                routes = await self.book.renew()
                flush = gather(arrivals, routes, self._limits)
        try:
            outcome = await self._writer.write(flush)
        except REFUSED as fault:
            # Refused for what it holds, and would be for ever: find the message, put it aside.
            log.error("the database refuses a flush of %d messages: %s", len(arrivals), fault)  # noqa: TRY400
            if len(arrivals) == 1:
                why = (str(fault).splitlines() or [type(fault).__name__])[0]
                _count(await self._writer.write(refuse(arrivals, routes, shown(why, 200))))
                return
            for half in arrivals.halves():
                await self.write(half)
            return
        _count(outcome)
        for (profile, note), count in flush.notes.items():
            metrics.NOTES.labels(profile, note).inc(count)
        if self._clocks is not None and not outcome.already_written:
            self._clocks.hear(flush.heard, arrivals.flags, arrivals.received_us, outcome.repeated)
            if await self._clocks.repair(routes.clocks):
                self.book.age()


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
    worker = Worker(whereabouts.database_url, terms.worker)
    readers = readers_of(settings)
    consumer = Consumer(
        "ingest",
        session_options(
            settings,
            whereabouts,
            terms.worker,
            filters_for("ingest", settings, readers.profiles),
            terms.max_payload_bytes,
            rest_s=REST_S,
        ),
        flushing(settings, terms.flush_rows, terms.flush_ms / 1_000),
        Intake(settings, worker, readers).write,
    )
    try:
        await take_name(worker, stop)
        await consumer.run(stop)
    finally:
        await worker.close()
