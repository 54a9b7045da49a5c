"""Nothing acknowledged is lost and nothing is stored twice: the database away, the role killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ingest.store.migrate import migrate
from smartsite.embedded.broker import EmbeddedBroker
from smartsite.embedded.postgres import EmbeddedPostgres
from tests.integration.service.roles import (
    PATIENCE_S,
    ROLES,
    Service,
    device_of,
    publish_all,
    until,
)
from tests.integration.yard import ask, balance_of, telemetry


@pytest.fixture
def quick_broker(service_dir: Path) -> Iterator[EmbeddedBroker]:
    """A broker of the test's own that sends again soon what is not acknowledged."""
    with EmbeddedBroker(service_dir / "broker", ack_wait_seconds=1.0) as broker:
        yield broker


def service_on(broker: EmbeddedBroker, database_url: str, folder: Path) -> Service:
    service = Service(broker, database_url, "outage", folder, {role: role for role in ROLES})
    service.register()
    return service


def readings(service: Service, start: int, count: int) -> list[tuple[str, bytes]]:
    """Distinct readings, numbered by their time."""
    epoch = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return [
        (
            service.topic(f"dust-{1 + number % 2}"),
            telemetry(epoch + timedelta(milliseconds=number), pm10_ug_m3=number),
        )
        for number in range(start, start + count)
    ]


def require_all(service: Service, count: int) -> None:
    """Every reading is there once, and the balance adds up."""
    (row,) = ask(
        service.database_url,
        "SELECT count(*) AS rows, count(DISTINCT pm10_ug_m3) AS numbers FROM dust_readings",
    )
    assert row == {"rows": count, "numbers": count}
    balance = balance_of(service.database_url)
    assert balance.received == count + balance.duplicate
    assert balance.quarantined == 0
    assert balance.adds_up
    (gaps,) = ask(service.database_url, "SELECT max(number) - count(*) AS n FROM segments")
    assert gaps["n"] == 0


def numbers(service: Service) -> int:
    (row,) = ask(service.database_url, "SELECT count(DISTINCT pm10_ug_m3) AS n FROM dust_readings")
    return int(row["n"])


async def test_the_database_goes_away_while_readings_come(
    service_dir: Path, quick_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    postgres = EmbeddedPostgres(service_dir / "postgres")
    await asyncio.to_thread(postgres.start)
    try:
        await asyncio.to_thread(migrate, postgres.url)
        service = service_on(quick_broker, postgres.url, tmp_path)
        async with service.running(), device_of(quick_broker, "outage-device") as publish:
            publishing = asyncio.create_task(publish_all(publish, readings(service, 0, 600)))
            await until(lambda: numbers(service) > 0, "the first are stored")
            await asyncio.to_thread(postgres.stop)
            await publish_all(publish, readings(service, 600, 300))
            await publishing
            await asyncio.to_thread(postgres.start)
            await publish_all(publish, readings(service, 900, 100))
            await until(lambda: numbers(service) == 1_000, "all are stored")
            await service.until_acknowledged()
        require_all(service, 1_000)
    finally:
        await asyncio.to_thread(postgres.stop)


def start_role(service: Service, folder: Path) -> subprocess.Popen[bytes]:
    """The role as a process of its own, as an operator would start it."""
    parts = urlsplit(service.database_url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        health = probe.getsockname()[1]
    file = folder / "smartsite.toml"
    file.write_text(
        f'data_dir = "data"\n'
        f'[broker]\nurl = "{service.broker.url}"\nprefix = "{service.prefix}"\n'
        "keep_reading = true\n"
        f'[database]\nurl = "postgresql://{parts.username}@{parts.hostname}:{parts.port}'
        f'{parts.path}"\npassword = "env:ROLE_DATABASE_PASSWORD"\n'
        f'[health]\nlisten = "127.0.0.1:{health}"\n',
        encoding="utf-8",
    )
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SMARTSITE")}
    command = [sys.executable, "-m", "smartsite", "run", "--role", "ingest", "--config", str(file)]
    with (folder / "role.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=environ | {"ROLE_DATABASE_PASSWORD": parts.password or ""},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


async def test_a_role_is_killed_while_readings_come(
    quick_broker: EmbeddedBroker, database_url: str, tmp_path: Path
) -> None:
    service = service_on(quick_broker, database_url, tmp_path)
    role = start_role(service, tmp_path)
    try:
        # Its session is there before anything is published: what comes then waits for it.
        await until(lambda: role.poll() is not None or _session(service), "the role subscribes")
        async with device_of(quick_broker, "outage-device") as publish:
            publishing = asyncio.create_task(publish_all(publish, readings(service, 0, 1_200)))
            for bound in (1, 400):
                await until(lambda bound=bound: numbers(service) >= bound, "some are stored")  # type: ignore[misc]
                os.kill(role.pid, signal.SIGKILL)
                await asyncio.to_thread(role.wait, PATIENCE_S)
                role = start_role(service, tmp_path)
            await publishing
            await publish_all(publish, readings(service, 1_200, 300))  # left to the last one
            await until(lambda: numbers(service) == 1_500, "all are stored")
            await service.until_acknowledged()
        role.terminate()
        assert await asyncio.to_thread(role.wait, PATIENCE_S) == 0
    finally:
        role.kill()
        await asyncio.to_thread(role.wait)
        print((tmp_path / "role.log").read_text("utf-8"))  # noqa: T201 - shown when it fails
    require_all(service, 1_500)


def _session(service: Service) -> bool:
    try:
        service.held()
    except AssertionError:
        return False
    return True
