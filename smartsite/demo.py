"""`smartsite demo`: a simulated site, the whole service, two receivers, live in the terminal.

Everything is real: an embedded broker, an embedded PostgreSQL, the role processes under their
supervisor, webhooks over HTTP with checked signatures. Only the site is simulated, and its
limits are stricter than any law, so that a minute shows what takes hours on a real site.

Each run starts with an empty database in the demo's own folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psycopg

from alerts.listing import ListedViolation, violations
from alerts.messages import MessageType
from alerts.receiver import Receiver
from alerts.webhooks import new_secret, parse_secrets
from device_profiles.sites import Recipient
from ingest.registry import import_site_file
from ingest.store.migrate import migrate
from simulators.publish import Counts, run_site
from simulators.site import SimulatedSite
from smartsite.balance import Balance, count_by_kind, messages_written, read_balance
from smartsite.errors import Misconfigured, Unavailable
from smartsite.services import DEMO_FOLDER, Services
from smartsite.settings import ENV_PREFIX, Settings, load_settings, load_site_file
from smartsite.supervisor import Supervisor

log = logging.getLogger(__name__)

SITE_FILE = Path(__file__).parent.parent / "simulators" / "demo_site.toml"
KINDS = ("dust", "crane", "helmet")
MARKER = "this-is-the-demos-own"
"""A file that says: what lies here may be thrown away."""

LOG_VARIABLE = "SMARTSITE_LOG"
SETTLE_S = 30.0
"""How long what is under way at the end is waited for."""

SETTLE_STOPPED_S = 3.0
"""The same after Ctrl-C: somebody is waiting."""

SECRET_VARIABLE = "SMARTSITE_DEMO_{}_SECRET"  # noqa: S105 - a name, not a secret

RULES = """
[rules.dust]
limit_ug_m3 = 150
window_s = 10
bridge_s = 10

[rules.crane]
limit_m = 2.0

[rules.helmet]
min_score = 0.4
"""


@dataclass
class Demo:
    """A demo under way: what the terminal shows and the result is made of.

    Attributes:
        settings: Of the service.
        services: Broker and database.
        receivers: By recipient: the contractor's and the regulator's ends.
        counts: What the simulated site published.
        started: Monotonic time of the start, seconds.
        first_violation_s: When the first violation was stored, seconds from the start.
        found: The violations, as last looked, newest first.
        stored: Rows by kind, as last looked.
        balance: As last looked.
        read: Messages read from ingest's socket, as the service counts them there.
        written: Messages in ingest's raw segments.
        doing: What the demo is doing now, for people.
    """

    settings: Settings
    services: Services
    receivers: dict[str, Receiver]
    counts: Counts = field(default_factory=Counts)
    started: float = field(default_factory=time.monotonic)
    first_violation_s: float | None = None
    found: list[ListedViolation] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)
    balance: Balance = field(default_factory=lambda: Balance(0, 0, 0, 0, 0, 0))
    read: int = 0
    written: int = 0
    doing: str = "starting"


def prepare_folder(settings: Settings) -> Settings:
    """Make the demo's own folder and settings.

    Args:
        settings: The user's; only the data folder counts.

    Returns:
        The demo's settings.
    """
    folder = (settings.data_dir / DEMO_FOLDER).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("frames", "broker", "log"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = folder / "smartsite.toml"
    file.write_text(
        f'data_dir = "."\n[health]\nlisten = "127.0.0.1:{port}"\n{RULES}', encoding="utf-8"
    )
    (folder / MARKER).touch()
    return load_settings(file)


def _own_environment() -> None:
    """Forget settings of the environment: they are the user's, not the demo's."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        if name != LOG_VARIABLE:
            del os.environ[name]


