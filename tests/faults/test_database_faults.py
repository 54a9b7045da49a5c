"""The database dies, hangs, refuses or is full while readings come: all of them end in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from smartsite.embedded.postgres import EmbeddedPostgres
from tests.faults.brokers import StartBroker
from tests.faults.databases import kill, new_database, processes, send
from tests.faults.ledger import Ledger
from tests.faults.stage import Report, Stage, staged
from tests.faults.waiting import until, until_slow
from tests.integration.yard import ask

Fault = Callable[[Stage, EmbeddedPostgres], AbstractAsyncContextManager[None]]

TMPFS_BYTES = 160 * 2**20
SPARE_BYTES = 512 * 1024


@asynccontextmanager
async def killed(_: Stage, postgres: EmbeddedPostgres) -> AsyncIterator[None]:
    """kill -9 of the server and all its processes, then a start that recovers."""
    await asyncio.to_thread(kill, postgres)
    yield
    await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def immediately_shut_down(_: Stage, postgres: EmbeddedPostgres) -> AsyncIterator[None]:
    """PostgreSQL's immediate shutdown: sessions are cut, nothing is written down."""
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGQUIT)
    await asyncio.to_thread(postgres.wait)
    yield
    await asyncio.to_thread(postgres.start)


@asynccontextmanager
async def stopped(_: Stage, postgres: EmbeddedPostgres) -> AsyncIterator[None]:
    """The server stands still, its sockets open, as on a machine or a disk that hangs."""
    frozen = processes(postgres)
    send(frozen, signal.SIGSTOP)
    try:
        yield
    finally:
        send(frozen, signal.SIGCONT)


@asynccontextmanager
async def locked(stage: Stage, _: EmbeddedPostgres) -> AsyncIterator[None]:
    """Somebody holds the table of readings; and the service is killed while it waits for that."""
    async with await psycopg.AsyncConnection.connect(stage.database_url) as connection:
        await connection.execute("LOCK TABLE dust_readings IN ACCESS EXCLUSIVE MODE")
        await until_slow(partial(_waits_for_lock, stage.database_url), "the service waits")
        await asyncio.to_thread(stage.service.child.kill)
        stage.service.child.start()
        await until(stage.service.is_ready, "the service is back")
        yield


def _waits_for_lock(database_url: str) -> bool:
    (row,) = ask(
        database_url,
        "SELECT count(*) AS n FROM pg_stat_activity"
        " WHERE application_name = 'smartsite ingest' AND wait_event_type = 'Lock'",
    )
    return bool(row["n"])


@asynccontextmanager
async def out_of_connections(stage: Stage, _: EmbeddedPostgres) -> AsyncIterator[None]:
    """The service's session is ended, and others have taken every place."""
    hogs: list[psycopg.Connection[Any]] = []
    try:
        ended = 0
        while ended < 2:  # the service may be back before its place is taken, or still be leaving
            _take_all_places(stage.database_url, hogs)
            gone = (
                not hogs[0]
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'smartsite ingest'"
                )
                .rowcount
            )
            ended = ended + 1 if gone else 0
            await asyncio.sleep(0.01)
        yield
    finally:
        for hog in hogs:
            hog.close()


def _take_all_places(database_url: str, hogs: list[psycopg.Connection[Any]]) -> None:
    """Connect until that is refused."""
    try:
        while True:
            hogs.append(psycopg.connect(database_url, autocommit=True))
    except psycopg.OperationalError as fault:
        assert "clients" in str(fault) or "connection slots" in str(fault), fault  # noqa: PT017


@asynccontextmanager
async def without_room(stage: Stage, _: EmbeddedPostgres) -> AsyncIterator[None]:
    """PostgreSQL's own error for a full disk, also where no small disk can be had."""
    async with await psycopg.AsyncConnection.connect(
        stage.database_url, autocommit=True
    ) as connection:
        await connection.execute(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER no_room BEFORE INSERT ON segments EXECUTE FUNCTION no_room()"
        )
        yield
        await connection.execute("DROP FUNCTION no_room CASCADE")


FAULTS: list[Fault] = [
    killed,
    immediately_shut_down,
    stopped,
    locked,
    out_of_connections,
    without_room,
]


async def _endure(
    stage: Stage, postgres: EmbeddedPostgres, fault: Fault, hold_s: float = 0.0
) -> None:
    """Let the database fail under load: it is said, and nothing is acknowledged meanwhile."""
    async with fault(stage, postgres):
        acks = await stage.until_said()
        await stage.load.until_more(300)
        await asyncio.sleep(hold_s)
        assert stage.proxy.acks == acks, "something was acknowledged meanwhile"
    await stage.until_usable()
    await stage.load.until_more(300)


