"""The role `upkeep`: keeps rollups up to date, lets old things go, and other housekeeping.

It is a list of small jobs, each with its own period. A job that fails says so and is tried again
at its next turn; the others go on. Where two of these roles run, one waits for the other to end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from prometheus_client import Counter, Gauge

from ingest.errors import DatabaseUnavailable, IngestError, RetryUnderWay
from ingest.frame_store import FrameStore
from ingest.pipeline import TimeLimits
from ingest.profiles import Readers
from ingest.quarantine import registry_state, unknown_but_registered
from ingest.repairs import retry_repaired_times
from ingest.retrying import retry
from ingest.store.hypertables import Server, look_at_server, size_chunks, turn_into_columns
from ingest.store.queries import load_queries
from ingest.store.retention import Aging, Retention
from ingest.store.rollups import Rollups
from ingest.store.worker import connect, declared
from smartsite.profiles import readers_of
from smartsite.services import Whereabouts
from smartsite.settings import Settings

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).parents[2] / "ingest" / "store" / "sql" / "upkeep.sql")

LONGEST_DELAY_S = 10.0
STANDBY_S = 5.0
"""How often the second of two looks whether the first has gone."""

TURN_S = 10.0
"""A job that has much to do lets the others have their turn after this."""

STRANGERS_AT_ONCE = 20_000

FAILURES = Counter("smartsite_upkeep_failures", "jobs of the upkeep that failed", ["job"])
AGED_OUT = Counter("smartsite_aged_out", "what was removed for its age", ["what"])
BEHIND = Gauge(
    "smartsite_rollup_segments_behind",
    "segments that are not in the rollups yet",
    multiprocess_mode="livesum",
)


@dataclass(slots=True)
class Upkeep:
    """What jobs work with.

    Attributes:
        connection: In autocommit, with time for long statements.
        settings: All settings.
        whereabouts: The database.
        server: What it can do.
        rollups: Their keeper.
        turned: Chunks that were turned into columns in this round.
        registry: As it was when quarantined strangers were last looked for; twice, for the roles
            that consume go on with an old one for a while.
        clocks_until: Up to when decisions about clocks were looked for.
        readers: The profiles in force.
    """

    connection: psycopg.AsyncConnection[Any]
    settings: Settings
    whereabouts: Whereabouts
    server: Server
    rollups: Rollups
    turned: set[str] = field(default_factory=set)
    registry: tuple[object, object] = (None, None)
    clocks_until: datetime | None = None
    readers: Readers = field(default_factory=Readers)


class Job(NamedTuple):
    """One piece of housekeeping.

    Attributes:
        name: For logs and metrics.
        every_s: From its end to its next turn, seconds.
        first_s: From the start of the role to its first turn, seconds.
        run: Does it; returns whether there is more to do at once.
    """

    name: str
    every_s: float
    first_s: float
    run: Callable[[Upkeep], Awaitable[bool]]


async def roll_up(upkeep: Upkeep) -> bool:
    """Bring new readings into the rollups."""
    await upkeep.rollups.step()
    BEHIND.set(upkeep.rollups.behind)
    return upkeep.rollups.behind > 0


async def age_out(upkeep: Upkeep) -> bool:
    """Let go what is older than the settings want."""
    enough_at = time.monotonic() + TURN_S
    aging = Aging(
        upkeep.connection,
        upkeep.server,
        Retention(**upkeep.settings.retention.model_dump()),
        FrameStore(upkeep.settings.frame_dir),
        datetime.now(UTC),
        lambda: time.monotonic() > enough_at,
    )
    try:
        return not await aging.run()
    finally:
        for what, count in sorted(aging.gone.items()):
            AGED_OUT.labels(what).inc(count)
            log.info("aged out: %d of %s", count, what)
        for said in aging.said:
            log.warning("%s", said)


async def turn_columns(upkeep: Upkeep) -> bool:
    """Turn old chunks into columns, one a turn."""
    days = upkeep.settings.columnstore.after_days
    if not days:
        return False
    before = datetime.now(UTC) - timedelta(days=days)
    chunk = await turn_into_columns(upkeep.connection, upkeep.server, before, upkeep.turned)
    if chunk is None:
        upkeep.turned.clear()
        return False
    log.info("turned into columns: %s", chunk)
    return True


async def fit_chunks(upkeep: Upkeep) -> bool:
    """Fit the size of new chunks to the rate."""
    await size_chunks(upkeep.connection, upkeep.server, datetime.now(UTC))
    return False


async def take_back(upkeep: Upkeep) -> bool:
    """Read again what was put aside as unknown, once its device is registered."""
    state = await registry_state(upkeep.connection)
    if upkeep.registry == (state, state):
        return False
    rows = await unknown_but_registered(upkeep.connection, STRANGERS_AT_ONCE)
    back = 0
    if rows:
        terms = upkeep.settings.ingest
        try:
            done = await retry(
                upkeep.whereabouts.database_url,
                rows,
                TimeLimits(terms.future_s, terms.past_days * 86_400),
                datetime.now(UTC),
                frames=FrameStore(upkeep.settings.frame_dir),
                readers=upkeep.readers,
            )
        except RetryUnderWay:
            return False  # by somebody else; the next turn looks what that has left
        back = done.back
        log.info("of %d messages put aside as unknown, %d came back", done.messages, back)
    if len(rows) == STRANGERS_AT_ONCE and back:
        return True
    upkeep.registry = (upkeep.registry[1], state)
    return False


async def repair_times(upkeep: Upkeep) -> bool:
    """Read again what was put aside for its time, once the device's clock is known to be off."""
    terms = upkeep.settings.ingest
    try:
        done, upkeep.clocks_until = await retry_repaired_times(
            upkeep.whereabouts.database_url,
            TimeLimits(terms.future_s, terms.past_days * 86_400),
            datetime.now(UTC),
            upkeep.clocks_until,
            upkeep.readers,
        )
    except RetryUnderWay:
        return False  # the next turn looks for the same decisions again
    if done.messages:
        log.info("of %d messages put aside for their time, %d came back", done.messages, done.back)
    return False