def _empty_database(services: Services) -> None:
    """Drop what the last run left; the folder is the demo's own."""
    if services.postgres is None or not (services.postgres.data_dir.parent / MARKER).exists():
        raise Misconfigured("the demo empties no database but its own")
    name = services.postgres.database
    with psycopg.connect(services.postgres.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
        connection.execute(f'CREATE DATABASE "{name}"'.encode())


def _register(demo: Demo, extra: tuple[str, Path] | None) -> None:
    """Put the demo's site and recipients into the registry."""
    file = load_site_file(SITE_FILE)
    recipients = [
        recipient.model_copy(
            update={
                "url": demo.receivers[recipient.id].url,
                "secret": "env:" + SECRET_VARIABLE.format(recipient.id.upper()),
            }
        )
        for recipient in file.recipient
    ]
    if extra is not None:
        url, secret_file = extra
        recipients.append(
            Recipient(
                id="outside",
                organisation=file.recipient[0].organisation,
                url=url,
                secret=f"file:{secret_file.absolute()}",
            )
        )
    file = file.model_copy(update={"recipient": tuple(recipients)})
    with psycopg.connect(demo.services.database_url) as connection:
        import_site_file(connection, file)


async def _look(demo: Demo) -> None:
    """Look into the database, as an operator would."""
    async with await psycopg.AsyncConnection.connect(
        demo.services.database_url, connect_timeout=5
    ) as connection:
        demo.found = await violations(connection, limit=1_000)
    if demo.found and demo.first_violation_s is None:
        demo.first_violation_s = time.monotonic() - demo.started

    def count() -> tuple[dict[str, int], Balance, int]:
        with psycopg.connect(demo.services.database_url, connect_timeout=5) as connection:
            written = messages_written(connection, demo.settings.ingest.worker)
            return count_by_kind(connection), read_balance(connection), written

    demo.stored, demo.balance, demo.written = await asyncio.to_thread(count)


def _settled(demo: Demo) -> bool:
    """Whether all that was published has come to its end."""
    published = sum(demo.counts.readings.values())
    waiting = any(
        delivery.state == "pending" and delivery.attempts == 0
        for violation in demo.found
        for delivery in violation.deliveries
    )
    return (
        demo.read == demo.written
        and demo.balance.received >= published
        and demo.stored.get("frames", 0) >= demo.counts.frames
        and not waiting
    )


async def run_demo(
    settings: Settings,
    *,
    seconds: float | None,
    seed: int,
    extra: tuple[str, Path] | None,
    show: Callable[[Demo], None],
    stop: asyncio.Event,
) -> Demo:
    """Run the demo.

    Args:
        settings: The user's; only the data folder counts.
        seconds: How long the site is simulated; None until told to stop.
        seed: Of the simulation.
        extra: URL and secret file of one more recipient.
        show: Called twice a second to show how it stands.
        stop: Set from outside.

    Returns:
        The demo as it ended.

    Raises:
        SmartsiteError: Something cannot be started.
    """
    _own_environment()
    settings = prepare_folder(settings)
    services = Services(settings)
    receivers: dict[str, Receiver] = {}
    for name in ("contractor", "regulator"):
        secret = new_secret(secrets.token_bytes(32))
        os.environ[SECRET_VARIABLE.format(name.upper())] = secret
        receivers[name] = Receiver(parse_secrets(secret))
    demo = Demo(settings, services, receivers)
    showing = asyncio.create_task(_show(demo, show))
    try:
        demo.doing = "starting broker and database"
        await asyncio.to_thread(services.start)
        await asyncio.to_thread(_empty_database, services)
        await asyncio.to_thread(migrate, services.database_url)
        for receiver in receivers.values():
            await receiver.start()
        await asyncio.to_thread(_register, demo, extra)
        if not stop.is_set():
            await _supervised(demo, seconds, seed, stop)
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        for receiver in receivers.values():
            await receiver.stop()
        await asyncio.to_thread(services.stop)
    return demo


async def _supervised(demo: Demo, seconds: float | None, seed: int, stop: asyncio.Event) -> None:
    roles_stop = asyncio.Event()
    file = demo.settings.data_dir / "smartsite.toml"
    supervisor = Supervisor(demo.settings, demo.services, file=file)
    supervising = asyncio.create_task(supervisor.run(roles_stop), name="supervisor")
    stopping = asyncio.create_task(stop.wait())
    try:
        demo.doing = "starting the service"
        await _until_listening(demo, supervising, stopping)
        demo.doing = "supervising the site"
        site = asyncio.create_task(
            run_site(
                SimulatedSite(),
                demo.services.broker_url,
                seconds=seconds,
                seed=seed,
                counts=demo.counts,
            ),
            name="simulated site",
        )
        await asyncio.wait((site, stopping, supervising), return_when=asyncio.FIRST_COMPLETED)
        if supervising.done():
            supervising.result()
        if not site.done():
            site.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await site
        demo.doing = "letting what is under way arrive"
        deadline = time.monotonic() + (SETTLE_S if not stop.is_set() else SETTLE_STOPPED_S)
        while True:
            demo.read = await _messages_read(demo)
            await _look(demo)
            if _settled(demo) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
    finally:
        demo.doing = "stopping"
        stopping.cancel()
        roles_stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await supervising


async def _until_listening(
    demo: Demo, supervising: asyncio.Task[None], stopping: asyncio.Task[Any]
) -> None:
    """Wait until both consumers have their subscriptions: what is said before is said to nobody."""
    deadline = time.monotonic() + 60
    url = f"http://{demo.settings.health.listen}/metrics"
    heard = {f'smartsite_broker_connected{{role="{role}"}} 1.0' for role in ("ingest", "frames")}
    async with aiohttp.ClientSession() as session:
        while not stopping.done():
            if supervising.done():
                supervising.result()
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if heard <= set((await response.text()).splitlines()):
                        return
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the service did not come up within a minute: see {demo.settings.data_dir}/log"
                )
            await asyncio.sleep(0.1)


