"""`smartsite bench ingest`: drain a full queue with the real service process, and count the CPU.

A fleet of dust monitors is registered and its readings are queued at the broker for the service's
session; then the role `ingest` is started as its own process and everything is drained into the
database. CPU is user and system time as the kernel accounts it, of the service's process tree,
of the database's and of the broker's; start-up is excluded by measuring a start with nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import psycopg

from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options
from ingest.mqtt.publisher import Publisher
from ingest.registry import import_site_file
from ingest.store.migrate import migrate
from simulators.fleet import fleet_file, payloads
from smartsite.balance import read_balance
from smartsite.bench.stages import where_us
from smartsite.embedded.broker import EmbeddedBroker
from smartsite.embedded.postgres import EmbeddedPostgres
from smartsite.embedded.process import Child
from smartsite.errors import Unavailable
from smartsite.services import password_environment

SITES = 100
DEVICES = 10
DRAIN_TIMEOUT_S = 600.0
FLUSHES = 20
FLUSH_READINGS = 2_000
ROLE = [sys.executable, "-m", "smartsite", "run", "--role", "ingest"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one drain cost.

    Attributes:
        messages: How many were queued.
        readings: How many readings they held.
        messages_per_s: From the start of the service to the last commit.
        cpu_us_per_message: Of the service.
        cpu_us_per_reading: The same by reading.
        db_cpu_us_per_message: Of the database's processes; None where they are not ours to see.
        broker_cpu_us_per_message: Of the broker's; likewise.
        peak_rss_mb: Of the service.
        stored: Rows.
        lost: Readings queued and not stored.
        duplicates: Readings the service counted as there already.
        reference_us: A fixed loop of Python timed in the same run, for other machines.
        cpu_of_reference: `cpu_us_per_message` in units of that loop.
        where_us: CPU of the service a message, by stage (`smartsite.bench.stages`); what no
            stage has is `rest`. `database_wait` is wall time, and no part of the sum.
        runs: Of how many drains the figures are the medians; the least and the greatest CPU of
            the service among them is `cpu_us_range`.
        cpu_us_range: See `runs`.
    """

    messages: int
    readings: int
    messages_per_s: float
    cpu_us_per_message: float
    cpu_us_per_reading: float
    db_cpu_us_per_message: float | None
    broker_cpu_us_per_message: float | None
    peak_rss_mb: float
    stored: int
    lost: int
    duplicates: int
    reference_us: float
    cpu_of_reference: float
    where_us: dict[str, float] | None = None
    runs: int = 1
    cpu_us_range: tuple[float, float] | None = None


FIGURES = (
    "messages_per_s",
    "cpu_us_per_message",
    "cpu_us_per_reading",
    "db_cpu_us_per_message",
    "broker_cpu_us_per_message",
    "peak_rss_mb",
    "reference_us",
    "cpu_of_reference",
)
"""Of these the median is told."""


def reference_us() -> float:
    """Time a fixed loop: what this machine's Python is worth.

    Returns:
        CPU microseconds of a loop of 100 additions and look-ups, best of five.
    """
    table = {number: number for number in range(100)}
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(2_000):
            total = 0
            for number in range(100):
                total += table[number]
        best = min(best, time.process_time() - started)
    return best / 2_000 * 1e6


def _cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process, its children and the children it has waited for."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    times = process.cpu_times()
    return total + times.children_user + times.children_system


async def _queue(
    url: str, messages: int, batch: int, seed: int, say: Callable[[str], None]
) -> None:
    """Queue a fleet's readings at the broker, behind the session the service has left."""
    start_ms = int(time.time() * 1_000) - 86_400_000
    options = Options(url=url, client_id="smartsite-bench-publisher", version=Version.V3_1_1)
    async with Publisher(options) as publisher:
        topics: list[bytes] = []
        bodies: list[bytes] = []
        done = 0
        for topic, payload in payloads(
            SITES, DEVICES, messages, seed, batch=batch, start_ms=start_ms
        ):
            topics.append(topic)
            bodies.append(payload)
            if len(topics) == 20_000:
                await publisher.publish(topics, bodies)
                done += len(topics)
                say(f"queued {done} of {messages}")
                topics, bodies = [], []
        await publisher.publish(topics, bodies)


