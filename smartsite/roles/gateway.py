"""The role `gateway`: devices that speak HJ 212 over TCP, answered after the commit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import psycopg

from device_profiles.datasheets import Format
from device_profiles.hj212.asking import State
from device_profiles.hj212.commands import Command, clock_set_to, period
from device_profiles.hj212.frames import Tolerance
from device_profiles.hj212.writer import Group
from device_profiles.topics import Address
from device_profiles.vocabulary import Channel
from ingest.errors import DatabaseUnavailable
from ingest.flushing import Flushing
from ingest.gateway import Asks, Gateway, NotConnected, Station
from ingest.link import Limits
from ingest.profiles import Readers
from ingest.registry import RegisteredDevice, Routes, load_routes
from ingest.store.commands import SQL, Ending, Wish, claim_commands, end_command, end_orphans
from ingest.store.worker import Worker, connect, declared
from smartsite.errors import Misconfigured
from smartsite.profiles import readers_of
from smartsite.roles.consuming import take_name
from smartsite.roles.ingest import ROUTES_FRESH_S, Intake
from smartsite.services import Whereabouts
from smartsite.settings import Settings, resolve_secret

log = logging.getLogger(__name__)

MOST_BYTES = 16 * 1024 * 1024
"""What may wait in memory before no socket is read."""

OTHER_FILES = 200
LATER_S = 1.0
"""After the database could not be asked."""

NOT_READABLE = ""
"""In the place of a password that is registered and cannot be read: nobody has it."""


class Secrets:
    """Reads passwords; one that cannot be read is said once."""

    def __init__(self) -> None:
        self._missed: set[str] = set()

    def password_of(self, device: RegisteredDevice) -> str | None:
        """Fetch a device's password.

        Args:
            device: With a reference, or without.

        Returns:
            The password; None where none is registered.
        """
        if device.password is None:
            return None
        try:
            found = resolve_secret(device.password, f"device {device.label}: password")
        except Misconfigured as fault:
            if device.label not in self._missed:
                self._missed.add(device.label)
                log.error("%s; what it sends is not taken", fault)  # noqa: TRY400
            return NOT_READABLE
        self._missed.discard(device.label)
        return found


def stations_of(
    routes: Routes, password_of: Callable[[RegisteredDevice], str | None]
) -> dict[str, Station]:
    """Find the registered devices that speak HJ 212.

    Args:
        routes: The registry.
        password_of: Fetches a device's password.

    Returns:
        They, by MN.
    """
    stations = {}
    for device in routes.devices:
        profile, mn = device.profile, device.external_id
        if mn is None or profile is None or profile.sheet.format is not Format.HJ212:
            continue
        section = profile.sheet.hj212
        tolerated = (*(section.tolerate if section else ()), *device.terms.tolerate)
        address = Address(
            device.district, device.site, device.kind, device.device, Channel.TELEMETRY
        )
        stations[mn] = Station(
            device.id,
            address.topic.encode("ascii"),
            device.label,
            frozenset(Tolerance(name) for name in tolerated),
            password_of(device),
        )
    return stations


def _groups_of(wish: Wish) -> Callable[[], tuple[Group, ...]]:
    if wish.cn == Command.SET_CLOCK:
        return lambda: clock_set_to(datetime.now(UTC))
    if wish.begin_at is None or wish.end_at is None:
        return lambda: ()
    begin, end = wish.begin_at, wish.end_at
    return lambda: period(wish.cn, begin, end)


class Desk:
    """Keeps the gateway's registry fresh, and hands it what people ask of devices."""

    def __init__(
        self, database_url: str, gateway: Gateway, worker: Worker, readers: Readers
    ) -> None:
        """Nothing is asked yet.

        Args:
            database_url: Password included; a connection of its own is used.
            gateway: Whose stations it keeps.
            worker: Whose name commands are taken under.
            readers: The profiles in force.
        """
        self._url = database_url
        self._gateway = gateway
        self._worker = worker
        self._readers = readers
        self._secrets = Secrets()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._ended: list[tuple[int, Ending]] = []
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Read the registry for the first time; a database that is away is waited for."""
        while True:
            try:
                await self._worker.open()
                await self._read_registry()
            except DatabaseUnavailable as fault:
                log.warning("gateway: %s; devices are not heard yet", fault)
                await self._close()
                await asyncio.sleep(LATER_S)
            else:
                return

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                try:
                    await self._turn()
                except DatabaseUnavailable as fault:
                    log.warning("gateway: the registry is read later: %s", fault)
                    await self._close()
                    await asyncio.sleep(LATER_S)
        finally:
            for task in self._asked.values():
                task.cancel()
            await asyncio.gather(*self._asked.values(), return_exceptions=True)
            await self._close()

    async def _turn(self) -> None:
        """Look at the registry, then wait for commands for as long as that stays fresh."""
        await self._read_registry()
        loop = asyncio.get_running_loop()
        until = loop.time() + ROUTES_FRESH_S
        while (left_s := until - loop.time()) > 0:
            connection = await self._open()
            await self._write_endings(connection)
            await self._take_wishes(connection)
            self._changed.clear()
            if not self._ended:
                await self._wait(connection, left_s)

    async def _wait(self, connection: psycopg.AsyncConnection[Any], left_s: float) -> None:
        """Wait for a command, or the end of one."""

        async def told() -> None:
            with declared():
                async for _ in connection.notifies(timeout=left_s, stop_after=1):
                    pass

        listening = asyncio.create_task(told())
        changing = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait((listening, changing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            changing.cancel()
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            with declared():
                self._connection = await connect(self._url, "smartsite gateway desk")
                await self._connection.execute(SQL["listen_commands"])
            if not self._asked:
                await end_orphans(self._connection, self._worker.id, datetime.now(UTC))
        return self._connection

    async def _close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _read_registry(self) -> None:
        connection = await self._open()
        with declared():
            routes = await load_routes(connection, self._readers)
        self._gateway.stations = stations_of(routes, self._secrets.password_of)

    async def _take_wishes(self, connection: psycopg.AsyncConnection[Any]) -> None:
        stations = self._gateway.stations
        connected = {
            stations[mn].id: mn
            for mn in self._gateway.connected
            if mn in stations and stations[mn].id not in self._asked
        }
        if not connected:
            return
        for wish in await claim_commands(connection, self._worker.id, connected, datetime.now(UTC)):
            name = f"command {wish.id}"
            task = asyncio.create_task(self._carry_out(connected[wish.device_id], wish), name=name)
            self._asked[wish.device_id] = task

    async def _carry_out(self, mn: str, wish: Wish) -> None:
        try:
            asking = await self._gateway.ask(mn, wish.cn, _groups_of(wish))
        except (NotConnected, ValueError) as fault:
            ending = Ending("failed", detail=str(fault))
        else:
            ending = Ending(
                "failed" if asking.state is State.PROMISED else str(asking.state),
                asking.qn,
                asking.sendings,
                asking.content,
                asking.request,
                asking.result,
            )
        self._ended.append((wish.id, ending))
        del self._asked[wish.device_id]
        self._changed.set()

    async def _write_endings(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while self._ended:
            command_id, ending = self._ended[0]
            await end_command(connection, command_id, ending, datetime.now(UTC))
            del self._ended[0]


def limits_of(settings: Settings) -> Limits:
    """What the gateway takes, by the settings.

    Args:
        settings: All settings.

    Returns:
        The limits.
    """
    terms = settings.hj212
    return Limits(
        connections=terms.max_connections,
        connections_an_address=terms.max_connections_an_address,
        frames_per_s=terms.frames_per_s,
        bytes_per_s=terms.bytes_per_s,
        idle_s=terms.idle_s,
    )


def _allow_connections(count: int) -> None:
    """Have the system let this process hold so many sockets, beside what else it has open."""
    wanted = count + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "gateway: the system allows %d open files: fewer connections than"
            " hj212.max_connections %d",
            allowed,
            count,
        )


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Hear devices until told to stop.

    Args:
        settings: All settings.
        whereabouts: The database; the broker is not needed.
        stop: Set from outside.

    Raises:
        Misconfigured: There is no address to listen on, it cannot be used, or the database
            refuses us, or the worker's name is taken.
    """
    terms = settings.hj212
    if terms.listen is None:
        raise Misconfigured("hj212.listen is not set: the role gateway needs an address")
    host, _, port = terms.listen.rpartition(":")
    _allow_connections(terms.max_connections)
    worker = Worker(whereabouts.database_url, terms.worker)
    readers = readers_of(settings)
    gateway = Gateway(
        Flushing(settings.ingest.flush_rows, settings.ingest.flush_ms / 1_000, MOST_BYTES),
        Intake(settings, worker, readers).write,
        limits_of(settings),
        Asks(set_clock_over_s=terms.set_clock_over_s),
    )
    desk = Desk(whereabouts.database_url, gateway, worker, readers)
    try:
        await take_name(worker, stop)
        # Who is not known yet must not be taken for a stranger.
        if not await _before(stop, desk.open()):
            return
        working = asyncio.create_task(desk.run(), name="gateway desk")
        serving = asyncio.create_task(gateway.run(host, int(port), stop), name="gateway")
        try:
            await asyncio.wait((working, serving), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            await serving
        except OSError as fault:
            raise Misconfigured(
                f"hj212.listen {terms.listen} cannot be used ({fault.strerror})"
            ) from None
        finally:
            for task in (working, serving):
                task.cancel()
            await asyncio.gather(working, serving, return_exceptions=True)
    finally:
        await worker.close()


async def _before(stop: asyncio.Event, doing: Coroutine[Any, Any, None]) -> bool:
    """Do something unless told to stop; whether it was done."""
    task = asyncio.create_task(doing)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    finally:
        for one in (task, stopping):
            one.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)
