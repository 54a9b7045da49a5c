"""The role `frames`: pictures, on a connection of their own: they never delay a crane."""

from __future__ import annotations

import asyncio
import time

from ingest import metrics
from ingest.consumer import Consumer
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import Arrivals, Scope, TimeLimits
from ingest.store.worker import Worker
from smartsite.roles.consuming import flushing, session_options
from smartsite.roles.ingest import RouteBook
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
    """
    limits = TimeLimits(settings.ingest.future_s, settings.ingest.past_days * 86_400)
    worker = Worker(whereabouts.database_url, settings.frames.worker)
    book = RouteBook(worker)
    store = FrameStore(settings.frame_dir)
    await asyncio.to_thread(store.sweep, time.time() - STALE_S)
    writer = FrameWriter(worker, store, limits)

    async def write(arrivals: Arrivals) -> None:
        outcome = await writer.write(arrivals, await book.routes())
        metrics.FRAMES.inc(outcome.stored)
        for reason, count in outcome.quarantined.items():
            metrics.QUARANTINED.labels(Scope.FRAME, reason).inc(count)

    consumer = Consumer(
        "frames",
        session_options(
            settings,
            whereabouts,
            settings.frames.worker,
            ("site/+/camera/+/frame/+",),
            settings.frames.max_payload_bytes,
        ),
        flushing(settings, FLUSH_FRAMES, FLUSH_AFTER_S),
        write,
    )
    try:
        await consumer.run(stop)
    finally:
        await worker.close()