JOBS = (
    Job("rollups", 60.0, 0.0, roll_up),
    Job("strangers", 10.0, 5.0, take_back),
    Job("clocks", 30.0, 20.0, repair_times),
    Job("columns", 3_600.0, 120.0, turn_columns),
    Job("chunks", 86_400.0, 180.0, fit_chunks),
    Job("retention", 6 * 3_600.0, 300.0, age_out),
)
"""What there is to do. Minutes are computed anew when a segment touches them: asking for them more
often costs more and shows little sooner."""


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Keep up until told to stop; a database that is away is waited for.

    Args:
        settings: All settings.
        whereabouts: Where the database is.
        stop: Set from outside.

    Raises:
        ProfileFault: A profile is wrong.
    """
    working = asyncio.create_task(
        _keep_up(settings, whereabouts, JOBS, readers_of(settings)), name="upkeep"
    )
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        # Every job is a matter of whole transactions: it may be cut off anywhere.
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _keep_up(
    settings: Settings, whereabouts: Whereabouts, jobs: tuple[Job, ...], readers: Readers
) -> None:
    delay_s = 0.2
    while True:
        began = time.monotonic()
        try:
            with declared():
                connection = await connect(whereabouts.database_url, "smartsite upkeep")
            async with connection:
                await _work(connection, settings, whereabouts, jobs, readers)
        except DatabaseUnavailable as fault:
            if time.monotonic() - began > LONGEST_DELAY_S:
                delay_s = 0.2
            log.warning("%s; trying again in %.1f s", fault, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)


async def _work(
    connection: psycopg.AsyncConnection[Any],
    settings: Settings,
    whereabouts: Whereabouts,
    jobs: tuple[Job, ...],
    readers: Readers,
) -> None:
    with declared():
        await connection.execute("SET statement_timeout = '1h'")  # a chunk of gigabytes
        await _take_turn(connection)
        server = await look_at_server(connection)
    upkeep = Upkeep(connection, settings, whereabouts, server, Rollups(connection), readers=readers)
    began = time.monotonic()
    due = {job: began + job.first_s for job in jobs}
    while True:
        job = min(due, key=lambda one: due[one])
        await asyncio.sleep(max(0.0, due[job] - time.monotonic()))
        more = await _turn(job, upkeep)
        due[job] = time.monotonic() + (0.0 if more else job.every_s)


async def _take_turn(connection: psycopg.AsyncConnection[Any]) -> None:
    said = False
    while True:
        cursor = await connection.execute(SQL["lock_upkeep"])
        (locked,) = await cursor.fetchone() or (False,)
        if locked:
            return
        if not said:
            log.info("another process keeps up: waiting until it ends")
            said = True
        await asyncio.sleep(STANDBY_S)


async def _turn(job: Job, upkeep: Upkeep) -> bool:
    try:
        return await job.run(upkeep)
    except (psycopg.Error, IngestError, OSError) as fault:
        FAILURES.labels(job.name).inc()
        if upkeep.connection.closed:
            raise DatabaseUnavailable(f"{job.name}: {fault}") from fault
        log.error("%s failed, and is tried again in %.0f s: %s", job.name, job.every_s, fault)  # noqa: TRY400
        return False
