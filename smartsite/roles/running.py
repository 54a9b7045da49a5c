"""What all role processes share: their signals, their metrics page when alone, their end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

import psycopg

from ingest.store.migrate import require_latest
from smartsite.errors import Misconfigured
from smartsite.health import make_app, serve
from smartsite.services import EMBEDDED, Whereabouts, external_database_url, running
from smartsite.settings import Settings

log = logging.getLogger(__name__)

Role = Callable[[Settings, Whereabouts, asyncio.Event], Awaitable[None]]


def find_services(settings: Settings) -> Whereabouts:
    """Find the broker and the database a role works with.

    Args:
        settings: Where they are, or whose embedded ones are meant.

    Returns:
        Their addresses.

    Raises:
        Misconfigured: They are to be embedded, and no supervisor keeps them.
    """
    found = running(settings)
    embedded = EMBEDDED in (settings.broker.url, settings.database.url)
    if embedded and found is None:
        raise Misconfigured(
            "a role started alone needs broker.url and database.url: embedded services belong to"
            " `smartsite run` without --role"
        )
    broker_url = settings.broker.url
    database_url = ""
    if found is not None and broker_url == EMBEDDED:
        broker_url = found.broker_url
    if found is not None and settings.database.url == EMBEDDED:
        database_url = found.database_url
    return Whereabouts(0, 0.0, broker_url, database_url or external_database_url(settings))


def _require_schema(database_url: str) -> None:
    """Refuse another version's schema; a database that is away is the role's to wait for."""
    try:
        with psycopg.connect(database_url, connect_timeout=10) as connection:
            require_latest(connection)
    except psycopg.OperationalError as fault:
        log.warning("the schema cannot be looked at yet: %s", str(fault).splitlines()[0])


async def run_role(name: str, role: Role, settings: Settings) -> None:
    """Run one role until it is told to stop.

    Args:
        name: Of the role.
        role: What to run.
        settings: All settings.

    Raises:
        Misconfigured: It cannot work until a person helps.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    whereabouts = find_services(settings)
    await asyncio.to_thread(_require_schema, whereabouts.database_url)
    runner = None
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        app = make_app(whereabouts.database_url, settings, lambda: {name: "running"}, None)
        try:
            runner = await serve(app, settings.health.listen)
        except OSError as fault:
            raise Misconfigured(
                f"health.listen {settings.health.listen} cannot be used ({fault.strerror}):"
                " give each role started alone its own"
            ) from None
    try:
        await role(settings, whereabouts, stop)
    finally:
        if runner is not None:
            await runner.cleanup()
