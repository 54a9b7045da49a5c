"""`smartsite run`: all roles under the supervisor, or one role alone."""

from __future__ import annotations

import asyncio
import logging
import signal
from importlib import import_module
from pathlib import Path

import psycopg

from ingest.registry import import_site_file
from ingest.store.migrate import migrate
from smartsite.checking import require_profiles
from smartsite.profiles import readers_of
from smartsite.roles.running import run_role
from smartsite.services import Services
from smartsite.settings import Settings, load_site_file
from smartsite.supervisor import Supervisor

log = logging.getLogger(__name__)


async def run_alone(name: str, settings: Settings) -> None:
    """Run one role in this process.

    Args:
        name: One of `smartsite.supervisor.ROLES`.
        settings: All settings.
    """
    # A role brings its libraries along: the model runtime belongs to one of them only.
    role = import_module(f"smartsite.roles.{name}")
    await run_role(name, role.run, settings)


async def run_all(settings: Settings, file: Path | None) -> None:
    """Run everything until a signal comes.

    Args:
        settings: All settings.
        file: The settings file, for the role processes.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    services = Services(settings)
    try:
        await asyncio.to_thread(prepare, settings, services)
        log.info("broker: %s", services.broker_url)
        log.info("health and metrics: http://%s", settings.health.listen)
        await Supervisor(settings, services, file=file).run(stop)
    finally:
        await asyncio.to_thread(services.stop)


def prepare(settings: Settings, services: Services) -> None:
    """Start the services, bring the schema up to date and register the site files.

    Args:
        settings: Which site files.
        services: Not started yet.
    """
    services.start()
    before, after = migrate(services.database_url)
    if before != after:
        log.info("the schema was brought from %s to %s", before or "empty", after)
    profiles = readers_of(settings).profiles
    for path in settings.site_files:
        file = load_site_file(path)
        require_profiles(file, str(path), profiles)
        with psycopg.connect(services.database_url) as connection:
            import_site_file(connection, file)