async def _messages_read(demo: Demo) -> int:
    """Ask the service how many messages it has read from ingest's socket."""
    name = 'smartsite_messages_received_total{role="ingest"} '
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{demo.settings.health.listen}/metrics") as response,
    ):
        for line in (await response.text()).splitlines():
            if line.startswith(name):
                return int(float(line.removeprefix(name)))
    return 0


async def _show(demo: Demo, show: Callable[[Demo], None]) -> None:
    while True:
        if demo.doing == "supervising the site":
            with contextlib.suppress(psycopg.Error):
                await _look(demo)
        show(demo)
        await asyncio.sleep(0.5)


def latencies_ms(demo: Demo) -> list[float]:
    """How long each opened violation took, from its deciding reading to the delivered webhook.

    Args:
        demo: As it ended.

    Returns:
        Milliseconds, sorted: for each message of an opened violation taken by a receiver, its
        arrival minus the time at which the device published the newest reading or frame of its
        evidence.
    """
    found = []
    for receiver in demo.receivers.values():
        for received in receiver.received:
            data = received.message.data
            if received.message.type is not MessageType.OPENED or not data.evidence:
                continue
            if data.kind in KINDS:  # of a silence even the newest evidence is old
                decided = max(entry.observed_at for entry in data.evidence)
                found.append((received.at - decided).total_seconds() * 1_000)
    return sorted(found)


def _percentile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    return round(values[min(len(values) - 1, int(share * len(values)))], 1)


def result_of(demo: Demo) -> dict[str, Any]:
    """Sum a demo up.

    Args:
        demo: As it ended.

    Returns:
        What `smartsite demo --json` prints; "ok" says whether everything was seen and told.
    """
    kinds = Counter(violation.kind for violation in demo.found)
    deliveries = Counter(
        str(delivery.state) for violation in demo.found for delivery in violation.deliveries
    )
    published = sum(demo.counts.readings.values())
    values = latencies_ms(demo)
    told = {
        name: {
            received.message.data.kind
            for received in receiver.received
            if received.message.type is MessageType.OPENED
        }
        for name, receiver in demo.receivers.items()
    }
    balance = demo.balance
    missing = [
        *(f"no {kind} violation was stored" for kind in KINDS if not kinds[kind]),
        *(
            f"the {name} was not told of a {kind} violation"
            for name, seen in told.items()
            for kind in KINDS
            if kind not in seen
        ),
    ]
    unaccounted = demo.counts.unconfirmed + demo.counts.resent
    surplus = balance.received - published
    if not balance.adds_up or not 0 <= surplus <= max(balance.redelivered, 0) + sum(
        unaccounted.values()
    ):
        missing.append("the balance does not add up")
    if demo.read != demo.written:
        missing.append(
            f"{demo.read} messages were read from the socket, {demo.written} written down"
        )
    return {
        "ok": not missing,
        "missing": missing,
        "seconds": round(time.monotonic() - demo.started, 1),
        "first_violation_s": demo.first_violation_s and round(demo.first_violation_s, 1),
        "published": published,
        "readings": {kind: demo.stored.get(kind, 0) for kind in ("dust", "crane")},
        "frames": demo.stored.get("frames", 0),
        "violations": {kind: kinds[kind] for kind in (*KINDS, *sorted(kinds.keys() - set(KINDS)))},
        "deliveries": dict(sorted(deliveries.items())),
        "balance": msgspec.to_builtins(balance),
        "messages": {"read": demo.read, "written": demo.written},
        "latency_ms": {"p50": _percentile(values, 0.5), "p99": _percentile(values, 0.99)},
        "data": str(demo.settings.data_dir),
    }
