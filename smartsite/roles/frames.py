"""The role `frames`: pictures, on a connection of their own: they never delay a crane."""

from __future__ import annotations

import asyncio
import time

from ingest import metrics
from ingest.consumer import Consumer
from ingest.fetching import Fetcher
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import Arrivals, Scope, TimeLimits
from ingest.store.worker import Worker
from smartsite.profiles import filters_for, readers_of
from smartsite.roles.consuming import flushing, session_options, take_name
from smartsite.roles.ingest import RouteBook, newcomers
from smartsite.services import Whereabouts
from smartsite.settings import Settings

STALE_S = 3_600.0
"""A half-written file this old belongs to a process that was killed."""

FLUSH_FRAMES = 64
FLUSH_AFTER_S = 0.02
"""A picture should be looked at soon; some 50 cameras' pictures still share a commit."""


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Take frames in until told to stop.

    Args:
        settings: All settings.
        whereabouts: Broker and database.
        stop: Set from outside.

    Raises:
        Misconfigured: Broker or database refuse us, or the worker's name is taken.
        ProfileFault: A profile is wrong.
    """
    limits = TimeLimits(settings.ingest.future_s, settings.ingest.past_days * 86_400)
    readers = readers_of(settings)
    worker = Worker(whereabouts.database_url, settings.frames.worker)
    book = RouteBook(worker, readers)
    store = FrameStore(settings.frame_dir)
    await asyncio.to_thread(store.sweep, time.time() - STALE_S)
    fetcher = Fetcher(settings.frames.fetch_from)
    writer = FrameWriter(worker, store, limits, fetcher)
    welcoming = newcomers(settings, worker)

    async def write(arrivals: Arrivals) -> None:
        routes = await book.routes()
        if welcoming is not None and await welcoming.welcome(
            arrivals, range(len(arrivals)), routes
        ):
            routes = await book.renew()
        outcome = await writer.write(arrivals, routes)
        metrics.FRAMES.inc(outcome.stored)
        for reason, count in outcome.quarantined.items():
            metrics.QUARANTINED.labels(Scope.FRAME, reason).inc(count)
        for what, count in outcome.reported.items():
            metrics.REPORTED.labels(what).inc(count)
        for (profile, note), count in outcome.notes.items():
            metrics.NOTES.labels(profile, note).inc(count)

    consumer = Consumer(
        "frames",
        session_options(
            settings,
            whereabouts,
            settings.frames.worker,
            filters_for("frames", settings, readers.profiles),
            settings.frames.max_payload_bytes,
        ),
        flushing(settings, FLUSH_FRAMES, FLUSH_AFTER_S),
        write,
    )
    try:
        await take_name(worker, stop)
        await consumer.run(stop)
    finally:
        await fetcher.close()
        await worker.close()