async def test_the_database_fails_in_every_way_under_load(
    mortal_postgres: EmbeddedPostgres,
    mortal_database_url: str,
    start_broker: StartBroker,
    service_dir: Path,
    ledger: Ledger,
    report: Report,
) -> None:
    """One after another, in an order of the dice."""
    broker = start_broker("nats-server")
    faults = random.Random(ledger.seed).sample(FAULTS, len(FAULTS))
    names = [fault.__name__ for fault in faults]
    print(names)  # noqa: T201 - shown when it fails
    async with staged(
        service_dir / "role", broker, mortal_database_url, ledger, per_s=500
    ) as stage:
        await stage.until_stored(300)
        for fault in faults:
            await _endure(stage, mortal_postgres, fault)
        found = await stage.settle()
    report(f"{', '.join(names)}: {found}")


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("fault", "hold_s"), [(killed, 30), (stopped, 30), (locked, 140)])
async def test_the_database_fails_for_long_under_load(
    mortal_postgres: EmbeddedPostgres,
    mortal_database_url: str,
    start_broker: StartBroker,
    service_dir: Path,
    ledger: Ledger,
    report: Report,
    fault: Fault,
    hold_s: float,
) -> None:
    """The lock outlasts what a statement may take."""
    broker = start_broker("nats-server")
    async with staged(
        service_dir / "role", broker, mortal_database_url, ledger, per_s=500
    ) as stage:
        await stage.until_stored(300)
        await _endure(stage, mortal_postgres, fault, hold_s)
        found = await stage.settle()
    report(found)


async def test_a_backend_is_killed_under_load(
    mortal_postgres: EmbeddedPostgres,
    mortal_database_url: str,
    start_broker: StartBroker,
    service_dir: Path,
    ledger: Ledger,
    report: Report,
) -> None:
    """kill -9 of the service's own backend: the server ends all sessions and recovers by itself."""
    broker = start_broker("nats-server")
    async with staged(
        service_dir / "role", broker, mortal_database_url, ledger, per_s=600
    ) as stage:
        for _ in range(3):
            await stage.load.until_more(300)
            pid = await asyncio.to_thread(_backend_of_service, mortal_database_url)
            os.kill(pid, signal.SIGKILL)
            await until(partial(_is_gone, pid), "it is gone")
        assert mortal_postgres.alive
        found = await stage.settle()
    report(found)


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def _backend_of_service(database_url: str) -> int:
    """The backend that the service writes by; the server may be recovering."""
    while True:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(database_url) as asking:
            found = asking.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'smartsite ingest'"
            ).fetchone()
            if found is not None:
                return int(found[0])


class FullDisk:
    """A disk of a few hundred megabytes that a server works on, and something that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave nearly nothing."""
        spare = shutil.disk_usage(self.folder).free - SPARE_BYTES
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, spare)

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink()


@pytest.fixture
def small_disk(service_dir: Path) -> Iterator[FullDisk]:
    """A small file system in memory; skips where none may be mounted."""
    folder = Path(tempfile.mkdtemp(dir=service_dir))
    options = f"size={TMPFS_BYTES},mode=755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no file system may be mounted here: a full disk was not tried")
    try:
        yield FullDisk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


async def test_the_disk_is_full(
    small_disk: FullDisk,
    start_broker: StartBroker,
    service_dir: Path,
    ledger: Ledger,
    report: Report,
) -> None:
    broker = start_broker("nats-server")
    with (
        EmbeddedPostgres(
            small_disk.folder / "postgres",
            settings={"max_wal_size": "32MB", "min_wal_size": "32MB"},
        ) as postgres,
        new_database(postgres) as url,
    ):
        async with staged(service_dir / "role", broker, url, ledger, per_s=600) as stage:
            await stage.until_stored(500)
            small_disk.fill()
            acks = await stage.until_said()
            assert "No space left on device" in stage.service.said()
            await stage.load.until_more(500)
            assert stage.proxy.acks == acks, "something was acknowledged meanwhile"
            small_disk.free()
            # As `smartsite run` does, should it have been too full to go on at all.
            await asyncio.to_thread(postgres.start)
            await stage.until_usable()
            await stage.load.until_more(500)
            found = await stage.settle()
    report(found)