def _received(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT COALESCE(sum(readings), 0) FROM segments").fetchone()
    return int(row[0]) if row else 0


class _Service:
    """The role `ingest` as a process of its own."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._child = Child(ROLE, name="ingest", env=environment, log=log)

    def start(self) -> psutil.Process:
        self._child.start()
        assert self._child.pid is not None  # noqa: S101 - just started
        return psutil.Process(self._child.pid)

    def stop(self) -> None:
        self._child.stop()

    def require_alive(self) -> None:
        if not self._child.alive:
            raise Unavailable("the service ended: " + " / ".join(self._child.last_lines(5)))


def drain(
    *,
    messages: int,
    batch: int = 1,
    seed: int = 1,
    broker_url: str | None = None,
    database_url: str | None = None,
    where: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Result:
    """Queue messages and drain them with the real service.

    Args:
        messages: How many.
        batch: Readings a message.
        seed: Of the fleet's values.
        broker_url: A broker to use; None starts the embedded one.
        database_url: An empty database to use; None starts the embedded one.
        where: Whether to show by stage where the microseconds go, too.
        say: Told how it goes.

    Returns:
        What it cost.

    Raises:
        Unavailable: The service ended, or did not drain everything in time.
    """
    folder = Path(tempfile.mkdtemp(prefix="smartsite-bench-", dir=_open_folder()))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "postgres") if database_url is None else None
    broker = (
        EmbeddedBroker(folder / "broker", max_ack_pending=16_000) if broker_url is None else None
    )
    try:
        if postgres is not None:
            postgres.start()
            database_url = postgres.url
        if broker is not None:
            broker.start()
            broker_url = broker.url
        assert database_url is not None  # noqa: S101 - given or started
        assert broker_url is not None  # noqa: S101 - likewise
        migrate(database_url)
        with psycopg.connect(database_url) as connection:
            import_site_file(connection, fleet_file(SITES, DEVICES))
        environment = dict(os.environ) | password_environment(database_url)
        environment |= {
            "SMARTSITE_BROKER__URL": broker_url,
            "SMARTSITE_BROKER__KEEP_READING": "true" if broker is not None else "false",
            "SMARTSITE_DATA_DIR": str(folder),
            "SMARTSITE_INGEST__PAST_DAYS": "3650",
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
        }
        service = _Service(environment, folder / "ingest.log")
        say("starting once with nothing to do")
        idle_s = _idle_start(service, folder / "ingest.log")
        say(f"queueing {messages} messages")
        asyncio.run(_queue(broker_url, messages, batch, seed, say))
        result = _measure(
            service, postgres, broker, database_url, messages, messages * batch, idle_s, say
        )
        if not where:
            return result
        say("timing each stage by itself")
        stages = where_us(database_url, broker_url, _flushes(batch, seed))
        known = sum(stages.values()) - stages["database_wait"]
        stages["rest"] = round(result.cpu_us_per_message - known, 2)
        return msgspec.structs.replace(result, where_us=stages)
    finally:
        for each in (broker, postgres):
            if each is not None:
                each.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _flushes(batch: int, seed: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """Messages like those drained, a month older, in flushes of about the size a drain has."""
    size = max(FLUSH_READINGS // batch, 1)
    start_ms = int(time.time() * 1_000) - 31 * 86_400_000
    made = payloads(SITES, DEVICES, FLUSHES * size, seed, batch=batch, start_ms=start_ms)
    for _ in range(FLUSHES):
        yield list(itertools.islice(made, size))


def repeat(
    times: int,
    *,
    messages: int,
    batch: int = 1,
    seed: int = 1,
    broker_url: str | None = None,
    database_url: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Result:
    """Drain several times; where the microseconds go is shown once.

    Args:
        times: How often.
        messages: As in `drain`, and so the others.
        batch: Readings a message.
        seed: Of the fleet's values.
        broker_url: A broker to use.
        database_url: A database to use.
        say: Told how it goes.

    Returns:
        The median of every figure; of what was lost or came twice, the sum.

    Raises:
        Unavailable: As in `drain`.
    """
    results = []
    for number in range(times):
        if times > 1:
            say(f"run {number + 1} of {times}")
        results.append(
            drain(
                messages=messages,
                batch=batch,
                seed=seed,
                broker_url=broker_url,
                database_url=database_url,
                where=number == times - 1,
                say=say,
            )
        )
    return median_of(results)


def median_of(results: Sequence[Result]) -> Result:
    """Make one result of several.

    Args:
        results: At least one; the last may say where the microseconds go.

    Returns:
        The median of every figure; of what was lost or came twice, the sum.
    """
    last = results[-1]
    figures = {}
    for name in FIGURES:
        values = [getattr(result, name) for result in results]
        if None not in values:
            figures[name] = round(statistics.median(values), 3)
    stages = last.where_us
    if stages is not None:
        known = sum(us for name, us in stages.items() if name not in ("rest", "database_wait"))
        stages = stages | {"rest": round(figures["cpu_us_per_message"] - known, 2)}
    cpu = [result.cpu_us_per_message for result in results]
    return msgspec.structs.replace(
        last,
        **figures,
        lost=sum(result.lost for result in results),
        duplicates=sum(result.duplicates for result in results),
        where_us=stages,
        runs=len(results),
        cpu_us_range=(min(cpu), max(cpu)),
    )


def _open_folder() -> str | None:
    """Where an unprivileged database can work, too."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else None  # noqa: S108 - mkdtemp makes it ours


def _idle_start(service: _Service, log: Path) -> float:
    """Start and stop with an empty queue: what starting costs; the session stays behind."""
    process = service.start()
    deadline = time.monotonic() + 60
    while "hearing what" not in log.read_text("utf-8", "replace"):
        service.require_alive()
        if time.monotonic() > deadline:
            raise Unavailable(f"the service did not connect: see {log}")
        time.sleep(0.05)
    cpu = _cpu_s(process)
    service.stop()
    return cpu


def _measure(
    service: _Service,
    postgres: EmbeddedPostgres | None,
    broker: EmbeddedBroker | None,
    database_url: str,
    messages: int,
    readings: int,
    idle_s: float,
    say: Callable[[str], None],
) -> Result:
    watched: dict[str, psutil.Process] = {}
    for name, each in (("db", postgres), ("broker", broker)):
        if each is not None and each.pid is not None:
            watched[name] = psutil.Process(each.pid)
    before = {name: _cpu_s(process) for name, process in watched.items()}
    with psycopg.connect(database_url) as connection:
        earlier = read_balance(connection)
    process = service.start()
    started = time.monotonic()
    peak = 0
    received = 0
    deadline = started + DRAIN_TIMEOUT_S
    while received < readings:
        service.require_alive()
        if time.monotonic() > deadline:
            raise Unavailable(f"only {received} of {readings} readings were drained in time")
        time.sleep(0.1)
        peak = max(peak, _peak_bytes(process))
        received = _received(database_url) - earlier.received
    ended = time.monotonic()
    cpu_s = _cpu_s(process) - idle_s
    costs = {name: _cpu_s(each) - before[name] for name, each in watched.items()}
    service.stop()
    say("drained")
    with psycopg.connect(database_url) as connection:
        balance = read_balance(connection)
    loop_us = reference_us()
    cpu_us = cpu_s / messages * 1e6
    return Result(
        messages=messages,
        readings=readings,
        messages_per_s=round(messages / (ended - started), 1),
        cpu_us_per_message=round(cpu_us, 2),
        cpu_us_per_reading=round(cpu_s / readings * 1e6, 2),
        db_cpu_us_per_message=_per(costs, "db", messages),
        broker_cpu_us_per_message=_per(costs, "broker", messages),
        peak_rss_mb=round(peak / 2**20, 1),
        stored=balance.stored - earlier.stored,
        lost=readings - (balance.stored - earlier.stored),
        duplicates=balance.duplicate - earlier.duplicate,
        reference_us=round(loop_us, 2),
        cpu_of_reference=round(cpu_us / loop_us, 3),
    )


def _peak_bytes(process: psutil.Process) -> int:
    """The most memory a process has had: as Linux knows it, elsewhere what it has now."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{process.pid}/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)


def _per(costs: dict[str, float], name: str, messages: int) -> float | None:
    return round(costs[name] / messages * 1e6, 2) if name in costs else None


def as_dict(result: Result) -> dict[str, Any]:
    """A result for `--json`."""
    return dict(msgspec.to_builtins(result))
