"""The role `judge`: wakes at every commit, and now and then, and judges what is new."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from prometheus_client import Gauge

from alerts.sharing import Sharing
from ingest.errors import DatabaseUnavailable
from ingest.frame_store import FrameStore
from ingest.store.worker import connect, declared
from smartsite.judge import Judge
from smartsite.services import Whereabouts
from smartsite.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 1.0
PATIENCE = timedelta(seconds=5)
"""How long a reading may be under way before silence counts."""

LONGEST_DELAY_S = 10.0

BEHIND = Gauge(
    "smartsite_judge_segments_behind", "segments not judged yet", multiprocess_mode="livesum"
)


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Judge until told to stop; a database that is away is waited for.

    Args:
        settings: The rules.
        whereabouts: Where the database is.
        stop: Set from outside.
    """
    delay_s = 0.2
    while not stop.is_set():
        try:
            await _judge(settings, whereabouts, stop)
        except DatabaseUnavailable as fault:
            log.warning("%s; trying again in %.1f s", fault, delay_s)
            try:
                await asyncio.wait_for(stop.wait(), delay_s)
            except TimeoutError:
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
        else:
            delay_s = 0.2


async def _judge(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    with declared():
        connection = await connect(whereabouts.database_url, "smartsite judge")
    async with connection:
        with declared():
            await connection.execute("LISTEN segments")
            await connection.execute("LISTEN registry")
            sharing = Sharing(FrameStore(settings.frame_dir), FrameStore(settings.shared_dir))
            judge = Judge(connection, settings.rules, sharing)
            watched = await judge.start(datetime.now(UTC))
            log.info("judging %d subjects", watched)
            while not stop.is_set():
                await judge.step(datetime.now(UTC))
                BEHIND.set(judge.behind)
                await judge.tick(datetime.now(UTC), PATIENCE)
                # To the end first: while the generator runs, the connection is its alone.
                notices = [
                    notice async for notice in connection.notifies(timeout=POLL_S, stop_after=1)
                ]
                if any(notice.channel == "registry" for notice in notices):
                    watched = await judge.start(datetime.now(UTC))
                    log.info("the registry has changed: judging %d subjects", watched)
